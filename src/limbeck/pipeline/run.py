"""From a recipe to a run directory, stage by stage: the whole story on one page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from limbeck import export
from limbeck.core.files import write_json
from limbeck.core.progress import Progress
from limbeck.distill.teachers.external import Function
from limbeck.pipeline import train_teachers
from limbeck.pipeline.compress import compress_students, starts
from limbeck.pipeline.conclude import conclude
from limbeck.pipeline.context import RunContext
from limbeck.pipeline.expected import IMPORTS, measuring
from limbeck.pipeline.outline import parts
from limbeck.pipeline.search_budget import search
from limbeck.pipeline.setup import checked_recipe, choose_views, dry_run, open_run
from limbeck.pipeline.stage_results import TeacherResult
from limbeck.pipeline.train_students import train_students
from limbeck.recipe import Recipe
from limbeck.recipe.stages import MEASURED


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
    checked, folder = checked_recipe(source, out, overrides)
    with (
        open_run(checked, folder, "run", trust=trust, callables=callables, progress=progress) as job,
        # Converters are imported while networks train: that takes longer than to convert a small network.
        export.warm(_missing(checked, folder) if job.accelerator.is_main_process else []),
    ):
        return _staged(job)


def _missing(checked: Recipe, folder: Path) -> list[str]:
    """Formats of which there is no file yet."""
    wanted = [*checked.export, *([checked.budget.runtime] if checked.budget else [])]
    return [name for name in wanted if not any(folder.glob(f"export/made/*.{name}/stage.json"))]


# --- the story -----------------------------------------------------------------------------------


def _staged(job: RunContext) -> dict[str, Any]:
    data = job.data
    for note in data.notes:
        job.progress.say(f"note: {note}")
    counts = ", ".join(f"{n:,} {split}" for split, n in data.counts().items())
    job.progress.say(f"data: {data.name}, {counts}")
    if job.accelerator.is_main_process:
        write_json(job.folder / "classes.json", {name: number for number, name in enumerate(data.task.names)})
    job, student = dry_run(job)
    job, notes = choose_views(job)
    if job.accelerator.is_main_process:
        _foresee(job, student)

    teachers = train_teachers.train_teachers(job)
    assisted: Mapping[str, TeacherResult] = {}
    source = direct = None
    if teachers is not None:
        assistants = train_teachers.train_assistants(job, teachers)
        assisted, source = assistants.results, assistants.end
        direct = teachers.source(job) if assisted else None
    students = train_students(job, source, direct)
    searched = search(job, starts(students), source) if job.recipe.budget else None
    compressed = compress_students(job, students, source, searched)
    # What is left needs one process.
    if not job.accelerator.is_main_process:
        return {}
    return conclude(job, teachers, assisted, students, compressed, searched, notes)


def _foresee(job: RunContext, student: nn.Module) -> None:
    """Tell the progress what is ahead, and what of it was done before."""
    seconds = measuring(job, {"student": student})
    seconds.pop(IMPORTS, None)  # which is over by then
    found = parts(job.recipe, sum(seconds.values()))
    over = [part.name for part in found if part.name != MEASURED and job.stages.recorded(part.name)]
    job.progress.course.plan(found, over)
