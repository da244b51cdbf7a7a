"""Students made smaller: pruned, factorised, sparsified or quantized, each recovered with and without the teacher."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from limbeck import compress, evaluate, export
from limbeck.compress import qat
from limbeck.core.errors import UserError, within
from limbeck.core.files import read_json, write_json
from limbeck.core.hashing import fingerprint
from limbeck.core.result import BudgetSearch
from limbeck.core.seeding import derive_seed, seed_everything
from limbeck.core.types import Batch, Role
from limbeck.data import batches
from limbeck.evaluate import costs
from limbeck.models import Normalized, load_weights, metadata_of
from limbeck.pipeline.context import RunContext
from limbeck.pipeline.outline import learns_from_teacher
from limbeck.pipeline.stage_results import ModelResult, StepResult
from limbeck.pipeline.train_students import outcome, student_as_teacher
from limbeck.pipeline.train_teachers import TeacherSource, learning
from limbeck.pipeline.trained import TrainedModel
from limbeck.pipeline.training import train_network
from limbeck.recipe import Factorise, Plan, Prune, Recover, Step
from limbeck.recipe.stages import SEARCH, recovered
from limbeck.tasks import main_metric, rules
from limbeck.tasks.normal_form import classes_last

LOOKED_AT = 1024  # training rows by which channels are judged, and by which batch norms are measured anew
PART = 32  # rows a batch of these: many small batches tell more of a channel than few large ones
SCORED = 2048  # validation rows by which ranks are searched


@dataclass(frozen=True)
class Variant:
    """A way to a smaller student.

    Attributes:
        name: in the recipe, or "budget".
        steps: with their recovery.
    """

    name: str
    steps: Sequence[Step]


def compress_students(
    job: RunContext,
    students: Sequence[TrainedModel],
    source: TeacherSource | None,
    searched: BudgetSearch | None = None,
) -> list[TrainedModel]:
    """Make the students of all seeds smaller in every variant of the recipe.

    Args:
        job: the run.
        students: those that were trained.
        source: whom they learned from; without one the student itself, as it was, teaches its smaller self.
        searched: what a search within a budget found; its winner is one more variant, unless that is the student itself
            in another format.
    """
    found = []
    variants = dict(job.recipe.compress)
    if searched and searched.winner and searched.winner.steps:
        variants[SEARCH] = [Step.model_validate(step) for step in searched.winner.steps]
    for name, steps in variants.items():
        for start in starts(students):
            found += compress_student(job, Variant(name, steps), start, source)
    return found


def starts(students: Sequence[TrainedModel]) -> list[TrainedModel]:
    """Whom smaller ones are made of: of every seed the student that was taught, or the only one there is."""
    taught = [s for s in students if s.role == "distilled"]
    return taught or [s for s in students if s.role == "student"]


def compress_student(
    job: RunContext, variant: Variant, start: TrainedModel, source: TeacherSource | None
) -> list[TrainedModel]:
    """One student made smaller, recovered with the teacher and, where that can differ, without."""
    teacher = source or student_as_teacher(job, start, [job.key(job.recipe.student, start.seed)])
    if not (any(step.recover.epochs for step in variant.steps) and learns_from_teacher(job.recipe)):
        return [run_steps(job, variant, start, None, "compressed")]
    return [
        run_steps(job, variant, start, teacher, "compressed"),
        run_steps(job, variant, start, None, "compressed-alone"),
    ]


def run_steps(
    job: RunContext, variant: Variant, start: TrainedModel, source: TeacherSource | None, role: Role
) -> TrainedModel:
    """All steps of a variant in turn; the last one is the stage that gives the whole its name."""
    name = recovered(variant.name, start.seed, taught=role == "compressed")
    rounds = [(step, number) for step in variant.steps for number in range(step.rounds)]
    result = ModelResult()
    described: list[str] = []
    before, key = start.weights, job.key(job.recipe.student, start.name, *(source.keys if source else ()))
    for count, (step, number) in enumerate(rounds, start=1):
        stage = name if count == len(rounds) else f"{name}/step{count}"
        key = fingerprint(key, step.model_dump(mode="json", exclude_none=True), number)
        with within(f"compress.{variant.name}"):
            compute = partial(_take, job, step, number, before, start, source)
            # What a search has found follows from it, and was not asked for by name.
            made = job.stages.together(stage, key, StepResult, compute, renew=variant.name == SEARCH)
        result, described = made, [*described, *made.told]
        before = job.folder / stage / "model.safetensors"
    return TrainedModel(
        name,
        role,
        start.seed,
        before,
        partial(rebuild, job, before),
        result,
        variant=variant.name,
        start=start.name,
        steps=variant.steps,
        changes=described,
    )


def _take(
    job: RunContext,
    step: Step,
    number: int,
    before: Path,
    start: TrainedModel,
    source: TeacherSource | None,
    folder: Path,
) -> StepResult:
    """One step: planned, shown, done, recovered, written."""
    label, plan = str(folder.relative_to(job.folder)), recovery(job.recipe.student.train, step.recover)
    seed = derive_seed("compress", start.seed, step.model_dump_json(), number)
    network, edits = rebuild(job, before), list(compress.edits_of(before))
    meta = {"from": start.name}
    if isinstance(network, Normalized):  # what learns quantized has these inside
        meta |= {name: json.dumps(getattr(network, name).tolist()) for name in ("mean", "std")}
    if step.quantize:
        changes = [f"learns with weights of {step.quantize.weights} bits and activations of 8"]
        meta["weight_bits"] = str(step.quantize.weights)
    else:
        edit = _edit(job, step, edits[len(edits) - number :], network, seed, folder)
        changes = compress.describe(edit)
        edits.append(edit)
    for line in changes:
        job.progress.say(f"{label}: {line}")
    network = (
        fake_quantized(job, network, step.quantize.weights) if step.quantize else compress.apply(network, edits[-1])
    )
    seed_everything("compress", seed)
    if plan.epochs:
        result = _recovered(job, network, edits, plan, start, source, seed, folder)
    else:
        network = compress.recalibrate(network, (batch.x for batch in _rows(job)))
        found = evaluate.assess(network.to(job.device), job.data, job.data.val, device=job.device)
        result = ModelResult(val={k: v for k, v in found.items() if isinstance(v, float)})
    file = folder / "model.safetensors"
    if job.accelerator.is_main_process:
        compress.save(network, edits, file, metadata=meta)
    return StepResult(**{**dict(result), "told": changes, "files": [str(file.relative_to(job.folder))]})


def _recovered(
    job: RunContext,
    network: nn.Module,
    edits: Sequence[compress.Edit],
    plan: Plan,
    start: TrainedModel,
    source: TeacherSource | None,
    seed: int,
    folder: Path,
) -> ModelResult:
    """Train what was made smaller; weights that were made zero stay zero."""
    objective, teacher, stored = learning(job, "student", source, plan, seed=start.seed, network=network)
    zeros = compress.keep_zeros(network, edits)
    history = train_network(job, network, objective, teacher, plan, folder, seed=seed, stored=True)
    zeros.remove()
    return outcome(plan, history).model_copy(update={"cache": stored})


def recovery(plan: Plan, recover: Recover) -> Plan:
    """How a student recovers: its own plan, but for the number of epochs and what was made for another number."""
    changes: dict[str, Any] = {"epochs": recover.epochs, "warmup_epochs": 0.0, "patience": None, "ema": None}
    changes["schedule"] = plan.schedule.model_copy(update={"t_max": None})
    if plan.schedule.name == "step":
        changes["schedule"] = plan.schedule.model_copy(update={"name": "cosine", "step_size": None})
    if recover.lr is not None:
        changes["lr"] = recover.lr
    return plan.model_copy(update=changes)


# --- networks as they became ---------------------------------------------------------------------


def rebuild(job: RunContext, file: Path) -> nn.Module:
    """A student in a file, with everything that was done to it."""
    meta, spec = metadata_of(file), job.recipe.student.model_copy(update={"pretrained": False, "weights": None})
    if "from" not in meta or "edits" not in meta:
        return job.network(spec, file)
    known = {key: json.loads(meta[key]) for key in ("mean", "std")}
    network = compress.replay(job.network(spec.model_copy(update=known)), compress.edits_of(file))
    if bits := meta.get("weight_bits"):
        network = fake_quantized(job, network, int(bits))
    load_weights(network, file, fresh_head=False)
    return network


def fake_quantized(job: RunContext, network: nn.Module, bits: int) -> nn.Module:
    """A network that learns with its numbers quantized."""
    return qat.prepare_qat(network, torch.cat([batch.x for batch in _rows(job)]).cpu(), weight_bits=bits)


def _rows(job: RunContext) -> Iterator[Batch]:
    """Some training rows on the CPU, not augmented, always the same."""
    rows = job.data.train[torch.randperm(len(job.data.train), generator=torch.Generator().manual_seed(0))[:LOOKED_AT]]
    yield from batches(job.data, rows, PART)


# --- what a step does ----------------------------------------------------------------------------


def _edit(
    job: RunContext, step: Step, rounds: Sequence[compress.Edit], network: nn.Module, seed: int, folder: Path
) -> compress.Edit:
    """What this step does to this network after these earlier rounds of it.

    It is found once: a recovery that goes on must find the same network.
    """
    file = folder / "edit.json"
    if file.exists():
        return compress.read_edit(read_json(file), str(file))
    if step.prune:
        found = _prune(job, step.prune, rounds, network, seed)
    elif step.factorise:
        found = _factorise(job, step.factorise, network)
    else:
        assert step.sparsify is not None
        wanted = step.sparsify
        found = compress.plan_sparsify(network, amount=wanted.amount, pattern=wanted.pattern, keep=wanted.keep)
    if job.accelerator.is_main_process:
        write_json(file, found.model_dump(mode="json"))
    return found


def _prune(
    job: RunContext, spec: Prune, rounds: Sequence[compress.Edit], network: nn.Module, seed: int
) -> compress.Edit:
    task = job.data.task

    def losses(pruned: nn.Module) -> Iterator[Tensor]:
        for batch in _rows(job):
            yield rules(task).error(task, classes_last(pruned(batch.x)), batch.y)

    given: dict[str, Any] = {
        "importance": spec.importance,
        "scope": spec.scope,
        "cap": spec.cap,
        "round_to": spec.round_to,
        "keep": spec.keep,
        "seed": seed,
        "losses": losses,
    }
    x = next(_rows(job)).x[:1]
    kind = next(kind for kind in ("ratio", "macs", "params", "latency") if getattr(spec, kind) is not None)
    share = getattr(spec, kind)
    if kind == "ratio":
        # So much of what is left that after the last round the whole share is gone. A round may be too small for layers
        # whose widths are rounded; the next one then makes up for it.
        counted = [n for n, one in enumerate(rounds, start=1) if isinstance(one, compress.PruneEdit) and one.history]
        gone = max(counted, default=0)
        done, then = share * gone / spec.steps, share * (len(rounds) + 1) / spec.steps
        try:
            return compress.plan_prune(network, x, ratio=1 - (1 - then) / (1 - done), **given)
        except UserError:
            if len(rounds) + 1 == spec.steps:
                raise
            return compress.plan_prune(network, x, ratio=0.0, **given)
    cost: Callable[[nn.Module], float] = {
        "macs": lambda pruned: costs.macs(pruned, x),
        "params": costs.parameters,
        "latency": lambda pruned: export.quick_latency(pruned, x),
    }[kind]
    return compress.plan_prune(network, x, cost=cost, target=share ** (1 / spec.steps), **given)


def _factorise(job: RunContext, spec: Factorise, network: nn.Module) -> compress.Edit:
    metric = main_metric(job.data.task)

    def score(thinner: nn.Module) -> float:
        found = evaluate.assess(thinner.to(job.device), job.data, job.data.val[:SCORED], device=job.device)
        return metric.sign * float(found[metric.name])

    def faster(layer: nn.Module, factors: nn.Module, x: Tensor) -> bool:
        return export.quick_latency(factors, x) < export.quick_latency(layer, x)

    return compress.plan_factorise(
        network,
        next(_rows(job)).x[:1],
        method=spec.method,
        ranks=spec.ranks,
        energy=spec.energy,
        drop=spec.drop,
        keep=spec.keep,
        score=score if spec.ranks == "sensitivity" else None,
        faster=faster if spec.check_latency else None,
    )
