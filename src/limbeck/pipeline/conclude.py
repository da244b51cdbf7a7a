"""What came out of a run: comparisons, result.json and the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any

from limbeck import __version__, evaluate, recipe
from limbeck.core.files import write_json, write_text
from limbeck.core.machine import environment
from limbeck.core.metrics import Metric
from limbeck.core.result import SCHEMA as RESULT_SCHEMA
from limbeck.core.result import BudgetSearch, Disagreement, Result, read_result
from limbeck.core.types import Role
from limbeck.data import Data, class_counts
from limbeck.pipeline import train_teachers
from limbeck.pipeline.candidates import measured_models
from limbeck.pipeline.context import RunContext
from limbeck.pipeline.stage_results import MeasuredResult, ModelResult, TeacherResult
from limbeck.pipeline.train_teachers import Teachers
from limbeck.pipeline.trained import TrainedModel
from limbeck.recipe.stages import MEASURED
from limbeck.report import write_report
from limbeck.tasks import main_metric, rules


def conclude(
    job: RunContext,
    teachers: Teachers | None,
    assisted: Mapping[str, TeacherResult],
    students: Sequence[TrainedModel],
    compressed: Sequence[TrainedModel],
    searched: BudgetSearch | None,
    notes: Sequence[str],
) -> dict[str, Any]:
    """Measure every model on the test split, export what is shipped, write result.json and the page."""
    checked, data = job.recipe, job.data
    taught = {**(teachers.results if teachers else {}), **assisted}
    chosen = _choose(job, students)
    keys = list(teachers.keys.values()) if teachers else []
    key = job.key(checked.student, checked.model_dump(mode="json", exclude={"cache": {"strict", "limit_gb"}}), keys)
    compute = partial(measured_models, job, teachers, students, compressed, searched, chosen["name"])
    measured = job.stages.alone(MEASURED, key, MeasuredResult, compute, renew=True)
    models = measured.models
    metric = main_metric(data.task)
    scores = {m.name: m.metrics[metric.name] for m in models if m.format == "pytorch"}
    comparison, comparisons = _comparisons(job, students, scores)
    notes = [*data.notes, *notes, *(n for t in taught.values() for n in t.notes)]
    of_teachers = [m.metrics[metric.name] for m in models if m.role == "teacher"]
    if comparison and of_teachers and metric.gain(of_teachers[-1], mean := comparison["student"]["mean"]) > 0:
        own = f"the teacher ({metric.name} {of_teachers[-1]:.4f} on test)"
        notes.append(f"{own} is worse than the student alone ({mean:.4f} on average)")
    trained: dict[str, ModelResult] = {**taught, **{s.name: s.result for s in (*students, *compressed)}}
    result = Result.model_validate(
        {
            "schema": RESULT_SCHEMA,
            "name": checked.name,
            "about": checked.about,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "limbeck": __version__,
            "recipe": checked.model_dump(mode="json"),
            "recipe_yaml": recipe.dump(checked),
            "environment": environment(),
            "data": _describe(data),
            "models": models,
            "teachers": [{"name": n, "val": t.val, "notes": t.notes} for n, t in taught.items()],
            "ensemble": _ensemble(job, teachers, measured.disagreement),
            "comparison": comparison,
            "comparisons": comparisons,
            "weights": {name: t.weights_found for name, t in trained.items() if t.weights_found},
            "methods": _methods(job, students, scores),
            "compressed": _compressed(job, compressed, scores),
            "budget": searched,
            "chosen": chosen,
            "predictions": measured.predictions,
            "masks": measured.masks,
            "views": job.views,
            "cache": [stored for t in trained.values() for stored in t.cache],
            "curves": {name: t.epochs for name, t in trained.items() if t.epochs},
            "seconds": job.stages.seconds,
            "notes": notes,
        }
    )
    # Only now: what was added to a finished run and failed must not stand in its way.
    write_text(job.folder / "recipe.yaml", recipe.dump(checked))
    content = result.content()
    write_json(job.folder / "result.json", content)
    write_report(read_result(job.folder / "result.json"), job.folder / "report.html")
    return content


def _comparisons(
    job: RunContext, students: Sequence[TrainedModel], scores: Mapping[str, float]
) -> tuple[dict[str, Any] | None, list[dict[str, Any]]]:
    """The student with and without a teacher; and what an assistant and each further generation add."""
    checked = job.recipe
    if not checked.taught:
        return None, []
    metric = main_metric(job.data.task)

    def of(role: Role, generation: int | None = None) -> list[float]:
        return [scores[s.name] for s in students if s.role == role and generation in (None, s.number)]

    final = of("distilled")
    subject = "the teacher"
    if not checked.teachers:
        subject = "learning together" if checked.student.peers else "learning from itself"
    others = []
    if checked.assistants:
        direct = _held(metric, of("direct"), final, "the assistant")
        others.append({"title": "The chain against the student of the teacher itself", **direct})
    count = checked.student.generations or 1
    for number in range(2, count + 1):
        before, after = (of("generation", n) if n < count else final for n in (number - 1, number))
        title = f"Generation {number} against generation {number - 1}"
        others.append({"title": title, **_held(metric, before, after, f"generation {number}")})
    return _held(metric, of("student"), final, subject), others


def _held(metric: Metric, without: Sequence[float], given: Sequence[float], subject: str) -> dict[str, Any]:
    return evaluate.compare(without, given, metric=metric.name, higher_is_better=metric.higher, subject=subject)


def _methods(job: RunContext, students: Sequence[TrainedModel], scores: Mapping[str, float]) -> list[dict[str, Any]]:
    """The student of `losses` and those of `compare`, each held against the student alone; empty without `compare`."""
    checked, metric = job.recipe, main_metric(job.data.task)
    if not checked.compare:
        return []
    alone = [scores[s.name] for s in students if s.role == "student"]
    found = []
    for name, terms in {"distilled": checked.losses, **checked.compare}.items():
        own = [s for s in students if (s.variant or s.role) == name]
        weights = [s.result.weights_found for s in own]
        found.append(
            {
                "name": name,
                "losses": {n: t.model_dump(mode="json") for n, t in terms.items()},
                "weights": weights if any(weights) else [],
                "seconds": [sum(epoch["seconds"] for epoch in s.result.epochs) for s in own],
                **_held(metric, alone, [scores[s.name] for s in own], name),
            }
        )
    return found


def _compressed(
    job: RunContext, compressed: Sequence[TrainedModel], scores: Mapping[str, float]
) -> list[dict[str, Any]]:
    """Each compressed variant: what it loses against the student it was made from, and what the teacher adds."""
    metric, found = main_metric(job.data.task), []
    for variant in dict.fromkeys(s.variant for s in compressed):
        taught = [s for s in compressed if s.variant == variant and s.role == "compressed"]
        alone = [s for s in compressed if s.variant == variant and s.role == "compressed-alone"]
        after = [scores[s.name] for s in taught]
        help_ = _held(metric, [scores[s.name] for s in alone], after, "the teacher") if alone else None
        found.append(
            {
                "name": variant,
                "steps": [step.model_dump(mode="json", exclude_none=True) for step in taught[0].steps],
                "told": {s.name: s.changes for s in taught},
                "start": {s.name: s.start for s in taught},
                "against_start": _held(metric, [scores[s.start] for s in taught], after, variant),
                "with_teacher": help_,
            }
        )
    return found


def _ensemble(job: RunContext, teachers: Teachers | None, disagreement: Disagreement | None) -> dict[str, Any] | None:
    if teachers is None or teachers.combine is None:
        return None
    joining = job.recipe.combine
    name = joining.name if joining else rules(job.data.task).ensembles[0]
    return {
        "combine": name,
        "words": train_teachers.words(job, teachers),
        "weights": dict(teachers.weights) if teachers.weights else None,
        "disagreement": disagreement,
    }


def _choose(job: RunContext, students: Sequence[TrainedModel]) -> dict[str, str]:
    """The student to ship: the best on validation, the taught one where two are equal."""
    metric = main_metric(job.data.task)
    scores = {s.name: s.result.val[metric.name] for s in students}
    taught = {s.name: s.role == "distilled" for s in students}
    name = max(scores, key=lambda n: (metric.sign * scores[n], taught[n]))
    return {"name": name, "why": f"the best {metric.name} on validation ({scores[name]:.4f}) of {len(scores)} students"}


def _describe(data: Data) -> dict[str, Any]:
    described: dict[str, Any] = {
        "name": data.name,
        "task": data.task.kind,
        "shape": list(data.shape),
        "counts": data.counts(),
        "classes": list(data.task.names),
        "outputs": data.task.outputs,
        "log_target": data.targets is not None and data.targets.log,
        "fingerprint": data.fingerprint,
        "notes": list(data.notes),
    }
    described["metric"] = main_metric(data.task).name
    if data.task.weights:
        described["class_weights"] = list(data.task.weights)
    if rules(data.task).predicts != "values":
        splits = {"train": data.train, "val": data.val, "test": data.test}
        described["class_counts"] = {split: class_counts(data, rows).tolist() for split, rows in splits.items()}
    return described
