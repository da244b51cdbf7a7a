"""What a search tries next, and its trials as they are recorded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from limbeck.core.loss_search import LossTrial
from limbeck.core.seeding import derive_seed
from limbeck.pipeline.trials import begun
from limbeck.pipeline.tune.space import DIGITS, Candidate

if TYPE_CHECKING:
    from optuna import Study, Trial


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
    numbers = {
        option: trial.suggest_float(f"{chosen.loss}.{option}", low, high, log=True)
        for option, (low, high) in chosen.ranges.items()
    }
    return trial, chosen, {option: float(f"{value:.{DIGITS}g}") for option, value in numbers.items()}


def records(study: Study) -> list[LossTrial]:
    """Every trial that was begun."""
    names = {"COMPLETE": "done", "FAIL": "failed", "RUNNING": "interrupted"}
    return [
        LossTrial.model_validate(
            {
                "number": trial.number,
                "state": names[trial.state.name],
                "loss": trial.params.get("loss"),
                "params": {name.partition(".")[2]: value for name, value in trial.params.items() if name != "loss"},
                **trial.user_attrs.get("told", {}),
            }
        )
        for trial in begun(study)
    ]
