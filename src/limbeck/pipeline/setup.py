"""How a run starts: its folder is claimed, networks and losses are tried together, views are chosen."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from limbeck import __version__, recipe
from limbeck.core.errors import UserError
from limbeck.core.files import locked, write_text
from limbeck.core.progress import LOG, Progress
from limbeck.data import class_weights, load, on_device
from limbeck.distill import cache
from limbeck.distill.objective.feature_matching import Matching
from limbeck.distill.teachers.external import Function, from_function
from limbeck.distill.train import steps_in_epoch
from limbeck.distill.train.accelerator import make_accelerator
from limbeck.models import KerasNetwork
from limbeck.pipeline import objectives, teacher_outputs
from limbeck.pipeline.context import RunContext
from limbeck.pipeline.stage_results import ViewsResult
from limbeck.pipeline.stages import Stages
from limbeck.recipe import Network, Recipe, needs
from limbeck.recipe.model_source import Function as FunctionSource
from limbeck.recipe.model_source import ModelFile
from limbeck.recipe.stages import VIEWS

# What may change from one start of a run to the next: no training depends on it that was done before.
FREE = ("about.", "seeds.", "cache.strict.", "cache.limit_gb.", "compress.", "budget.", "export.", "files.")


def claim(folder: Path, checked: Recipe) -> None:
    """Make `folder` this recipe's, or refuse."""
    path = folder / "recipe.yaml"
    if not path.exists():
        strangers = [p.name for p in folder.iterdir() if p.name not in (".lock", LOG)]
        if strangers:
            raise UserError(
                f"is not empty and holds no run ({strangers[0]}, ...)", where=str(folder), hint="choose another --out"
            )
        write_text(path, recipe.dump(checked))
        return
    if not any(folder.glob("*/stage.json")):
        # Nothing was begun by the recipe before, most likely because it had a fault that this one has not.
        write_text(path, recipe.dump(checked))
        return
    before, now = (_flat(r.model_dump(mode="json")) for r in (recipe.load(path), checked))
    changed = [
        f"{key}: {before.get(key, 'absent')} -> {now.get(key, 'absent')}"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key) and not f"{key}.".startswith(FREE)
    ]
    if changed:
        shown = "\n  ".join(changed[:10] + ([f"and {len(changed) - 10} more"] if len(changed) > 10 else []))
        raise UserError(
            f"this run was begun with another recipe; what changed:\n  {shown}",
            where=str(folder),
            hint="choose another --out, or give the recipe it was begun with",
        )


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(value, dict | list) and value:
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        return {
            k: v for key, inner in pairs for k, v in _flat(inner, f"{prefix}.{key}" if prefix else str(key)).items()
        }
    return {prefix: value}


def checked_recipe(
    source: str | Path | Mapping[str, Any] | Recipe, out: str | Path | None, overrides: Iterable[str]
) -> tuple[Recipe, Path]:
    """A recipe of which all is there that it needs, and its run directory; see `limbeck.run`."""
    checked = source if isinstance(source, Recipe) else recipe.load(source, overrides)
    needs.check(checked, source, out)
    return checked, Path(out) if out is not None else Path("runs") / checked.name


@contextlib.contextmanager
def open_run(
    checked: Recipe,
    folder: Path,
    doing: str,
    *,
    trust: bool = False,
    callables: Mapping[str, Function] | None = None,
    progress: Progress | None = None,
) -> Iterator[RunContext]:
    """Hold a run directory, make it this recipe's, and keep there what is shown and how it ends.

    Where several processes take part, the first one does that for all.

    Args:
        checked: the recipe.
        folder: the run directory.
        doing: the command, for the log.
        trust: whether opening a model may run code; see `limbeck.run`.
        callables: functions that teach; see `limbeck.run`.
        progress: where progress is shown; quiet where it is not given.

    Raises:
        UserError: it is held by another run, or belongs to something else.
    """
    accelerator = make_accelerator(checked.run, folder)
    first, quiet = accelerator.is_main_process, Progress(quiet=True)
    progress = (progress or quiet) if first else quiet
    with contextlib.ExitStack() as stack:
        if first:
            stack.enter_context(locked(folder))
            claim(folder, checked)
            stack.enter_context(progress.kept(folder / LOG, f"{doing} {checked.name}, limbeck {__version__}"))
        yield begin(checked, folder, accelerator, progress, trust=trust, callables=callables)


