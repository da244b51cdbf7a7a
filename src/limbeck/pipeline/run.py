"""From a recipe to a run directory, stage by stage: the whole story on one page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from limbeck import export, recipe
from limbeck.core.progress import Progress
from limbeck.core.runtime import write_json
from limbeck.distill.teachers.external import Function
from limbeck.distill.train.accelerator import make_accelerator
from limbeck.pipeline import train_teachers
from limbeck.pipeline.compress import compress_students, starts
from limbeck.pipeline.conclude import conclude
from limbeck.pipeline.context import Job
from limbeck.pipeline.expected import IMPORTS, measuring
from limbeck.pipeline.outline import parts
from limbeck.pipeline.search_budget import search
from limbeck.pipeline.setup import begin, choose_views, dry_build, entered
from limbeck.pipeline.train_students import train_students
from limbeck.recipe import Recipe, needs
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
    return conclude(job, teachers, assisted, students, compressed, searched, notes)


def _foresee(job: Job, student: nn.Module) -> None:
    """Tell the progress what is ahead, and what of it was done before."""
    seconds = measuring(job, {"student": student})
    seconds.pop(IMPORTS, None)  # which is over by then
    found = parts(job.recipe, sum(seconds.values()))
    over = [part.name for part in found if part.name != MEASURED and job.stages.recorded(part.name)]
    job.progress.course.plan(found, over)
