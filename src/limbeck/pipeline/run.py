"""From a recipe to a run directory, stage by stage: the whole story on one page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from limbeck import __version__, evaluate, export, recipe
from limbeck.core.metrics import Metric, main_metric
from limbeck.core.progress import Progress
from limbeck.core.runtime import environment, read_json, write_json, write_text
from limbeck.data import Data, class_counts
from limbeck.distill.teachers import DEFAULT
from limbeck.distill.teachers.external import Function
from limbeck.distill.train.accelerator import make_accelerator
from limbeck.pipeline import train_teachers
from limbeck.pipeline.compress import CompressedStudent, compress_students, rebuild, starts
from limbeck.pipeline.context import SCHEMA, Job
from limbeck.pipeline.expected import IMPORTS, measuring
from limbeck.pipeline.measure import Candidate, measure
from limbeck.pipeline.outline import parts
from limbeck.pipeline.search_budget import search
from limbeck.pipeline.setup import begin, choose_views, dry_build, entered
from limbeck.pipeline.train_students import TrainedStudent, train_students
from limbeck.pipeline.train_teachers import Teachers
from limbeck.recipe import TRAINED, Deployable, Recipe, needs
from limbeck.recipe.stages import ENSEMBLE, MEASURED, SEARCH, seeded
from limbeck.report import write_report


def run(
    source: str | Path | Mapping[str, Any] | Recipe,
    *,
    out: str | Path | None = None,
    overrides: Iterable[str] = (),
    trust: bool = False,
    callables: Mapping[str, Function] | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Run a recipe from data to report, or go on with a run that was interrupted.

    Args:
        source: a bundled name, the path of a YAML file, or the recipe, as a mapping or checked.
        out: the run directory; `runs/<name of the recipe>` where it is not given.
        overrides: `key=value` texts with dotted keys.
        trust: whether opening a model may run code, as `PATH.py:FUNCTION`, .pt2 files and pickles do. A recipe cannot
            say that of itself.
        callables: functions that teach, by the name of the teacher whose `model` is `callable`: of NumPy rows float32
            [B, channels, H, W] (pixels in [0, 1]) or [B, columns], giving logits or probabilities [B, C], or values
            [B, K] in their own units.
        progress: where progress is shown; quiet where it is not given.

    Returns:
        The content of `result.json`.

    Raises:
        UserError: anything the user can put right, before the expensive part where that is possible.
    """
    checked = source if isinstance(source, Recipe) else recipe.load(source, overrides)
    needs.check(checked, source, out)
    folder = Path(out) if out is not None else Path("runs") / checked.name
    progress = progress or Progress(quiet=True)
    if checked.run.threads:
        torch.set_num_threads(checked.run.threads)
    accelerator = make_accelerator(checked.run, folder)
    if not accelerator.is_main_process:
        return _staged(checked, folder, accelerator, Progress(quiet=True), trust, callables)
    # Converters are imported while networks train: that takes longer than to convert a small network.
    with entered(folder, checked, progress, "run"), export.warm(_missing(checked, folder)):
        return _staged(checked, folder, accelerator, progress, trust, callables)


def _missing(checked: Recipe, folder: Path) -> list[str]:
    """Formats of which there is no file yet."""
    wanted = [*checked.export, *([checked.budget.runtime] if checked.budget else [])]
    return [name for name in wanted if not any(folder.glob(f"export/made/*.{name}/stage.json"))]


# --- the story -----------------------------------------------------------------------------------


def _staged(
    checked: Recipe,
    folder: Path,
    accelerator: Accelerator,
    progress: Progress,
    trust: bool,
    callables: Mapping[str, Function] | None,
) -> dict[str, Any]:
    job = begin(checked, folder, accelerator, progress, trust=trust, callables=callables)
    data = job.data
    for note in data.notes:
        progress.say(f"note: {note}")
    counts = ", ".join(f"{n:,} {split}" for split, n in data.counts().items())
    progress.say(f"data: {data.name}, {counts}")
    if accelerator.is_main_process:
        write_json(folder / "classes.json", {name: number for number, name in enumerate(data.task.names)})
    student = dry_build(job)
    notes = choose_views(job)
    if accelerator.is_main_process:
        _foresee(job, student)

    teachers = train_teachers.train_teachers(job)
    assisted: dict[str, dict[str, Any]] = {}
    source = direct = None
    if teachers is not None:
        assistants = train_teachers.train_assistants(job, teachers)
        assisted, source = assistants.results, assistants.end
        direct = teachers.source(job) if assisted else None
    students = train_students(job, source, direct)
    searched = search(job, starts(students), source) if checked.budget else None
    compressed = compress_students(job, students, source, searched)
    # What is left needs one process.
    if not accelerator.is_main_process:
        return {}
    return _conclude(job, teachers, assisted, students, compressed, searched, notes)


