"""The smallest model within a budget: a search over pruning, low-rank factors and precision, on validation alone."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from limbeck import evaluate, export
from limbeck.core.errors import DivergedError, UserError
from limbeck.core.files import write_json
from limbeck.core.formats import FORMATS, TRAINED, file_format
from limbeck.core.hashing import fingerprint
from limbeck.core.result import BudgetSearch
from limbeck.core.seeding import derive_seed
from limbeck.data import targets
from limbeck.pipeline.compress import Variant, rebuild, run_steps
from limbeck.pipeline.context import RunContext
from limbeck.pipeline.export import Sources, file_of, predicted, standardised
from limbeck.pipeline.stage_results import SearchResult
from limbeck.pipeline.stages import Stages
from limbeck.pipeline.train_students import student_as_teacher
from limbeck.pipeline.train_teachers import TeacherSource
from limbeck.pipeline.trained import TrainedModel
from limbeck.pipeline.trials import begun, finish, opened
from limbeck.recipe import Deployable, Recover, Step
from limbeck.recipe.stages import SEARCH
from limbeck.tasks import main_metric, rules

if TYPE_CHECKING:
    from optuna import Study, Trial

ENERGIES = (1.0, 0.95, 0.9, 0.8, 0.7)  # 1 factorises nothing
LARGEST_RATIO, RATIO_STEP = 0.875, 0.125
FIRST = ((0.0, 1.0), (0.5, 1.0), (0.75, 1.0), (0.0, 0.8))  # ratio, energy
TIMED_CALLS = 200


@dataclass(frozen=True)
class TrialSettings:
    """What a trial does to the student, and the precision of its file."""

    ratio: float
    energy: float
    precision: str

    def steps(self, recover: Recover) -> list[Step]:
        """The same as steps of a recipe."""
        found: list[dict[str, Any]] = []
        if self.ratio:
            found.append({"prune": self.ratio})
        if self.energy < 1:
            found.append({"factorise": self.energy})
        given = recover.model_dump(exclude_unset=True)
        return [Step.model_validate({**step, "recover": given}) for step in found]

    def format(self, runtime: str) -> Deployable:
        """The name of its file's format."""
        return runtime if self.precision == "float32" else f"{runtime}-{self.precision}"  # type: ignore[return-value]


def search(job: RunContext, starts: Sequence[TrainedModel], source: TeacherSource | None) -> BudgetSearch:
    """Find the smallest file that keeps to the budget, made of the student that is best on validation.

    A file keeps to it unless the validation rows show that it loses more than is allowed (see `evaluate.loss`). Trials
    are kept below `budget/` in the run directory, and a search that was interrupted goes on.

    Args:
        job: the run; its test split is not looked at.
        starts: the uncompressed students.
        source: whom they learned from.

    Returns:
        Every trial, and the winner where one keeps to the budget.
    """
    spec = job.recipe.budget
    assert spec is not None
    metric = main_metric(job.data.task)
    start = metric.best(starts, key=lambda s: s.result.val[metric.name])
    teacher = source or student_as_teacher(job, start, [job.key(job.recipe.student, start.seed)])
    key = fingerprint(job.key(job.recipe.student, start.name, *teacher.keys), spec.model_dump(mode="json"))

    def compute(folder: Path) -> SearchResult:
        blind = replace(job, data=replace(job.data, test=job.data.test[:0]))
        asked = spec.model_dump(mode="json", exclude={"trials"})
        before = evaluate.predict(rebuild(job, start.weights).eval(), job.data, job.data.val)
        with opened(folder / "search.db", {"budget": asked, "start": start.name}, higher=False, name="budget") as study:
            course, each = job.progress.course, job.progress.course.work / spec.trials
            course.skip(each * len(records(study)))
            while len(done := records(study)) < spec.trials:
                trial, settings = _following(study, spec.runtime)
                outcome = _tried(blind, settings, start, before, teacher, folder / "trials" / str(trial.number))
                finish(study, trial, outcome)
                course.reach(each * (len(done) + 1))
                job.progress.say(_line(trial.number, spec.trials, settings, outcome))
            found = _found(job, start, done)
        write_json(folder / "budget.json", found)
        job.progress.say(found["words"])
        return SearchResult.model_validate({**found, "files": [f"{SEARCH}/budget.json"]})

    return job.stages.alone(SEARCH, key, SearchResult, compute)


