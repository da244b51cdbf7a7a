"""How long a job will take, and how much of the disk: a few real steps of each kind, times how many there are."""

from __future__ import annotations

import contextlib
import itertools
import math
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import NamedTuple

import torch
from torch import Tensor, nn

from limbeck import evaluate
from limbeck.core.files import cache_dir
from limbeck.core.types import Batch, Fetch, Output, Teacher
from limbeck.core.words import duration
from limbeck.distill.cache.store import free_bytes, in_words, room
from limbeck.distill.teachers import Ensemble
from limbeck.distill.train import fit, steps_in_epoch
from limbeck.pipeline import objectives, teacher_outputs
from limbeck.pipeline.context import RunContext
from limbeck.pipeline.expected import measuring
from limbeck.pipeline.outline import Kind, trainings
from limbeck.pipeline.setup import stored_bytes
from limbeck.recipe import Network, Plan, Recipe

WARM_STEPS, FEWEST, MOST = 3, 3, 60  # steps of one kind
ENOUGH_SECONDS = 5.0  # after which no more than the fewest are taken
BATCHES = 4  # that steps are taken on, in turn
EPOCHS = 5  # of one step, to see what an epoch adds
START_UP = 8.0  # seconds of a processor until all that trains is imported: a guess
SCORED = 2000  # validation rows that a pass over them is timed on
Clock = Callable[[], float]


class Pace(NamedTuple):
    """Seconds of a training step, and what an epoch adds: metrics, weights and a checkpoint that are written."""

    step: float
    epoch: float


@dataclass(frozen=True)
class Forecast:
    """What a job takes.

    Attributes:
        seconds: what -> how long; what is said of files, their libraries and the start is a guess.
        stored_bytes: of the teachers' outputs, in the cache.
        run_bytes: of weights and checkpoints, in the run directory.
        stored_room: bytes that are free where outputs are stored.
        run_room: bytes that are free where the run directory lies.
    """

    seconds: Mapping[str, float]
    stored_bytes: int
    run_bytes: int
    stored_room: int
    run_room: int

    @property
    def fits(self) -> bool:
        """Whether the disk has room."""
        return self.run_bytes <= self.run_room and self.stored_bytes <= self.stored_room


def forecast(job: RunContext, *, clock: Clock = time.perf_counter) -> Forecast:
    """Measure a few steps of everything a job trains, and say what the whole takes.

    Args:
        job: after `dry_run`, with its `views` settled. Nothing that is trained or written is kept.
        clock: gives seconds.
    """
    networks = _networks(job)
    kinds = {one.kind: one.plan for one in reversed(trainings(job.recipe))}  # of each the first plan
    paces = {kind: _pace(job, kind, plan, networks, clock) for kind, plan in kinds.items()}
    passes = {learner: _pass_seconds(job, networks[learner], clock) for learner in {kind[0] for kind in kinds}}
    seconds = _training_seconds(job.recipe, len(job.data.taught), paces, passes)
    if job.views:
        queried = _queried(job.recipe)
        rows = len(job.data.taught) * job.views
        each = {name: _query_seconds(job, name, networks[name], clock) for name in queried}
        if queried:
            seconds["the teachers' outputs"] = rows * sum(count * each[name] for name, count in queried.items())
    sizes = {name: _weights_bytes(network) for name, network in networks.items()}
    seconds |= {"start-up": START_UP, **measuring(job, networks, clock)}
    run_bytes = sum(one.count * _kept_bytes(one.plan, sizes[one.learner]) for one in trainings(job.recipe))
    stored, limit_bytes = stored_bytes(job) * job.views, int(job.recipe.cache.limit_gb * 1e9)
    return Forecast(seconds, stored, run_bytes, room(limit_bytes), free_bytes(job.folder.absolute()))


def _training_seconds(
    checked: Recipe, rows: int, paces: Mapping[Kind, Pace], passes: Mapping[str, float]
) -> dict[str, float]:
    """The time of all trainings by what they are: steps times a step's, epochs times a pass over validation."""
    found: dict[str, float] = {}
    for one in trainings(checked):
        pace = paces[one.kind]
        epoch = steps_in_epoch(rows, one.plan.batch_size) * pace.step + pace.epoch + passes[one.learner]
        found[one.what] = found.get(one.what, 0.0) + one.count * one.plan.epochs * epoch
    return found


def _queried(checked: Recipe) -> dict[str, int]:
    """Whose outputs are stored, and how many networks of that name there are."""
    queried = dict.fromkeys([*(t.name for t in checked.teachers), *(a.name for a in checked.assistants)], 1)
    own = checked.student.generations or (checked.smaller and not checked.teachers)
    return queried | ({"student": len(checked.seeds) * int(own)} if own else {})


# --- what is measured ----------------------------------------------------------------------------


def _networks(job: RunContext) -> dict[str, nn.Module]:
    """Every network of a recipe by name, as quick as it will be when it has learned something."""

    def made(spec: Network) -> nn.Module:
        if not spec.asked:
            spec = spec.model_copy(update={"pretrained": False, "weights": None})
        return job.network(spec).to(job.device)

    checked = job.recipe
    found = {teacher.name: made(teacher) for teacher in checked.teachers}
    found |= {assistant.name: made(assistant) for assistant in checked.assistants}
    return {**found, "student": made(checked.student)}