def _foresee(job: Job, student: nn.Module) -> None:
    """Tell the progress what is ahead, and what of it was done before."""
    seconds = measuring(job, {"student": student})
    seconds.pop(IMPORTS, None)  # which is over by then
    found = parts(job.recipe, sum(seconds.values()))
    over = [part.name for part in found if part.name != MEASURED and job.stages.recorded(part.name)]
    job.progress.course.plan(found, over)


# --- what came out -------------------------------------------------------------------------------


def _conclude(
    job: Job,
    teachers: Teachers | None,
    assisted: Mapping[str, dict[str, Any]],
    students: Sequence[TrainedStudent],
    compressed: Sequence[CompressedStudent],
    searched: Mapping[str, Any] | None,
    notes: Sequence[str],
) -> dict[str, Any]:
    """Measure every model on the test split, export what is shipped, write result.json and the page."""
    checked, data = job.recipe, job.data
    taught = {**(teachers.results if teachers else {}), **assisted}
    chosen = _choose(job, students)
    keys = list(teachers.keys.values()) if teachers else []
    key = job.key(checked.student, checked.model_dump(mode="json", exclude={"cache": {"strict", "limit_gb"}}), keys)
    compute = partial(_measured, job, teachers, students, compressed, searched, chosen["name"])
    measured = job.stages.alone(MEASURED, key, compute, renew=True)
    models = measured["models"]
    comparison, comparisons = _comparisons(job, models)
    notes = [*data.notes, *notes, *(n for t in taught.values() for n in t.get("notes", []))]
    metric = main_metric(data.task)
    told = [m["metrics"][metric.name] for m in models if m["role"] == "teacher"]
    if comparison and told and metric.gain(told[-1], mean := comparison["student"]["mean"]) > 0:
        own = f"the teacher ({metric.name} {told[-1]:.4f} on test)"
        notes.append(f"{own} is worse than the student alone ({mean:.4f} on average)")
    trained = {**taught, **{s.name: s.result for s in students}, **{s.name: s.result for s in compressed}}
    result = {
        "schema": SCHEMA,
        "name": checked.name,
        "about": checked.about,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "limbeck": __version__,
        "recipe": checked.model_dump(mode="json"),
        "recipe_yaml": recipe.dump(checked),
        "environment": environment(),
        "data": _describe(data),
        "models": models,
        "teachers": [{"name": n, "val": t["val"], "notes": t["notes"]} for n, t in taught.items() if "val" in t],
        "ensemble": _ensemble(job, teachers, measured["disagreement"]),
        "comparison": comparison,
        "comparisons": comparisons,
        "weights": {name: t["weights_found"] for name, t in trained.items() if t.get("weights_found")},
        "methods": _methods(job, models, trained),
        "compressed": _compressed(job, models, compressed),
        "budget": searched,
        "chosen": chosen,
        "predictions": measured.get("predictions"),
        "views": job.views,
        "cache": [stored for t in trained.values() for stored in t.get("cache", [])],
        "curves": {name: t["epochs"] for name, t in trained.items() if t.get("epochs")},
        "seconds": job.stages.seconds,
        "notes": notes,
    }
    # Only now: what was added to a finished run and failed must not stand in its way.
    write_text(job.folder / "recipe.yaml", recipe.dump(checked))
    write_json(job.folder / "result.json", result)
    write_report(read_json(job.folder / "result.json"), job.folder / "report.html")
    return result


