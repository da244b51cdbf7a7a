"""A search for the loss of the teacher, its weight and its options, on the validation split alone."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from limbeck import __version__, recipe
from limbeck.core.course import Part
from limbeck.core.errors import DivergedError, UserError
from limbeck.core.files import write_json, write_text
from limbeck.core.loss_search import LossSearch, LossTrial, SearchData, SearchedLoss, ranked
from limbeck.core.machine import environment
from limbeck.core.progress import Progress
from limbeck.distill.teachers.external import Function
from limbeck.pipeline import train_teachers
from limbeck.pipeline.context import RunContext
from limbeck.pipeline.outline import teaching
from limbeck.pipeline.setup import checked_recipe, choose_views, dry_run, open_run
from limbeck.pipeline.stages import Stages
from limbeck.pipeline.train_students import train_student
from limbeck.pipeline.train_teachers import TeacherSource
from limbeck.pipeline.trials import finish, opened
from limbeck.pipeline.tune import search
from limbeck.pipeline.tune.space import Candidate, candidates, recipe_with, terms
from limbeck.recipe import Recipe
from limbeck.report.search import write_search
from limbeck.tasks import main_metric

__all__ = ["tune"]

FOLDER = "tune"  # below the run directory, whose teachers it shares
HEAVY = ("*.safetensors", "checkpoint.pt")


def tune(
    source: str | Path | Mapping[str, Any] | Recipe,
    *,
    trials: int,
    out: str | Path | None = None,
    overrides: Iterable[str] = (),
    losses: Sequence[str] = (),
    seeds: int | Sequence[int] | None = None,
    trust: bool = False,
    callables: Mapping[str, Function] | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Search the loss by which the student of a recipe learns best, or go on with a search that was interrupted.

    Every trial trains one student (for each seed) and is scored by the main metric on the validation split, at the
    epoch that the recipe selects. The teachers are those of the run directory, trained if they are not there yet, and
    asked once for all trials. The search is not given the rows of the test split at all.

    Args:
        source: a bundled name, the path of a YAML file, or the recipe, as a mapping or checked.
        trials: how many there are when it is done, those of earlier calls included.
        out: the run directory; `runs/<name of the recipe>` where it is not given.
        overrides: `key=value` texts with dotted keys.
        losses: those to choose from; the recipe's own and the usual ones where none is given.
        trust: whether opening a model may run code; see `limbeck.run`.
        callables: functions that teach; see `limbeck.run`.
        seeds: of the students of each trial, a number of seeds or a list; the recipe's first where it is not given.
        progress: where progress is shown; quiet where it is not given.

    Returns:
        The content of `tune/tune.json` in the run directory; `best.yaml` and `report.html` lie beside it.

    Raises:
        UserError: the recipe has no teacher, a loss does not fit, the run directory belongs to something else, ...
    """
    checked, folder = checked_recipe(source, out, overrides)
    if trials < 1:
        raise UserError(f"is 1 or more, not {trials}", where="--trials")
    if not checked.teachers or checked.student.generations:
        what = "there is nothing to search" if not checked.teachers else "a search does not follow generations"
        raise UserError(f"{what}: it tries the losses by which a student learns from `teachers`", where="limbeck tune")
    chosen = list(range(seeds)) if isinstance(seeds, int) else list(checked.seeds[:1] if seeds is None else seeds)
    if not chosen or len(set(chosen)) < len(chosen):
        raise UserError("is a number of seeds from 1 on, or a list of different ones", where="--seeds")
    with open_run(checked, folder, "tune", trust=trust, callables=callables, progress=progress) as job:
        if job.accelerator.num_processes > 1:
            raise UserError("a search takes one process", where="limbeck tune", hint="start it without torchrun")
        job = replace(job, data=replace(job.data, test=job.data.test[:0]))
        space = candidates(checked, job.data.task.width, losses)
        return _searched(_Setting(job, checked, space, chosen, folder / FOLDER), trials).content()


@dataclass(frozen=True)
class _Setting:
    """What stays the same from trial to trial. `recipe` is the user's; that of `job` has all candidates beside it."""

    job: RunContext
    recipe: Recipe
    space: Sequence[Candidate]
    seeds: Sequence[int]
    folder: Path

    @property
    def higher(self) -> bool:
        """Whether higher scores are better."""
        return main_metric(self.job.data.task).higher

    @property
    def identity(self) -> dict[str, Any]:
        """What makes it this search."""
        space = {c.loss: {option: list(reach) for option, reach in c.ranges.items()} for c in self.space}
        return {"losses": list(space), "seeds": list(self.seeds), "ranges": space}


def _searched(setting: _Setting, count: int) -> LossSearch:
    setting, source = _prepared(setting, count)
    course = setting.job.progress.course
    with opened(setting.folder / "search.db", setting.identity, higher=setting.higher) as study:
        for one in search.records(study):
            if one.state != "interrupted":
                course.leave(_stage(one.number), one.seconds or 0.0, _epochs(setting) if one.seconds else 0)
        try:
            while sum(one.state != "interrupted" for one in search.records(study)) < count:
                trial, candidate, values = search.following(study, setting.space)
                course.enter(_stage(trial.number))
                outcome = _tried(setting, source, trial.number, candidate, values)
                course.leave(_stage(trial.number))
                finish(study, trial, outcome)
                _forget(setting.folder / "trials" / str(trial.number))
                found = _written(setting, search.records(study))
                setting.job.progress.say(_line(found, count))
        finally:
            # What was found so far is there for whoever looks, however the search ended.
            found = _written(setting, search.records(study))
            if found.trials:
                write_search(found, setting.folder / "report.html")
    return found