def _pace(job: RunContext, kind: Kind, plan: Plan, networks: Mapping[str, nn.Module], clock: Clock) -> Pace:
    """What a step of a training takes, from the asking for one batch to that for the next, and what an epoch adds."""
    learner, teacher_name, variant = kind
    size = min(plan.batch_size, len(job.data.train))
    rows = job.data.train[: BATCHES * size]
    teacher, objective = None, objectives.alone(job, plan)
    if teacher_name:
        members = (
            [networks[spec.name] for spec in job.recipe.teachers]
            if teacher_name == "teachers"
            else [networks[teacher_name]]
        )
        matching = job.matches[learner, teacher_name, variant]
        head = members[0].get_submodule(f"model.{matching.head}") if matching.needs_head else None
        objective = matching.objective(plan, 0, head)  # type: ignore[arg-type]
        teacher = _teacher(job, teacher_name, members, rows)

    def intervals(wanted: Tensor, epochs: int, folder: Path | None) -> list[float]:
        none = job.data.train[:0]
        few = replace(job.data, train=wanted, unlabelled=none, val=job.data.val[:8])  # hardly a validation
        once = plan.model_copy(update={"epochs": epochs, "warmup_epochs": 0.0, "patience": None})
        run = job.recipe.run.model_copy(update={"trackers": []})
        fetch, marks = _timed(job, clock)
        with contextlib.suppress(_EnoughError):
            fit(
                *(networks[learner], objective, teacher, few, once),
                fetch=fetch, folder=folder, views=1, run=run, label=learner,
            )  # fmt: skip
        return [after - before for before, after in itertools.pairwise(marks)]

    wanted = (WARM_STEPS + MOST + 1) * size
    step = median(intervals(rows.repeat(math.ceil(wanted / len(rows)))[:wanted], 1, None)[WARM_STEPS:])
    cache_dir().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache_dir(), prefix=".forecast-") as scratch:
        ends = intervals(rows[:size], EPOCHS, Path(scratch))
    return Pace(step, max(0.0, median(ends[1:]) - step))


def _timed(job: RunContext, clock: Clock) -> tuple[Fetch, list[float]]:
    """What gives batches, and when each was queried for."""
    given = teacher_outputs.fetch(job, stored=False)
    marks: list[float] = []

    def fetch(part: Tensor, view: int) -> Batch:
        if job.device.type == "cuda":
            torch.cuda.synchronize(job.device)
        marks.append(clock())
        if len(marks) > WARM_STEPS + FEWEST and marks[-1] - marks[0] > ENOUGH_SECONDS:
            raise _EnoughError
        return given(part, view)

    return fetch, marks


class _EnoughError(Exception):
    pass


def _teacher(job: RunContext, teacher_name: str, networks: Sequence[nn.Module], rows: Tensor) -> Teacher:
    """Whom a student learns from: live without views, or as its stored outputs are read."""
    queried = [teacher_outputs.frozen(job, teacher_name, network, torch.float32) for network in networks]
    live: Teacher = queried[0] if len(queried) == 1 else Ensemble(queried, lambda outputs: outputs.mean(0))
    if not job.views:
        return live
    place = torch.full((len(job.data.x),), -1, device=job.device)
    place[rows.to(job.device)] = torch.arange(len(rows), device=job.device)
    fetch: Fetch = teacher_outputs.fetch(job, stored=False)
    known = [live(fetch(part, 0)) for part in torch.split(rows, 64)]
    prediction = torch.cat([one.prediction for one in known])
    features = {name: torch.cat([one.features[name] for one in known]) for name in known[0].features}

    def read(batch: Batch) -> Output:
        found = place[batch.index]
        return Output(prediction[found], {name: feature[found] for name, feature in features.items()})

    return read


def _pass_seconds(job: RunContext, network: nn.Module, clock: Clock) -> float:
    """The time of a pass over the validation rows."""
    rows = job.data.val[:SCORED]
    evaluate.predict(network, job.data, rows[:64], device=job.device)
    started = clock()
    evaluate.predict(network, job.data, rows, device=job.device)
    return (clock() - started) * len(job.data.val) / len(rows)


def _query_seconds(job: RunContext, name: str, network: nn.Module, clock: Clock) -> float:
    """The time of one row of a network's outputs, its augmented image and all."""
    teacher_name = name if (name == "student" or name in {a.name for a in job.recipe.assistants}) else "teachers"
    frozen, fetch = (
        teacher_outputs.frozen(job, teacher_name, network, torch.float32),
        teacher_outputs.fetch(job, stored=False),
    )
    size = min(512 if job.device.type == "cuda" else 64, len(job.data.train))
    times = []
    for _ in range(3):
        started = clock()
        frozen(fetch(job.data.train[:size], 0)).prediction.cpu()
        times.append((clock() - started) / size)
    return median(times[1:])


def _weights_bytes(network: nn.Module) -> int:
    return sum(tensor.nbytes for tensor in network.state_dict().values())


def _kept_bytes(plan: Plan, weights: int) -> int:
    """What one training leaves in its folder: best, last, and a checkpoint with what the optimizer remembers."""
    remembered = 1 if plan.optimizer == "sgd" else 2
    return weights * (3 + remembered + bool(plan.ema))


# --- in words ------------------------------------------------------------------------------------


def time_words(found: Forecast) -> str:
    """How long the job takes, the longest parts first."""
    parts = sorted(found.seconds.items(), key=lambda part: -part[1])
    shown = ", ".join(f"{what} {duration(seconds)}" for what, seconds in parts)
    guess = "; files and their libraries are a guess" if "files" in found.seconds else ""
    return f"about {duration(sum(found.seconds.values()))} here ({shown}){guess}"


def disk_words(found: Forecast, folder: Path) -> str:
    """How much of the disk the job takes."""
    return (
        f"about {in_words(found.run_bytes)} of weights and checkpoints in {folder} of {in_words(found.run_room)} free, "
        f"and {in_words(found.stored_bytes)} of stored outputs of {in_words(found.stored_room)} free"
    )