def _comparisons(job: Job, models: Sequence[Mapping[str, Any]]) -> tuple[dict[str, Any] | None, list[dict[str, Any]]]:
    """The student with and without a teacher; and what an assistant and each further generation add."""
    checked = job.recipe
    if not checked.taught:
        return None, []
    metric = main_metric(job.data.task)

    def scores(ending: str, *roles: str) -> list[float]:
        found = [m for m in models if m["role"] in roles and m["format"] == "pytorch"]
        return [m["metrics"][metric.name] for m in found if m["name"].endswith(ending)]

    final = scores("", "distilled")
    subject = "the teacher"
    if not checked.teachers:
        subject = "learning together" if checked.student.peers else "learning from itself"
    others = []
    if checked.assistants:
        direct = _held(metric, scores("", "direct"), final, "the assistant")
        others.append({"title": "The chain against the student of the teacher itself", **direct})
    count = checked.student.generations or 1
    for number in range(2, count + 1):
        before, after = (scores(f"-gen{n}", "generation") if n < count else final for n in (number - 1, number))
        title = f"Generation {number} against generation {number - 1}"
        others.append({"title": title, **_held(metric, before, after, f"generation {number}")})
    return _held(metric, scores("", "student"), final, subject), others


def _held(metric: Metric, without: Sequence[float], given: Sequence[float], subject: str) -> dict[str, Any]:
    return evaluate.compare(without, given, metric=metric.name, higher_is_better=metric.higher, subject=subject)