def records(study: Study) -> list[dict[str, Any]]:
    """Every trial that came to an end, as plain values."""
    return [trial.user_attrs["told"] for trial in begun(study) if "told" in trial.user_attrs]


def _following(study: Study, runtime: str) -> tuple[Trial, TrialSettings]:
    """The next trial: a few usual ways first, then what the tree-structured Parzen estimator chooses."""
    import optuna
    from optuna.trial import TrialState

    trials = study.get_trials(deepcopy=False)
    running = [trial for trial in trials if trial.state == TrialState.RUNNING]
    number = running[0].number if running else len(begun(study))
    study.sampler = optuna.samplers.TPESampler(seed=derive_seed("budget", number) % 2**32, n_startup_trials=len(FIRST))
    precisions = (*FORMATS[runtime].searched, "float32")
    if running:
        trial = optuna.Trial(study, running[0]._trial_id)
    else:
        if number < len(FIRST) and len(trials) == number:
            ratio, energy = FIRST[number]
            study.enqueue_trial({"ratio": ratio, "energy": energy, "precision": precisions[0]})
        trial = study.ask()
    ratio = trial.suggest_float("ratio", 0.0, LARGEST_RATIO, step=RATIO_STEP)
    energy = float(trial.suggest_categorical("energy", ENERGIES))
    return trial, TrialSettings(ratio, energy, str(trial.suggest_categorical("precision", precisions)))


def _tried(
    job: RunContext, settings: TrialSettings, start: TrainedModel, before: Tensor, source: TeacherSource, folder: Path
) -> dict[str, Any]:
    """A trial, its file measured on validation, where the uncompressed student predicts `before`."""
    spec = job.recipe.budget
    assert spec is not None
    steps, format_ = settings.steps(spec.recover), settings.format(spec.runtime)
    outcome: dict[str, Any] = {
        "way": asdict(settings), "format": format_,
        "steps": [s.model_dump(mode="json", exclude_unset=True) for s in steps],
        "value": None, "reason": None, "within": False,
    }  # fmt: skip
    own = replace(job, folder=folder, stages=Stages(folder, job.accelerator))
    found: dict[str, Any] = {}
    try:
        file = run_steps(own, Variant("trial", steps), start, source, "compressed").weights if steps else start.weights
        found = _measured(job, file, format_, before)
        if _worth_learning(job, found, file, format_, before):
            # Rounding costs too much: the network learns with it instead.
            learned = Step.model_validate({"quantize": 8, "recover": spec.recover.model_dump(exclude_unset=True)})
            begun_at = replace(start, file=file)
            file = run_steps(own, Variant("learned", [learned]), begun_at, source, "compressed").weights
            if (again := _measured(job, file, format_, before, learned=True))["value"] < found["value"]:
                found, outcome["steps"] = (
                    again,
                    [*outcome["steps"], learned.model_dump(mode="json", exclude_unset=True)],
                )
    except (DivergedError, UserError) as error:
        return outcome | found | {"reason": error.what}
    return outcome | found


def _measured(
    job: RunContext, file: Path, format_: Deployable, before: Tensor, *, learned: bool = False
) -> dict[str, Any]:
    """What a network is as a file: its size, time and loss on validation, and how much it exceeds the budget."""
    spec = job.recipe.budget
    assert spec is not None
    with tempfile.TemporaryDirectory(prefix="limbeck-") as scratch:
        path = Path(scratch) / f"trial{export.suffix(format_)}"
        file_of(job, rebuild(job, file).cpu().eval(), format_, path, Sources(Path(scratch)), trained_quantized=learned)
        size_kb = export.size_bytes(path) / 1000
        after, latency_ms = predicted(job, path, file_format(format_).form, job.data.val, calls=TIMED_CALLS)
    assert latency_ms is not None
    lost = _loss(job, before, standardised(job, after))
    over = {
        "accuracy_drop": max(0.0, lost.drop - spec.accuracy_drop) * 10 if not lost.within else 0.0,
        "size_kb": max(0.0, math.log(size_kb / spec.size_kb)) if spec.size_kb else 0.0,
        "latency_ms": max(0.0, math.log(latency_ms / spec.latency_ms)) if spec.latency_ms else 0.0,
    }
    exceeded = [name for name, amount in over.items() if amount]
    # Whatever exceeds the budget comes after all that keeps to it, the nearest first.
    value = math.log(size_kb) + (20 + 5 * sum(over.values()) if exceeded else 0.0)
    return {
        "value": value, "size_kb": size_kb, "latency_ms": latency_ms, "drop": lost.drop, "p_more": lost.p_more,
        "within": not exceeded, "exceeded": exceeded, "learned": learned,
    }  # fmt: skip