def begin(
    checked: Recipe,
    folder: Path,
    accelerator: Accelerator,
    progress: Progress,
    *,
    trust: bool = False,
    callables: Mapping[str, Function] | None = None,
) -> RunContext:
    """The recipe's data, and the run around it; see `limbeck.run`. Nothing is written."""
    if checked.run.threads:
        torch.set_num_threads(checked.run.threads)
    functions = _named(checked, callables or {})
    stages, started = Stages(folder, accelerator, progress.course), time.monotonic()
    data = on_device(load(checked.data, checked.task, progress), accelerator.device)
    weights = class_weights(data, checked.class_weights) if checked.class_weights else ()
    data = replace(data, task=replace(data.task, predicts_variance=checked.predicts_variance, weights=weights))
    stages.seconds["data"] = round(time.monotonic() - started, 3)
    sources = {name: from_function(function, data, name) for name, function in functions.items()}
    return RunContext(checked, folder, data, accelerator, progress, stages, trust=trust, callables=sources)


def _named(checked: Recipe, functions: Mapping[str, Function]) -> Mapping[str, Function]:
    """The functions that teach, one for each teacher that is one."""
    wanted = [spec.name for spec in checked.teachers if isinstance(spec.source, FunctionSource)]
    for name in wanted:
        if name not in functions:
            hint = f'in Python: limbeck.run(recipe, callables={{"{name}": function}})'
            raise UserError(f"no function is given for the teacher '{name}'", where="callables", hint=hint)
    for name in functions:
        if name not in wanted:
            hint = "its `model` is `callable`"
            raise UserError(f"no teacher is the function '{name}'", where="callables", hint=hint)
    return functions


def dry_run(job: RunContext) -> tuple[RunContext, torch.nn.Module]:
    """Build every network and try the losses once, so that a misfit is told before anything is trained.

    Returns:
        The run with the losses as they fit its networks, and the student without what it will learn.
    """

    def tried(spec: Network) -> torch.nn.Module:
        for name in spec.files:
            if not Path(name).is_file():
                raise UserError("there is no such file", where=name)
        return job.network(spec) if spec.asked else job.plain(spec.model_copy(update={"pretrained": False}))

    checked = job.recipe
    teachers, chain, student = (
        [tried(spec) for spec in specs] for specs in (checked.teachers, checked.assistants, [checked.student])
    )
    keras = isinstance(student[0], KerasNetwork)
    if found := recipe.student_misfit(checked.student, keras=keras, edited_by=checked.edited_by, export=checked.export):
        raise UserError(found[1], where=found[0])
    trained = [*zip(checked.teachers, teachers, strict=True), *zip(checked.assistants, chain, strict=True)]
    for spec, network in [*trained, (checked.student, student[0])]:
        _remembers(job, spec, network)
    teacher_name = "teachers"
    matches: dict[tuple[str, str, str], Matching] = {}
    if chain:
        matches |= objectives.rehearse(job, "student", student[0], teacher_name, teachers)
    for spec, assistant in zip(checked.assistants, chain, strict=True):
        matches |= objectives.rehearse(job, spec.name, assistant, teacher_name, teachers)
        teacher_name, teachers = spec.name, [assistant]
    itself = bool(checked.student.generations or checked.student.peers or (checked.smaller and not teachers))
    if itself:
        matches |= objectives.rehearse(job, "student", student[0], "student", student)
    if teachers or not (itself or checked.student.ready):  # what is brought along learns nothing
        matches |= objectives.rehearse(job, "student", student[0], teacher_name, teachers)
    for line in dict.fromkeys(line for matching in matches.values() for line in matching.plan):
        job.progress.say(f"taps of {line}")
    return replace(job, matches=matches), student[0]