def _prepared(setting: _Setting, count: int) -> tuple[_Setting, TeacherSource]:
    """Try every candidate with the networks, and train the teachers that are not there."""
    starts = {_variant(c): terms(setting.recipe, c, c.start) for c in setting.space}
    for losses in starts.values():
        recipe_with(setting.recipe, losses)  # whose faults name the loss
    tried = recipe_with(setting.recipe, _given(setting.recipe), compare=starts)
    job, _ = dry_run(replace(setting.job, recipe=tried))
    job, _ = choose_views(job)
    trials = (Part(_stage(number), _epochs(setting), ("trials",)) for number in range(count))
    found = [*teaching(setting.recipe), *trials]
    job.progress.course.plan(found, [part.name for part in found if job.stages.recorded(part.name)])
    teachers = train_teachers.train_teachers(job)
    assert teachers is not None
    return replace(setting, job=job), train_teachers.train_assistants(job, teachers).end


def _stage(number: int) -> str:
    return f"trial{number}"


def _epochs(setting: _Setting) -> int:
    return setting.recipe.student.train.epochs * len(setting.seeds)


def _variant(candidate: Candidate) -> str:
    return f"search-{candidate.loss}"


def _given(checked: Recipe) -> dict[str, Any]:
    return {name: term.model_dump(mode="json", exclude_unset=True) for name, term in checked.losses.items()}


def _tried(
    setting: _Setting, source: TeacherSource, number: int, candidate: Candidate, values: Mapping[str, float]
) -> dict[str, Any]:
    """Train the students of one trial, and what came out of it."""
    losses = terms(setting.recipe, candidate, values)
    folder = setting.folder / "trials" / str(number)
    matching = setting.job.matches["student", source.name, _variant(candidate)]
    own = recipe_with(setting.recipe, losses)
    job = replace(
        setting.job,
        recipe=own,
        folder=folder,
        stages=Stages(folder, setting.job.accelerator),
        matches={("student", source.name, ""): replace(matching, terms=own.losses)},
    )
    outcome: dict[str, Any] = {
        "params": dict(values),
        "losses": losses,
        "value": None,
        "val_loss": None,
        "reason": None,
    }
    try:
        learned = [
            train_student(job, f"trial{number}-seed{seed}", "distilled", seed, source).result for seed in setting.seeds
        ]
    except DivergedError as error:
        return outcome | {"reason": error.what.partition(";")[0]}
    metric = main_metric(job.data.task).name
    scores = [result.val[metric] for result in learned]
    ties = [result.val["loss"] for result in learned]
    outcome["seconds"] = sum(job.stages.seconds.values())
    outcome["cache"] = [stored.model_dump(mode="json") for result in learned for stored in result.cache]
    if not all(math.isfinite(score) for score in (*scores, *ties)):
        return outcome | {"reason": f"the {metric} on validation is not a number"}
    return outcome | {"values": scores, "value": sum(scores) / len(scores), "val_loss": sum(ties) / len(ties)}


def _forget(folder: Path) -> None:
    """Remove the weights of a trial whose score is recorded: only a run of the best recipe makes a student to keep."""
    for pattern in HEAVY:
        for path in folder.rglob(pattern):
            path.unlink()


def _line(found: LossSearch, count: int) -> str:
    """The latest trial and the best one, on one line."""
    trial, metric = found.trials[-1], found.metric
    numbers = ", ".join(f"{option} {value:g}" for option, value in trial.params.items())
    came = f"val {metric} {trial.value:.4f}" if trial.value is not None else f"failed, {trial.reason}"
    best = f"  (best {found.best.score:.4f}, trial {found.best.number})" if found.best else ""
    return f"trial {trial.number} ({trial.number + 1} of {count}): {trial.loss}, {numbers}: {came}{best}"


# --- what came out -------------------------------------------------------------------------------


def _written(setting: _Setting, trials: list[LossTrial]) -> LossSearch:
    """Write tune.json, and best.yaml where there is a best; what they say."""
    checked, data, metric = setting.recipe, setting.job.data, main_metric(setting.job.data.task).name
    best, winner = next(iter(ranked(trials, higher=setting.higher)), None), None
    if best:
        others = checked.model_dump(mode="json", exclude_unset=True, include={"compare"})
        winner = recipe.dump(recipe_with(checked, best.losses, name=f"{checked.name}-best", **others))
        file = setting.folder / "best.yaml"
        score = f"{metric} {best.score:.4f}"
        head = (
            f"# limbeck run {file}\n"
            f"# Losses of the best of {len(trials)} trials ({score} on validation, which chose it and is optimistic).\n"
        )
        write_text(file, head + winner)
    counts = {split: rows for split, rows in data.counts().items() if split != "test"}
    found = LossSearch(
        name=checked.name,
        about=checked.about,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        limbeck=__version__,
        recipe=checked.model_dump(mode="json"),
        recipe_yaml=recipe.dump(checked),
        environment=environment(),
        data=SearchData(name=data.name, task=data.task.kind, counts=counts, fingerprint=data.fingerprint),
        metric=metric,
        higher_is_better=setting.higher,
        seeds=list(setting.seeds),
        space=[SearchedLoss(loss=c.loss, start=dict(c.start), ranges=dict(c.ranges)) for c in setting.space],
        trials=trials,
        best=best,
        best_yaml=winner,
    )
    if trials:
        write_json(setting.folder / "tune.json", found.content())
    return found