def _worth_learning(job: RunContext, found: Mapping[str, Any], file: Path, format_: Deployable, before: Tensor) -> bool:
    """Whether the loss is all that is wrong, and came with the rounding: then training with it may help."""
    spec = job.recipe.budget
    assert spec is not None
    if found["exceeded"] != ["accuracy_drop"] or format_ not in TRAINED or not spec.recover.epochs:
        return False
    return _loss(job, before, evaluate.predict(rebuild(job, file).eval(), job.data, job.data.val)).within


def _loss(job: RunContext, before: Tensor, after: Tensor) -> evaluate.Loss:
    """What predictions for the validation rows lose against those of the uncompressed student."""
    data, spec = job.data, job.recipe.budget
    assert spec is not None
    truth, scaling = targets(data, data.val, "cpu"), data.targets
    if scaling is not None and scaling.log and data.task.width == 1:
        before, after, truth = (scaling.restore(values) for values in (before, after, truth))  # what RMSE is told of
    return evaluate.loss(data.task, before, after, truth, allowed=spec.accuracy_drop)


def _found(job: RunContext, start: TrainedModel, trials: list[dict[str, Any]]) -> dict[str, Any]:
    spec = job.recipe.budget
    assert spec is not None
    measured = [trial for trial in trials if trial["value"] is not None]
    for trial in measured:
        trial["front"] = not any(_dominates(other, trial) for other in measured)
    winner = min((t for t in measured if t["within"]), key=lambda t: t["size_kb"], default=None)
    if winner:
        words = (
            f"the smallest of {len(trials)} trials within the budget: {winner['format']}, {winner['size_kb']:,.0f} kB, "
            f"{winner['latency_ms']:.3f} ms, {_lost(job, winner['drop'])} on validation"
        )
    else:
        nearest = min(measured, key=lambda t: t["value"], default=None)
        near = (
            f"; the nearest: {nearest['format']}, {nearest['size_kb']:,.0f} kB, {nearest['latency_ms']:.3f} ms, "
            f"{_lost(job, nearest['drop'])}"
            if nearest
            else ""
        )
        words = f"none of {len(trials)} trials keeps to the budget{near}"
    return {
        "budget": spec.model_dump(mode="json"), "metric": main_metric(job.data.task).name,
        "start": start.name, "trials": trials, "winner": winner, "words": words,
    }  # fmt: skip


def _dominates(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether one is as good in size, time and metric, and better in one of them."""
    pairs = [(one[key], other[key]) for key in ("size_kb", "latency_ms", "drop")]
    return all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)


def _lost(job: RunContext, drop: float) -> str:
    of = "% of the error" if rules(job.data.task).predicts == "values" else "points"
    return f"{100 * drop:.2f} {of} lost" if drop > 0 else "nothing lost"


def _line(number: int, count: int, settings: TrialSettings, outcome: Mapping[str, Any]) -> str:
    parts = [
        f"{settings.ratio:.0%} pruned" if settings.ratio else "",
        f"energy {settings.energy:g}" if settings.energy < 1 else "",
    ]
    what = ", ".join(
        [*filter(None, parts), settings.precision, *(["trained quantized"] if outcome.get("learned") else [])]
    )
    if outcome["value"] is None:
        return f"budget: trial {number} ({number + 1} of {count}): {what}: failed, {outcome['reason']}"
    kept = "within" if outcome["within"] else "outside"
    return (
        f"budget: trial {number} ({number + 1} of {count}): {what}: {outcome['size_kb']:,.0f} kB, "
        f"{outcome['latency_ms']:.3f} ms, drop {outcome['drop']:+.4f}: {kept}"
    )