def _remembers(job: RunContext, spec: Network, network: torch.nn.Module) -> None:
    """Say so where statistics of batch norm begin anew and will not have followed the network when it is finished."""
    plan = getattr(spec, "train", None)
    if (
        plan is None
        or not isinstance(network, KerasNetwork)
        or isinstance(spec.source, ModelFile)
        or spec.pretrained
        or spec.weights
    ):
        return
    steps = plan.epochs * steps_in_epoch(len(job.data.taught), plan.batch_size)
    if 0 < steps < network.memory_steps:
        job.progress.say(
            f"note: batch norm in {spec.model} follows slowly and knows its data after {network.memory_steps:,} steps; "
            f"this training has {steps:,} (give more epochs, or smaller batches, or `options: {{momentum: 0.9}}`)"
        )


def choose_views(job: RunContext) -> tuple[RunContext, list[str]]:
    """Settle how many augmented views there are: one an epoch where the recipe does not say and they have room.

    Returns:
        The run with that number of views, and what the user must be told.
    """
    if (settled := _settled_views(job)) is not None:
        return replace(job, views=settled), []

    def room(_: Path) -> ViewsResult:
        return ViewsResult(views=_views_with_room(job))

    # Kept as a stage, since what has room may be another number when the run goes on.
    views = job.stages.together(VIEWS, job.key(job.recipe.student, "views"), ViewsResult, room).views
    job, wanted = replace(job, views=views), _wanted_views(job.recipe)
    if views == wanted:
        return job, []
    shown = f"{views} of {wanted}" if views else "none: teachers are asked live in every step"
    note = f"stored views: {shown}, for want of room (see `cache.limit_gb` and `limbeck cache prune`)"
    job.progress.say(f"note: {note}")
    return job, [note]


def likely_views(job: RunContext) -> int:
    """How many views `choose_views` would choose now. Nothing is written."""
    settled = _settled_views(job)
    return _views_with_room(job) if settled is None else settled


def stored_bytes(job: RunContext) -> int:
    """What one view of the training rows takes on the disk: the outputs of all teachers, and images where stored."""
    checked, data = job.recipe, job.data
    teacher_names = ["teachers"] * len(checked.teachers) + [assistant.name for assistant in checked.assistants]
    teacher_names += ["student"] * _own_teachers(checked)
    codec, shape, rows = checked.cache, (*data.places, data.task.outputs), len(data.taught)
    one = sum(
        cache.size_bytes(
            rows,
            1,
            shape,
            dtype=codec.dtype,
            top_k=teacher_outputs.top_k(job),
            taps=objectives.teacher_shapes(job, teacher_name),
        )
        for teacher_name in teacher_names
    )
    return one + (rows * data.x[0].numel() if codec.pixels else 0)


def _own_teachers(checked: Recipe) -> int:
    """How many students teach later ones, or their smaller selves."""
    own = checked.student.generations or (checked.smaller and not checked.teachers)
    return len(checked.seeds) * int(own)


def _settled_views(job: RunContext) -> int | None:
    """How many views there are where room has no say in it."""
    checked = job.recipe
    if checked.views is not None or not (checked.teachers or checked.assistants or _own_teachers(checked)):
        return checked.views or 0
    return None if checked.augment.active else 1


def _wanted_views(checked: Recipe) -> int:
    recovery = [step.recover.epochs for steps in checked.compress.values() for step in steps]
    recovery += [checked.budget.recover.epochs] if checked.budget else []
    return max(1, checked.student.train.epochs, *recovery)


def _views_with_room(job: RunContext) -> int:
    room = cache.room(int(job.recipe.cache.limit_gb * 1e9))
    return min(_wanted_views(job.recipe), room // stored_bytes(job))
