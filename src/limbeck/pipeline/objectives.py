"""What learners minimise: the losses of a recipe, as they fit its networks and its data."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import torch
from safetensors import safe_open
from torch import nn

from limbeck import losses, recipe
from limbeck.core import signatures
from limbeck.core.errors import UserError, within
from limbeck.core.seeding import derive_seed
from limbeck.core.types import Batch
from limbeck.data import pixels, targets
from limbeck.distill.objective import Objective, Term
from limbeck.distill.objective.feature_matching import Matching, fit_terms, own_options
from limbeck.distill.objective.feature_taps import Taps
from limbeck.distill.teachers import Frozen
from limbeck.models import plain
from limbeck.pipeline.context import RunContext
from limbeck.recipe import Plan
from limbeck.tasks import rules


def taught(
    job: RunContext,
    learner: str,
    teacher_name: str,
    plan: Plan,
    *,
    variant: str = "",
    seed: int = 0,
    weights: Path | None = None,
    network: nn.Module | None = None,
) -> Objective:
    """What a learner minimises beside a teacher.

    Args:
        job: with the matches that `rehearse` gives for this learner and teacher.
        learner: "student" or the name of an assistant.
        teacher_name: whom it learns from; see `Job.matches`.
        plan: of the learner.
        variant: a name in `compare`, or "" for `losses`.
        seed: the learner's, from which weights of losses follow.
        weights: the teacher's file, for losses that take its classifier.
        network: the learner, where it is no longer as the recipe builds it.
    """
    matching = job.matches[learner, teacher_name, variant]
    if network is not None:
        matching = matching.of(network, pixels(job.data, job.data.train[:2]))
    head = None
    if matching.needs_head:
        assert weights is not None
        head = _linear(weights, matching.head)
    return matching.objective(plan, derive_seed("losses", seed), head)


def alone(job: RunContext, plan: Plan) -> Objective:
    """What a network without a teacher minimises: the recipe's own label terms, their weights summing to 1."""
    known = signatures.losses()
    own = {n: t for n, t in job.recipe.losses.items() if not known[t.loss].needs_teacher and t.learns}
    if not own:
        name = rules(job.recipe.task).label_loss
        name = "label_gaussian_nll" if job.recipe.predicts_variance else name
        own = {name: recipe.Term(loss=name)}
    # One that moves, or is to be found, says nothing of its share: it counts as 1.
    shares = {n: t.weight if isinstance(t.weight, float | int) else 1.0 for n, t in own.items()}
    terms = []
    for name, term in own.items():
        loss = losses.bind(term.loss, **own_options(term, plan, job.data.task.weights))
        student = term.student if isinstance(term.student, str) else term.student[0]
        terms.append(Term(name, loss, shares[name] / sum(shares.values()), student, ramps=term.ramps))
    return Objective(terms, epochs=plan.epochs)


def rehearse(
    job: RunContext, learner: str, student: nn.Module, teacher_name: str, teachers: Sequence[nn.Module]
) -> dict[tuple[str, str, str], Matching]:
    """The losses of two rows by networks that know nothing yet: taps, shapes and options that fit raise nothing.

    Returns:
        (learner, teacher_name, variant) -> the losses as they fit these networks.

    Raises:
        UserError: something in `losses` fits neither the networks nor the data.
    """
    data, plan = job.data, job.recipe.student.train
    # With the largest label among them: a feature used as if it were logits may have too few.
    largest = data.y[data.train.to(data.y.device)].reshape(len(data.train), -1)[:, 0].argmax().cpu()
    rows = torch.stack([data.train[0], data.train[largest]])
    batch = Batch(pixels(data, rows), targets(data, rows), rows)
    variants = {"": job.recipe.losses, **(job.recipe.compare if learner == "student" else {})}
    found = {}
    for variant, terms in variants.items():
        with within(f"compare.{variant}") if variant else nullcontext():
            one = plain(teachers[0]) if len(teachers) == 1 else None  # taps are named from there
            matching = fit_terms(
                terms,
                student,
                one,
                batch.x,
                rows=len(data.x),
                classes=data.task.width,
                class_weights=data.task.weights,
            )
            found[learner, teacher_name, variant] = matching
            head = one.get_submodule(matching.head) if one is not None and matching.head else None
            objective = matching.objective(plan, 0, head)  # type: ignore[arg-type]
            _tried(job, objective, student, teachers, batch)
    _tried(job, alone(job, plan), student, (), batch)
    return found


def teacher_shapes(job: RunContext, teacher_name: str) -> dict[str, tuple[int, ...]]:
    """Shape of one row of each feature that anybody who learns from `teacher_name` asks of it."""
    own = [matching.teacher_shapes for (_, of, _), matching in job.matches.items() if of == teacher_name]
    return {name: shape for shapes in own for name, shape in shapes.items()}


def _tried(
    job: RunContext, objective: Objective, student: nn.Module, teachers: Sequence[nn.Module], batch: Batch
) -> None:
    with within("teacher"):
        kind = job.data.task.kind
        shown = [Frozen(teacher, taps=objective.teacher_taps, kind=kind)(batch) for teacher in teachers]
    with within("student"):
        given = Taps(student.eval(), objective.student_taps)(student, batch.x)
    objective.watch(student.parameters())
    if not objective(given, shown[0] if shown else None, batch)["total"].requires_grad:
        hint = "tap a module that comes after one with weights"
        raise UserError("no loss depends on the student's weights", where="losses", hint=hint)


def _linear(file: Path, name: str) -> nn.Linear:
    """The linear layer of that dotted name in a file of weights."""
    with safe_open(file, framework="pt") as opened:
        weight = opened.get_tensor(f"{name}.weight")
        layer = nn.Linear(weight.shape[1], weight.shape[0], bias=f"{name}.bias" in opened.keys())  # noqa: SIM118
        layer.weight.data = weight
        if layer.bias is not None:
            layer.bias.data = opened.get_tensor(f"{name}.bias")
    return layer