def _methods(
    job: Job, models: Sequence[Mapping[str, Any]], trained: Mapping[str, Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """The student of `losses` and those of `compare`, each held against the student alone; empty without `compare`."""
    checked = job.recipe
    if not checked.compare:
        return []
    metric = main_metric(job.data.task)
    scores = {m["name"]: m["metrics"][metric.name] for m in models if m["format"] == "pytorch"}

    def of(stage: str) -> list[float]:
        return [scores[seeded(stage, seed)] for seed in checked.seeds]

    found = []
    for name, terms in {"distilled": checked.losses, **checked.compare}.items():
        stages = [seeded(name, seed) for seed in checked.seeds]
        against = _held(metric, of("student"), of(name), name)
        weights = [trained[stage].get("weights_found") or {} for stage in stages]
        seconds = [sum(epoch["seconds"] for epoch in trained[stage]["epochs"]) for stage in stages]
        found.append(
            {
                "name": name,
                "losses": {n: t.model_dump(mode="json") for n, t in terms.items()},
                "weights": weights if any(weights) else [],
                "seconds": seconds,
                **against,
            }
        )
    return found


def _compressed(
    job: Job, models: Sequence[Mapping[str, Any]], compressed: Sequence[CompressedStudent]
) -> list[dict[str, Any]]:
    """Each compressed variant: what it loses against the student it was made from, and what the teacher adds."""
    metric = main_metric(job.data.task)
    scores = {m["name"]: m["metrics"][metric.name] for m in models if m["format"] == "pytorch"}
    found = []
    for variant in dict.fromkeys(s.variant for s in compressed):
        taught = [s for s in compressed if s.variant == variant and s.role == "compressed"]
        alone = [s for s in compressed if s.variant == variant and s.role == "compressed-alone"]

        def held(before: Sequence[str], after: Sequence[CompressedStudent], subject: str) -> dict[str, Any]:
            return _held(metric, [scores[name] for name in before], [scores[s.name] for s in after], subject)

        found.append(
            {
                "name": variant,
                "steps": [step.model_dump(mode="json", exclude_none=True) for step in taught[0].steps],
                "told": {s.name: s.told for s in taught},
                "start": {s.name: s.start for s in taught},
                "against_start": held([s.start for s in taught], taught, variant),
                "with_teacher": held([s.name for s in alone], taught, "the teacher") if alone else None,
            }
        )
    return found


def _ensemble(job: Job, teachers: Teachers | None, disagreement: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if teachers is None or teachers.combine is None:
        return None
    joining = job.recipe.combine
    name = joining.name if joining else DEFAULT[job.data.task.kind]
    return {
        "combine": name,
        "words": train_teachers.words(job, teachers),
        "weights": dict(teachers.weights) if teachers.weights else None,
        "disagreement": disagreement,
    }


def _choose(job: Job, students: Sequence[TrainedStudent]) -> dict[str, str]:
    """The student to ship: the best on validation, the taught one where two are equal."""
    metric = main_metric(job.data.task)
    scores = {s.name: s.result["val"][metric.name] for s in students}
    taught = {s.name: s.role == "distilled" for s in students}
    name = max(scores, key=lambda n: (metric.sign * scores[n], taught[n]))
    return {"name": name, "why": f"the best {metric.name} on validation ({scores[name]:.4f}) of {len(scores)} students"}


def _shipped(
    job: Job,
    students: Sequence[TrainedStudent],
    compressed: Sequence[CompressedStudent],
    chosen: str,
    searched: Mapping[str, Any] | None,
) -> dict[str, list[Deployable]]:
    """Which files each network becomes: the chosen student, and of each compressed variant the best on validation."""
    metric = main_metric(job.data.task)
    every, asked = job.recipe.files.every_seed, job.recipe.export
    searched = searched or {}
    winner = searched.get("winner")
    found = {name: list(asked) for name in [chosen, *([s.name for s in starts(students)] if every else [])]}
    for variant in dict.fromkeys(s.variant for s in compressed):
        own = [s for s in compressed if s.variant == variant and s.role == "compressed"]
        best = metric.best(own, key=lambda s: float(s.result["val"][metric.name]))
        formats = [name for name in asked if name in TRAINED or not best.quantized]
        if variant == SEARCH and winner:
            formats = list(dict.fromkeys([*formats, winner["format"]]))
        found |= {s.name: formats for s in (own if every else [best])}
    if winner and not winner["steps"]:  # the student as it is keeps to the budget in this format
        for name in [s.name for s in starts(students)] if every else [str(searched["start"])]:
            found[name] = list(dict.fromkeys([*found.get(name, ()), winner["format"]]))
    return found


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
    if data.task.kind != "regression":
        splits = {"train": data.train, "val": data.val, "test": data.test}
        described["class_counts"] = {split: class_counts(data, rows).tolist() for split, rows in splits.items()}
    return described


def _measured(
    job: Job,
    teachers: Teachers | None,
    students: Sequence[TrainedStudent],
    compressed: Sequence[CompressedStudent],
    searched: Mapping[str, Any] | None,
    chosen: str,
    _: Path,
) -> dict[str, Any]:
    checked = job.recipe
    candidates = []
    if teachers is not None:
        for spec in checked.teachers:
            if spec.name in teachers.results:
                file = job.source(spec)
                build = partial(job.network, spec, file)
                candidates.append(Candidate(spec.name, "teacher", None, file, build, timed=True))
        if teachers.joint:
            assert checked.combine is not None
            file = job.weights(ENSEMBLE, checked.combine.train)
            candidates.append(Candidate(ENSEMBLE, "teacher", None, file, teachers.joint, timed=True))
    for helper in checked.assistants:
        file = job.weights(helper.name, helper.train)
        build = partial(job.network, helper, file)
        candidates.append(Candidate(helper.name, "assistant", None, file, build, timed=True))
    shipped = _shipped(job, students, compressed, chosen, searched)
    seed = next(s.seed for s in students if s.name == chosen)
    for s in students:
        build = partial(job.network, checked.student, s.file)
        formats = shipped.get(s.name, ())
        pictured = s.role in ("student", "distilled") and s.seed == seed
        candidates.append(Candidate(s.name, s.role, s.seed, s.file, build, formats, s.name == chosen, drawn=pictured))
    for one in compressed:
        formats, again = shipped.get(one.name, ()), partial(rebuild, job, one.file)
        candidates.append(
            Candidate(
                one.name, one.role, one.seed, one.file, again, formats, one.name in shipped, one.quantized, one.told
            )
        )
    rows, disagreement, drawn = measure(
        job, candidates, None if teachers is None or teachers.joint else teachers.combine
    )
    models = [asdict(row) for row in rows]
    files = [m["file"] for m in models if m["role"] == "exported"]
    return {"models": models, "disagreement": disagreement, "predictions": drawn, "files": files}
