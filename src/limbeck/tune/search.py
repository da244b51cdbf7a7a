"""The search itself, on Optuna: what to try next, and a record of it that outlives the process."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from limbeck.errors import UserError
from limbeck.runtime import derive_seed
from limbeck.tune.space import DIGITS, Candidate

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.trial import FrozenTrial


@contextmanager
def opened(path: Path, identity: Mapping[str, Any], *, higher: bool) -> Iterator[Study]:
    """The record of a search, begun or gone on with.

    It is an SQLite file: a transaction is there wholly or not at all, so the process may be killed at any moment.
    Optuna's journal, killed while it writes, leaves half a line, or a lock that its next reader waits for.

    Args:
        path: the file.
        identity: what is searched, JSON-like; it must be the same as when the search was begun.
        higher: whether higher values are better.

    Raises:
        UserError: the file cannot be read, or belongs to another search.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        storage = optuna.storages.RDBStorage(f"sqlite:///file:{quote(str(path.absolute()))}?uri=true")
        study = optuna.create_study(
            storage=storage,
            study_name="losses",
            direction="maximize" if higher else "minimize",
            load_if_exists=True,
        )
        known = study.user_attrs.get("identity")
    except Exception as error:  # of the database, its driver or Optuna: there is one way out
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"cannot be read ({reason})", where=str(path), hint=_anew(path)) from error
    try:
        now = json.loads(json.dumps(identity))
        if known is None:
            study.set_user_attr("identity", now)
        elif known != now:
            changed = ", ".join(key for key in now if known.get(key) != now[key])
            hint = f"give the command it was begun with, choose another --out, or {_anew(path)}"
            raise UserError(f"this search was begun with other {changed}", where=str(path.parent), hint=hint)
        yield study
    finally:
        storage.remove_session()
        storage.engine.dispose()


def _anew(path: Path) -> str:
    return f"remove {path.parent} to search anew"


def begun(study: Study) -> list[FrozenTrial]:
    """Every trial that was begun, in its order."""
    from optuna.trial import TrialState

    return [trial for trial in study.get_trials(deepcopy=False) if trial.state != TrialState.WAITING]


def following(study: Study, space: Sequence[Candidate]) -> tuple[Trial, Candidate, dict[str, float]]:
    """The trial to make next, its loss and its numbers: one that was interrupted, or a new one.

    The first ones try each candidate where it begins; from then on Optuna's tree-structured Parzen estimator (Bergstra
    et al., 2011) chooses by what came out so far. Its seed is that of the trial's number, so that a search which was
    interrupted asks for the same trials as one that was not.
    """
    import optuna
    from optuna.trial import TrialState

    trials = study.get_trials(deepcopy=False)
    running = [trial for trial in trials if trial.state == TrialState.RUNNING]
    number = running[0].number if running else len(begun(study))
    study.sampler = optuna.samplers.TPESampler(seed=derive_seed("tune", number) % 2**32)
    if running:
        trial = optuna.Trial(study, running[0]._trial_id)
    else:
        if number < len(space) and len(trials) == number:
            first = space[number]
            study.enqueue_trial({"loss": first.loss, **{f"{first.loss}.{o}": v for o, v in first.start.items()}})
        trial = study.ask()
    by_name = {candidate.loss: candidate for candidate in space}
    chosen = by_name[trial.suggest_categorical("loss", list(by_name))]
    asked = {
        option: trial.suggest_float(f"{chosen.loss}.{option}", low, high, log=True)
        for option, (low, high) in chosen.ranges.items()
    }
    return trial, chosen, {option: float(f"{value:.{DIGITS}g}") for option, value in asked.items()}


def finish(study: Study, trial: Trial, told: Mapping[str, Any]) -> None:
    """Record what came out of a trial: its `value`, or the `reason` why it has none."""
    from optuna.trial import TrialState

    trial.set_user_attr("told", dict(told))
    if told["value"] is None:
        study.tell(trial, state=TrialState.FAIL)
    else:
        study.tell(trial, told["value"])


def records(study: Study) -> list[dict[str, Any]]:
    """Every trial that was begun, as plain values."""
    names = {"COMPLETE": "done", "FAIL": "failed", "RUNNING": "interrupted"}
    empty: dict[str, Any] = {
        "value": None,
        "val_loss": None,
        "values": [],
        "seconds": None,
        "reason": None,
        "cache": [],
    }
    return [
        {
            "number": trial.number,
            "state": names[trial.state.name],
            "loss": trial.params.get("loss"),
            "params": {name.partition(".")[2]: value for name, value in trial.params.items() if name != "loss"},
            **empty,
            **trial.user_attrs.get("told", {}),
        }
        for trial in begun(study)
    ]
