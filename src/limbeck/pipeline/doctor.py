"""A look at a whole recipe before a long job: its rows, its teachers, its time and disk. Nothing is trained or kept.

And one at a finished run, whose teachers are asked again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from limbeck import evaluate, recipe
from limbeck.core.errors import UserError
from limbeck.core.files import locked
from limbeck.core.progress import Progress
from limbeck.core.result import read_result
from limbeck.data import targets
from limbeck.distill import cache
from limbeck.distill.teachers import diagnose
from limbeck.distill.teachers.diagnose import Finding, Level
from limbeck.distill.teachers.external import Function
from limbeck.distill.train.accelerator import make_accelerator
from limbeck.pipeline import teacher_outputs, train_teachers
from limbeck.pipeline.context import RunContext
from limbeck.pipeline.forecast import disk_words, forecast, time_words
from limbeck.pipeline.setup import begin, checked_recipe, choose_views, dry_run, likely_views
from limbeck.recipe import Recipe
from limbeck.recipe.model_source import Estimator
from limbeck.recipe.stages import seeded


def checkup(
    source: str | Path | Mapping[str, Any] | Recipe,
    *,
    out: str | Path | None = None,
    overrides: Iterable[str] = (),
    trust: bool = False,
    callables: Mapping[str, Function] | None = None,
    progress: Progress | None = None,
) -> list[Finding]:
    """Look at a recipe before a long job, and say what is wrong and what to write instead.

    Teachers that are brought along are examined, and so are those that the run directory holds already. Validation rows
    are asked about; of the test split only inputs are looked at, for rows that stand twice.

    Args:
        source: a bundled name, the path of a YAML file, or the recipe, as a mapping or checked.
        out: the run directory, in which nothing is written; `runs/<name of the recipe>` where it is not given.
        overrides: `key=value` texts with dotted keys.
        trust: whether opening a model may run code; see `pipeline.run`.
        callables: functions that teach; see `pipeline.run`.
        progress: where progress is shown.

    Raises:
        UserError: whatever would keep the recipe from being run.
    """
    checked, folder = checked_recipe(source, out, overrides)
    progress = progress or Progress(quiet=True)
    job = begin(checked, folder, make_accelerator(checked.run), progress, trust=trust, callables=callables)
    found = [Finding("note", "data", "source", note) for note in job.data.notes]
    found += diagnose.survey(job.data)
    job, _ = dry_run(job)
    job = replace(job, views=likely_views(job))
    found += _teachers(job)
    progress.say("time: a few steps of everything that is trained")
    return found + _forecast(job)


def recheck(
    folder: Path,
    *,
    sample: int = 64,
    trust: bool = False,
    callables: Mapping[str, Function] | None = None,
    progress: Progress | None = None,
) -> dict[str, cache.Reasked]:
    """Ask the teachers and assistants of a finished run again for some rows, and compare with what is stored.

    Args:
        folder: the run directory.
        sample: rows to ask each of them for.
        trust: whether opening a model may run code; see `pipeline.run`.
        callables: functions that teach; see `pipeline.run`.
        progress: where progress is shown.

    Returns:
        What was found, by the name of the teacher.

    Raises:
        UserError: no finished run, one without teachers, or one whose teacher is asked live.
    """
    read_result(folder / "result.json")
    checked, progress = recipe.load(folder / "recipe.yaml"), progress or Progress(quiet=True)
    with locked(folder):
        accelerator = make_accelerator(checked.run, folder)
        job = begin(checked, folder, accelerator, progress, trust=trust, callables=callables)
        job, _ = dry_run(job)
        job, _ = choose_views(job)
        teachers = train_teachers.train_teachers(job)
        if teachers is None or not job.views:
            why = "it has no teacher" if teachers is None else "`views: 0` asks the teacher live"
            raise UserError(f"nothing is stored for this run: {why}", where=str(folder))
        members = [("teachers", member) for member in teachers.members]
        members += [(member[0], member) for member in train_teachers.train_assistants(job, teachers).members]
        found = {}
        for teacher_name, (name, build_it, dtype) in members:
            network = build_it()
            stored = teacher_outputs.stored(job, teacher_name, name, network, dtype)
            fetch = teacher_outputs.fetch(job, stored=False)
            found[name] = cache.reask(stored, teacher_outputs.frozen(job, teacher_name, network, dtype), fetch, sample)
    return found


def _teachers(job: RunContext) -> list[Finding]:
    """Every teacher that knows its job already, against a straight line and the students that are known."""
    found: list[Finding] = []
    others: list[tuple[Tensor, str]] = []
    for spec in job.recipe.teachers:
        fitted = isinstance(spec.source, Estimator)
        if not (spec.knows if not (spec.train or fitted) else job.stages.done(spec.name, job.key(spec))):
            text = "is trained by this recipe: there is nothing to ask it yet"
            text = "is fitted by this recipe, in a time that nobody knows beforehand" if fitted else text
            found.append(Finding("ok", spec.name, "teacher", text))
            continue
        job.progress.say(f"{spec.name}: {spec.model}")
        others = others or _others(job)
        network = job.network(spec, job.source(spec) if spec.train or fitted else None).to(job.device)
        prediction = evaluate.predict(network, job.data, job.data.val, device=job.device)
        own = diagnose.examine(spec.name, network, spec, job.data, prediction, job.device)
        if prediction.isfinite().all():
            own += _worth(job, spec.name, prediction, others)
            own.append(diagnose.precision(spec.name, network, job.data, job.device))
        found += own
    return found


def _others(job: RunContext) -> list[tuple[Tensor, str]]:
    """What others predict for the validation rows that a teacher should be better than, and what they are called."""
    return [diagnose.straight_line(job.data), *_students(job)]


def _worth(job: RunContext, name: str, prediction: Tensor, others: list[tuple[Tensor, str]]) -> list[Finding]:
    data = job.data
    metrics = evaluate.metrics(data.task, prediction, targets(data, data.val, "cpu"), data.targets)
    doubts = diagnose.doubts(name, {k: v for k, v in metrics.items() if isinstance(v, float)}, data)
    return doubts + [diagnose.weaker(name, prediction, data, other, whose) for other, whose in others]


def _students(job: RunContext) -> list[tuple[Tensor, str]]:
    """What a student that is known already predicts for the validation rows, and what it is called."""
    spec = job.recipe.student
    if spec.ready:
        return [(_predicted(job, None), "the student")]
    for seed in job.recipe.seeds:
        if job.stages.done(seeded("student", seed), job.key(spec, seed)):
            file = job.weights(seeded("student", seed), spec.train)
            return [(_predicted(job, file), f"the student alone (seed {seed})")]
    return []


def _predicted(job: RunContext, file: Path | None) -> Tensor:
    network = job.network(job.recipe.student, file).to(job.device)
    return evaluate.predict(network, job.data, job.data.val, device=job.device)


def _forecast(job: RunContext) -> list[Finding]:
    found = forecast(job)
    views = f"{job.views} stored view{'' if job.views == 1 else 's'} of each row"
    findings = [Finding("ok", "job", "time", f"{time_words(found)}; {views}", figures=dict(found.seconds))]
    figures = {"run_bytes": found.run_bytes, "stored_bytes": found.stored_bytes}
    hint = None if found.fits else "make room (`limbeck cache prune`), or choose another --out or LIMBECK_CACHE"
    level: Level = "ok" if found.fits else "warning"
    return [*findings, Finding(level, "job", "disk", disk_words(found, job.folder), hint, figures)]
