"""Those who learn: for every seed a student alone and one that is taught, and what chains and self-teaching add."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import nn

from limbeck import evaluate
from limbeck.core.seeding import derive_seed, seed_everything
from limbeck.core.types import Role
from limbeck.distill.teachers import diagnose
from limbeck.distill.train import History, fit_mutual
from limbeck.models import save_weights
from limbeck.pipeline import objectives, teacher_outputs
from limbeck.pipeline.context import RunContext
from limbeck.pipeline.stage_results import ModelResult, PeersResult
from limbeck.pipeline.train_teachers import TeacherOutputs, TeacherSource, learning
from limbeck.pipeline.trained import TrainedModel
from limbeck.pipeline.training import train_network
from limbeck.recipe import Plan, stages


def train_students(
    job: RunContext, source: TeacherSource | None, direct: TeacherSource | None = None
) -> list[TrainedModel]:
    """Train every student of a run.

    Args:
        job: the run.
        source: the one that counts: the teachers, or the last assistant; None where there is none.
        direct: the teachers themselves, where assistants stand between.
    """
    found = []
    for seed in job.recipe.seeds:
        alone = train_student(job, stages.seeded("student", seed), "student", seed, None)
        found.append(alone)
        if job.recipe.student.ready:
            continue
        if job.recipe.student.peers:
            found += _peers(job, seed)
            continue
        if direct:
            found.append(train_student(job, stages.seeded("direct", seed), "direct", seed, direct))
        if job.recipe.student.generations:
            found += _generations(job, seed, source, alone)
        elif source:
            found.append(train_student(job, stages.seeded("distilled", seed), "distilled", seed, source))
            for variant in job.recipe.compare:
                found.append(
                    train_student(job, stages.seeded(variant, seed), "compared", seed, source, variant=variant)
                )
    return found


def train_student(
    job: RunContext,
    name: str,
    role: Role,
    seed: int,
    source: TeacherSource | None,
    *,
    generation: int = 1,
    variant: str = "",
) -> TrainedModel:
    """Train one student, or take it as it is where it has been trained: `generation` and `variant` name which.

    Args:
        job: the run.
        name: of the stage.
        role: what it is compared as.
        seed: of its first weights and its data order.
        source: whom it learns from; None for the labels alone.
        generation: from the second on it begins from other weights.
        variant: a name in `compare`, or "" for `losses`.
    """
    spec = job.recipe.student
    parts = [seed, *([list(source.keys)] if source else []), *([generation] if generation > 1 else [])]
    key = job.key(spec, *parts, variant=variant)
    result = job.stages.together(name, key, ModelResult, partial(_train, job, seed, source, generation, variant))
    file = job.weights(name, spec.train)
    return TrainedModel(name, role, seed, file, partial(job.network, spec, file), result, variant=variant)


def _train(
    job: RunContext, seed: int, source: TeacherSource | None, generation: int, variant: str, folder: Path
) -> ModelResult:
    """Train one student. The seed fixes its first weights and its data order, the same with and without a teacher."""
    spec = job.recipe.student
    # A later generation begins anew: from the weights its teacher began with it would retrace its teacher's steps.
    seed = seed if generation == 1 else derive_seed("generation", seed, generation)
    seed_everything("student", seed)
    network = job.network(spec)
    if spec.ready:
        return _as_it_is(job, network, folder)
    objective, teacher, stored = learning(job, "student", source, spec.train, variant=variant, seed=seed)
    history = train_network(job, network, objective, teacher, spec.train, folder, seed=seed, stored=True)
    return outcome(spec.train, history).model_copy(update={"cache": stored, "files": [_file(job, folder.name)]})


def _as_it_is(job: RunContext, network: nn.Module, folder: Path) -> ModelResult:
    """A student that the user brought along, among those that were trained."""
    found = evaluate.assess(network.to(job.device), job.data, job.data.val, device=job.device)
    if job.accelerator.is_main_process:
        student = job.recipe.student
        save_weights(network, folder / "best.safetensors", {"from": student.weights or student.model})
    val = {k: v for k, v in found.items() if isinstance(v, float)}
    return ModelResult(val=val, files=[_file(job, folder.name)])


def _generations(job: RunContext, seed: int, source: TeacherSource | None, alone: TrainedModel) -> list[TrainedModel]:
    """Students that learn one after the other, each from the one before it."""
    count = job.recipe.student.generations
    assert count is not None
    found: list[TrainedModel] = []
    # Without a teacher the student trained alone is the first one.
    generation = 1 if source else 2
    source = source or student_as_teacher(job, alone, [job.key(job.recipe.student, seed)])
    for number in range(1, count + 1):
        last = number == count
        name = stages.generation(seed, number, count)
        role: Role = "distilled" if last else "generation"
        made = train_student(job, name, role, seed, source, generation=generation)
        found.append(replace(made, number=number))
        source = student_as_teacher(job, found[-1], [*source.keys, name])
        generation += 1
    return found


def student_as_teacher(job: RunContext, student: TrainedModel, keys: Sequence[str]) -> TeacherSource:
    """A trained student as one to learn from; `keys` say what its outputs depend on."""
    return TeacherSource("student", partial(_open, job, student), keys, student.file)


def _open(job: RunContext, student: TrainedModel, taps: Sequence[str]) -> TeacherOutputs:
    network = job.network(job.recipe.student, student.file)
    low = diagnose.bfloat16_is_safe(network.to(job.device), job.data, job.device)
    return teacher_outputs.teacher(
        job, "student", student.name, network, torch.bfloat16 if low else torch.float32, taps
    )


def _peers(job: RunContext, seed: int) -> list[TrainedModel]:
    """Students that learn together; the first begins where the student alone began."""
    spec, stage = job.recipe.student, stages.peer(seed, 0)
    assert spec.peers is not None
    result = job.stages.together(stage, job.key(spec, seed, "peers"), PeersResult, partial(_together, job, seed))
    found = []
    for number, outcome in enumerate(result.peers):
        role: Role = "peer" if number else "distilled"
        file = job.weights(f"{stage}/peer{number}", spec.train)
        build = partial(job.network, spec, file)
        found.append(TrainedModel(stages.peer(seed, number), role, seed, file, build, outcome, number=number))
    return found


def _together(job: RunContext, seed: int, folder: Path) -> PeersResult:
    spec = job.recipe.student
    assert spec.peers is not None
    networks = []
    for number in range(spec.peers):
        seed_everything("student", *([seed] if not number else [seed, "peer", number]))
        networks.append(job.network(spec))
    histories = fit_mutual(
        networks,
        [
            objectives.taught(job, "student", "student", spec.train, seed=derive_seed("peer", seed, n))
            for n in range(spec.peers)
        ],
        job.data,
        spec.train,
        seed=seed,
        folder=folder,
        fetch=teacher_outputs.fetch(job, stored=True),
        views=job.views,
        run=job.recipe.run,
        progress=job.progress,
        label=folder.name,
    )
    files = [_file(job, f"{folder.name}/peer{number}") for number in range(spec.peers)]
    return PeersResult(peers=[outcome(spec.train, history) for history in histories], files=files)


def outcome(plan: Plan, history: History) -> ModelResult:
    """What is kept of a training: its epochs, and the scores on validation of the one that was selected."""
    selected = history.epochs[history.best_epoch - 1 if plan.select == "best" else -1]
    val = {k.removeprefix("val_"): v for k, v in selected.items() if k.startswith("val_")}
    return ModelResult(epochs=history.epochs, val=val, weights_found=history.weights)


def _file(job: RunContext, name: str) -> str:
    return str(job.weights(name, job.recipe.student.train).relative_to(job.folder))
