"""A record of trials, on Optuna, that outlives the process."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from limbeck.core.errors import UserError

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.trial import FrozenTrial


@contextmanager
def opened(path: Path, identity: Mapping[str, Any], *, higher: bool, name: str = "losses") -> Iterator[Study]:
    """The record of a search, begun or gone on with.

    It is an SQLite file: a transaction is there wholly or not at all, so the process may be killed at any moment.
    Optuna's journal, killed while it writes, leaves half a line, or a lock that its next reader waits for.

    Args:
        path: the file.
        identity: what is searched, JSON-like; it must be the same as when the search was begun.
        higher: whether higher values are better.
        name: of the search within its file.

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
            study_name=name,
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


def finish(study: Study, trial: Trial, outcome: Mapping[str, Any]) -> None:
    """Record what came out of a trial: its `value`, or the `reason` why it has none."""
    from optuna.trial import TrialState

    trial.set_user_attr("told", dict(outcome))
    if outcome["value"] is None:
        study.tell(trial, state=TrialState.FAIL)
    else:
        study.tell(trial, outcome["value"])
