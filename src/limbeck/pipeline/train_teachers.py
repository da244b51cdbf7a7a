"""Those who teach: each trained or loaded, several of them joined, assistants after them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from limbeck import evaluate
from limbeck.core.hashing import fingerprint_tensors
from limbeck.core.result import StoredOutputs
from limbeck.core.seeding import seed_everything
from limbeck.core.types import Teacher
from limbeck.data import targets
from limbeck.distill.objective import Objective
from limbeck.distill.teachers import (
    Combine,
    Ensemble,
    Joint,
    Stack,
    as_combine,
    combiner,
    diagnose,
    external,
    fit_stack,
    validation_weights,
)
from limbeck.models import load_weights, plain, save_weights
from limbeck.pipeline import objectives, teacher_outputs
from limbeck.pipeline.context import RunContext
from limbeck.pipeline.stage_results import StackResult, TeacherResult
from limbeck.pipeline.training import train_network
from limbeck.recipe import Assistant, Network, Plan
from limbeck.recipe import Teacher as TeacherSpec
from limbeck.recipe.model_source import Estimator
from limbeck.recipe.stages import ENSEMBLE
from limbeck.tasks import main_metric, rules

TeacherOutputs = tuple[Teacher, list[StoredOutputs]]  # a teacher, and what is told of its stored outputs
Member = tuple[str, Callable[[], nn.Module], torch.dtype]  # name, how to build the trained network, its dtype


@dataclass(frozen=True)
class TeacherSource:
    """Whom somebody learns from.

    Attributes:
        name: "teachers", the name of an assistant, or "student".
        open: makes the teacher itself when it is needed, given the features that are wanted of it.
        keys: what its outputs depend on.
        file: its weights; None where several are one.
    """

    name: str
    open: Callable[[Sequence[str]], TeacherOutputs]
    keys: Sequence[str]
    file: Path | None = None


def learning(
    job: RunContext,
    learner: str,
    source: TeacherSource | None,
    plan: Plan,
    *,
    seed: int,
    variant: str = "",
    network: nn.Module | None = None,
) -> tuple[Objective, Teacher | None, list[StoredOutputs]]:
    """What a learner minimises, its teacher, and what is told of stored outputs; see `objectives.taught`."""
    if source is None:
        return objectives.alone(job, plan), None, []
    objective = objectives.taught(
        job, learner, source.name, plan, variant=variant, seed=seed, weights=source.file, network=network
    )
    teacher, stored = source.open(objective.teacher_taps)
    return objective, teacher, stored


@dataclass(frozen=True)
class Teachers:
    """The teachers of a run, as one.

    Attributes:
        results: what came out of training or loading each, or all of them as one, by the name of the stage.
        keys: what each depends on.
        members: name, how to build the trained network, and its dtype.
        combine: how their predictions become one; None for a single teacher.
        weights: of each member by name, where they are weighted by fixed numbers.
        stacked: what came out of fitting a small network over them, if they are joined by one.
        joint: how to build the one network that all members were trained as, if they were.
    """

    results: Mapping[str, TeacherResult]
    keys: Mapping[str, str]
    members: Sequence[Member]
    combine: Combine | None = None
    weights: Mapping[str, float] | None = None
    stacked: StackResult | None = None
    joint: Callable[[], Joint] | None = None

    def source(self, job: RunContext) -> TeacherSource:
        """All of them as the one that a student learns from."""
        spec = job.recipe.teachers[0]
        file = job.weights(spec.name, spec.train) if len(self.members) == 1 and not spec.asked else None
        return TeacherSource("teachers", partial(self._open, job), list(self.keys.values()), file)

    def _open(self, job: RunContext, taps: Sequence[str]) -> TeacherOutputs:
        members: list[Teacher] = []
        opened: list[StoredOutputs] = []
        for name, build, dtype in self.members:
            teacher, stored = teacher_outputs.teacher(job, "teachers", name, build(), dtype, taps)
            members.append(teacher)
            opened += stored
        return (members[0] if self.combine is None else Ensemble(members, self.combine)), opened


def train_teachers(job: RunContext) -> Teachers | None:
    """Train, load and join the teachers of the recipe; None where it has none."""
    specs, joining = job.recipe.teachers, job.recipe.combine
    if not specs:
        return None
    keys = {spec.name: job.key(spec) for spec in specs if spec.knows}
    results = {
        spec.name: job.stages.together(spec.name, keys[spec.name], TeacherResult, partial(train_teacher, job, spec))
        for spec in specs
        if spec.knows
    }
    if len(specs) == 1:
        return Teachers(results, keys, [_member(job, specs[0], results[specs[0].name])])
    if joining is not None and joining.joint:
        return _jointly(job, results, keys)
    members = [_member(job, spec, results[spec.name]) for spec in specs]
    metric = main_metric(job.data.task).name
    scores = [results[spec.name].val[metric] for spec in specs]
    stack, stacked = None, None
    if joining is not None and joining.name == "stacked":
        keys[ENSEMBLE] = job.key(specs[0], "stack", list(keys.values()))
        stacked = job.stages.together(ENSEMBLE, keys[ENSEMBLE], StackResult, partial(_stack, job, members))
        stack = _empty_stack(job)
        load_weights(stack, job.weights(ENSEMBLE, None), fresh_head=False)
    weights = None
    if joining is not None and joining.weights is not None and joining.weights != "confidence":
        given = validation_weights(job.data.task.kind, scores) if joining.weights == "accuracy" else joining.weights
        weights = {spec.name: weight / sum(given) for spec, weight in zip(specs, given, strict=True)}
    combine = combiner(job.data.task.kind, joining, scores=scores, stack=stack)
    return Teachers(results, keys, members, combine, weights, stacked)


def train_teacher(
    job: RunContext, spec: TeacherSpec | Assistant, folder: Path, source: TeacherSource | None = None
) -> TeacherResult:
    """Train or load one network that will teach, and look at it before anyone learns from it.

    Args:
        job: the run.
        spec: the network, its seed and its plan.
        folder: of its stage.
        source: whom it learns from itself, for an assistant.
    """
    if isinstance(spec, TeacherSpec) and isinstance(spec.source, Estimator):
        return _fitted(job, spec, folder)
    seed_everything("teacher", spec.name, spec.seed)
    network = job.network(spec)
    found: dict[str, Any] = {}
    if spec.train:
        objective, teacher, opened = learning(job, spec.name, source, spec.train, seed=spec.seed)
        stored = teacher is not None
        history = train_network(job, network, objective, teacher, spec.train, folder, seed=spec.seed, stored=stored)
        found = {"epochs": history.epochs, "weights_found": history.weights, "cache": opened}
    elif job.accelerator.is_main_process and not spec.asked:
        save_weights(network, folder / "best.safetensors", {"from": getattr(spec, "weights", None) or spec.model})
    found["files"] = [] if spec.asked else [str(job.weights(spec.name, spec.train).relative_to(job.folder))]
    return _examined(job, spec.name, network, None if spec.train else spec).model_copy(update=found)


def _fitted(job: RunContext, spec: TeacherSpec, folder: Path) -> TeacherResult:
    """Fit an estimator, in one process; it is as good as its outputs for rows that it has not seen."""
    said: list[str] = []
    if job.accelerator.is_main_process:
        said = external.fit_estimator(spec, job.data, folder, job.progress)
    job.accelerator.wait_for_everyone()
    found = _examined(job, spec.name, external.fitted(folder))
    files = [f"{spec.name}/{name}" for name in external.KEPT]
    return found.model_copy(update={"files": files, "notes": [*found.notes, *said]})


@dataclass(frozen=True)
class Assistants:
    """The assistants of a run.

    Attributes:
        results: what came out of each by name.
        members: all of them.
        end: whom the student learns from: the last one, or the teachers themselves where there is none.
    """

    results: Mapping[str, TeacherResult]
    members: Sequence[Member]
    end: TeacherSource


def train_assistants(job: RunContext, teachers: Teachers) -> Assistants:
    """Train the chain of assistants."""
    results: dict[str, TeacherResult] = {}
    source = teachers.source(job)
    members: list[Member] = []
    for spec in job.recipe.assistants:
        key = job.key(spec, *source.keys)
        compute = partial(train_teacher, job, spec, source=source)
        results[spec.name] = job.stages.together(spec.name, key, TeacherResult, compute)
        members.append(_member(job, spec, results[spec.name]))
        opening = partial(_open, job, *members[-1])
        source = TeacherSource(spec.name, opening, [*source.keys, key], job.weights(spec.name, spec.train))
    return Assistants(results, members, source)


def _open(
    job: RunContext, name: str, build: Callable[[], nn.Module], dtype: torch.dtype, taps: Sequence[str]
) -> TeacherOutputs:
    return teacher_outputs.teacher(job, name, name, build(), dtype, taps)


def _member(job: RunContext, spec: TeacherSpec | Assistant, result: TeacherResult) -> Member:
    build = partial(job.network, spec, job.weights(spec.name, spec.train))
    return spec.name, build, getattr(torch, result.dtype)


def _examined(job: RunContext, name: str, network: nn.Module, brought: Network | None = None) -> TeacherResult:
    """How good a teacher is on validation, what speaks against it, and the dtype it may compute in.

    One that was not trained here is `brought` along: it may know other inputs, classes or units than it is taken to.
    """
    data, device = job.data, job.device
    prediction = evaluate.predict(network.to(device), data, data.val, device=device)
    found = evaluate.metrics(data.task, prediction, targets(data, data.val, "cpu"), data.targets)
    val = {k: v for k, v in found.items() if isinstance(v, float)}
    findings = diagnose.doubts(name, val, data)
    if brought is not None:
        findings += diagnose.examine(name, network, brought, data, prediction, device)
    doubts = [one for one in findings if one.level != "ok"]
    for one in doubts:
        job.progress.say(f"{'WARNING' if one.level == 'warning' else one.level}: {one}")
    dtype = "bfloat16" if diagnose.bfloat16_is_safe(network, data, device) else "float32"
    weights = fingerprint_tensors(plain(network).state_dict())
    return TeacherResult(val=val, notes=[str(one) for one in doubts], dtype=dtype, weights=weights)


def words(job: RunContext, teachers: Teachers) -> str:
    """How the teachers became one, in a sentence."""
    joining, count = job.recipe.combine, len(teachers.members)
    name = joining.name if joining else rules(job.data.task).ensembles[0]
    if teachers.weights:
        shares = ", ".join(f"{member} {weight:.2f}" for member, weight in teachers.weights.items())
        how = "by validation score" if joining and joining.weights == "accuracy" else "as the recipe says"
        return f"the mean of {count} teachers, weighted {how}: {shares}"
    said = {
        "average": f"the mean probability of {count} teachers",
        "logits-average": f"the mean of {count} teachers' logits, each centred",
        "vote": f"the smoothed share of {count} teachers' first choices",
        "weighted": f"the mean probability of {count} teachers, each weighted in every row by its confidence",
        "mean": f"the mean of {count} teachers",
        "median": f"the median of {count} teachers",
    }
    if name in said:
        return said[name]
    if teachers.joint:
        return f"{count} networks and a layer over their outputs, trained as one network"
    assert teachers.stacked is not None
    return f"a small network over {count} teachers' outputs, fitted on the {teachers.stacked.rows:,} validation rows"


# --- joining -------------------------------------------------------------------------------------


def _empty_stack(job: RunContext) -> Stack:
    joining = job.recipe.combine
    assert joining is not None
    return Stack(len(job.recipe.teachers), job.data.task.width, kind=job.data.task.kind, hidden=joining.hidden)


def _stack(job: RunContext, members: Sequence[Member], folder: Path) -> StackResult:
    """Fit a stack on the validation rows, which no member has learned from."""
    data, joining = job.data, job.recipe.combine
    assert joining is not None
    outputs: list[Tensor] = []
    with job.progress.bar(ENSEMBLE, len(members)) as advance:
        for name, build, _ in members:
            outputs.append(evaluate.predict(build().to(job.device), data, data.val, device=job.device))
            advance(len(outputs), name)
        stack = fit_stack(
            torch.stack(outputs), targets(data, data.val, "cpu"), kind=data.task.kind, hidden=joining.hidden, seed=0
        )
    if job.accelerator.is_main_process:
        save_weights(stack, folder / "best.safetensors")
    return StackResult(files=[f"{ENSEMBLE}/best.safetensors"], rows=len(data.val))


def _jointly(job: RunContext, results: dict[str, TeacherResult], keys: dict[str, str]) -> Teachers:
    """Train all members and the layer over them as one network, and take it apart again."""
    specs, joining = job.recipe.teachers, job.recipe.combine
    assert joining is not None
    assert joining.train is not None
    keys[ENSEMBLE] = job.key(specs[0], "joint", [spec.model_dump(mode="json") for spec in specs], list(keys.values()))

    def untrained() -> Joint:
        networks = []
        for spec in specs:
            seed_everything("teacher", spec.name, spec.seed)
            networks.append(job.network(spec, job.weights(spec.name, spec.train) if spec.name in results else None))
        seed_everything("teacher", "ensemble")
        return Joint(networks, _empty_stack(job))

    def compute(folder: Path) -> TeacherResult:
        network, plan = untrained(), joining.train
        assert plan is not None
        objective = objectives.alone(job, plan)
        history = train_network(job, network, objective, None, plan, folder, seed=0, stored=False)
        files = [str(job.weights(ENSEMBLE, plan).relative_to(job.folder))]
        return _examined(job, ENSEMBLE, network).model_copy(update={"files": files, "epochs": history.epochs})

    results[ENSEMBLE] = job.stages.together(ENSEMBLE, keys[ENSEMBLE], TeacherResult, compute)

    def trained() -> Joint:
        network = untrained()
        load_weights(network, job.weights(ENSEMBLE, joining.train), fresh_head=False)
        return network

    dtype = getattr(torch, results[ENSEMBLE].dtype)
    members = [(spec.name, partial(_part, trained, number), dtype) for number, spec in enumerate(specs)]
    return Teachers(results, keys, members, as_combine(trained().stack), joint=trained)


def _part(trained: Callable[[], Joint], number: int) -> nn.Module:
    return trained().members[number]
