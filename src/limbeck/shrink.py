"""Students made smaller: pruned, factorised, thinned or rounded, each recovered with and without the teacher."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from limbeck import benchmark, compress, evaluate, export, quantize, signatures
from limbeck.data import batches
from limbeck.fitting import within
from limbeck.job import Job
from limbeck.models import Normalized, load_weights, plain, save_weights
from limbeck.recipe import Factorise, Plan, Prune, Recipe, Recover, Step
from limbeck.runtime import derive_seed, fingerprint, read_json, seed_everything, write_json
from limbeck.study import Studied, as_tutor, outcome
from limbeck.teach import Tutor
from limbeck.train import fit
from limbeck.types import Role

LOOKED_AT = 512  # training rows by which channels are judged, and by which batch norms are measured anew
PART = 64  # rows a batch of these
SCORED = 2048  # validation rows by which ranks are searched


@dataclass(frozen=True)
class Shrunk:
    """A student made smaller.

    Attributes:
        name: of its stage.
        role: "compressed" where it recovered with the teacher, "compressed-alone" where without.
        variant: the way, in the recipe; or "budget".
        seed: of the student it was made of.
        start: the name of that student.
        steps: what was done.
        told: the same in words, with what came of it.
        file: its weights, and in their metadata what was done.
        result: what its last recovery gave.
    """

    name: str
    role: Role
    variant: str
    seed: int
    start: str
    steps: Sequence[Step]
    told: Sequence[str]
    file: Path
    result: Mapping[str, Any]

    @property
    def rounded(self) -> bool:
        """Whether it learned with its numbers rounded, and can become integer files only."""
        return bool(self.steps and self.steps[-1].quantize)


@dataclass(frozen=True)
class Chain:
    """A way to a smaller student.

    Attributes:
        name: in the recipe, or "budget".
        steps: with their recovery.
    """

    name: str
    steps: Sequence[Step]


def shrink(
    job: Job, studied: Sequence[Studied], tutor: Tutor | None, searched: Mapping[str, Any] | None = None
) -> list[Shrunk]:
    """Make the students of all seeds smaller in every way of the recipe.

    Args:
        job: the run.
        studied: those that were trained.
        tutor: whom they learned from; without one the student itself, as it was, teaches its smaller self.
        searched: what a search within a budget found; its winner is one more way.
    """
    found = []
    ways = dict(job.recipe.compress)
    if searched and searched["winner"]:
        ways["budget"] = [Step.model_validate(step) for step in searched["winner"]["steps"]]
    for name, steps in ways.items():
        for start in starts(studied):
            found += shrink_one(job, Chain(name, steps), start, tutor)
    return found


def starts(studied: Sequence[Studied]) -> list[Studied]:
    """Whom smaller ones are made of: of every seed the student that was taught, or the only one there is."""
    taught = [s for s in studied if s.role == "distilled"]
    return taught or [s for s in studied if s.role == "student"]


def shrink_one(job: Job, chain: Chain, start: Studied, tutor: Tutor | None) -> list[Shrunk]:
    """One student made smaller, recovered with the teacher and, where that can differ, without."""
    teacher = tutor or as_tutor(job, start, [job.key(job.recipe.student, start.seed)])
    if not learns_from_teacher(job.recipe, chain):
        return [walk(job, chain, start, None, "compressed")]
    return [walk(job, chain, start, teacher, "compressed"), walk(job, chain, start, None, "compressed-alone")]


def learns_from_teacher(recipe: Recipe, chain: Chain) -> bool:
    """Whether recovering with a teacher can be another thing than without."""
    known = signatures.losses()
    taught = any(known[term.loss].needs_teacher and term.learns for term in recipe.losses.values())
    return taught and any(step.recover.epochs for step in chain.steps)


def walk(job: Job, chain: Chain, start: Studied, tutor: Tutor | None, role: Role) -> Shrunk:
    """All steps of a chain in turn; the last one is the stage that gives the whole its name."""
    ending = "-alone" if role == "compressed-alone" else ""
    name = f"{chain.name}{ending}-seed{start.seed}"
    rounds = [(step, number) for step in chain.steps for number in range(step.rounds)]
    told: list[str] = []
    before, key = start.file, job.key(job.recipe.student, start.name, *(tutor.keys if tutor else ()))
    for count, (step, number) in enumerate(rounds, start=1):
        stage = name if count == len(rounds) else f"{name}/step{count}"
        key = fingerprint(key, step.model_dump(mode="json", exclude_none=True), number)
        with within(f"compress.{chain.name}"):
            compute = partial(_take, job, step, number, before, start, tutor)
            result = job.stages.together(stage, key, compute)
        told += result["told"]
        before = job.folder / stage / "model.safetensors"
    return Shrunk(name, role, chain.name, start.seed, start.name, chain.steps, told, before, result)


def _take(
    job: Job, step: Step, number: int, before: Path, start: Studied, tutor: Tutor | None, folder: Path
) -> dict[str, Any]:
    """One step: planned, shown, done, recovered, written."""
    label, plan = str(folder.relative_to(job.folder)), recovery(job.recipe.student.train, step.recover)
    seed = derive_seed("compress", start.seed, label.removesuffix("-alone"))
    network = rebuild(job, before)
    edits = compress.edits_of(before)
    edit = _edit(job, step, number, network, seed, folder)
    for line in compress.describe(edit):
        job.progress.say(f"{label}: {line}")
    network = edited(network, edit, job)
    edits = [*edits, edit]
    result: dict[str, Any] = {"epochs": [], "told": compress.describe(edit)}
    seed_everything("compress", seed)
    if plan.epochs:
        teacher, objective = None, job.label_objective(plan)
        if tutor:
            objective = job.objective("student", tutor.name, plan, seed=start.seed, weights=tutor.file, network=network)
            teacher, result["cache"] = tutor.ask(objective.teacher_taps)
        zeros = compress.keep_zeros(plain(network), edits)
        history = fit(
            network,
            objective,
            teacher,
            job.data,
            plan,
            seed=seed,
            folder=folder,
            fetch=job.fetch(stored=True),
            views=job.views,
            run=job.recipe.run,
            progress=job.progress,
            label=label,
        )
        zeros.remove()
        result |= outcome(plan, history)
    else:
        network = compress.recalibrate(network, (batch.x for batch in _rows(job)))
        found = evaluate.assess(network.to(job.device), job.data, job.data.val, device=job.device)
        result["val"] = {k: v for k, v in found.items() if isinstance(v, float)}
    file = folder / "model.safetensors"
    if job.accelerator.is_main_process:
        save_weights(network, file, {"edits": json.dumps(edits), "from": start.name})
    return {**result, "files": [str(file.relative_to(job.folder))]}


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


def rebuild(job: Job, file: Path) -> Normalized:
    """A student in a file, with everything that was done to it."""
    spec = job.recipe.student.model_copy(update={"pretrained": False, "weights": None})
    edits = compress.edits_of(file)
    if not edits:
        return job.network(spec, file)
    network = job.network(spec)
    for edit in edits:
        network = edited(network, edit, job, weights=False)
    load_weights(network, file, fresh_head=False)
    return network


def edited(network: Normalized, edit: compress.Edit, job: Job, *, weights: bool = True) -> Normalized:
    """A network after one more edit; without `weights` only its architecture counts."""
    inner = network.model
    if edit["step"] == "quantize":
        inner = quantize.prepare_qat(inner, example(job, network), weight_bits=edit["weights"])
    else:
        inner = compress.apply(inner, edit, weights=weights)
    return Normalized(inner, network.mean, network.std)


def example(job: Job, network: Normalized) -> Tensor:
    """Two rows as the plain network gets them."""
    x = next(_rows(job)).x[:2].cpu()
    shape = (-1,) + (1,) * (x.ndim - 2)
    return (x - network.mean.cpu().view(shape)) / network.std.cpu().view(shape)


def _rows(job: Job, count: int = LOOKED_AT) -> Iterator[Any]:
    """Some training rows, not augmented, always the same."""
    rows = job.data.train[torch.randperm(len(job.data.train), generator=torch.Generator().manual_seed(0))[:count]]
    yield from batches(job.data, rows, PART, device=job.device)


# --- what a step does ----------------------------------------------------------------------------


def _edit(job: Job, step: Step, number: int, network: Normalized, seed: int, folder: Path) -> compress.Edit:
    """What this step does to this network. It is found once: a recovery that goes on must find the same network."""
    file = folder / "edit.json"
    if file.exists():
        return dict(read_json(file))
    if step.prune:
        found = _prune(job, step.prune, number, network, seed)
    elif step.sparsify:
        wanted = step.sparsify
        found = compress.plan_sparsify(network.model, amount=wanted.amount, pattern=wanted.pattern, keep=wanted.keep)
    elif step.factorise:
        found = _factorise(job, step.factorise, network)
    else:
        assert step.quantize is not None
        found = {"step": "quantize", "weights": step.quantize.weights}
    if job.accelerator.is_main_process:
        write_json(file, found)
    return found


def _prune(job: Job, spec: Prune, number: int, network: Normalized, seed: int) -> compress.Edit:
    def losses(inner: nn.Module) -> Iterator[Tensor]:
        wrapped = Normalized(inner, network.mean, network.std).to(job.device)
        for batch in _rows(job):
            prediction = wrapped(batch.x)
            if job.data.task.kind == "classification":
                yield nn.functional.cross_entropy(prediction, batch.y)
            else:
                yield nn.functional.mse_loss(prediction[:, : job.data.task.width], batch.y)

    given: dict[str, Any] = {
        "importance": spec.importance,
        "scope": spec.scope,
        "cap": spec.cap,
        "round_to": spec.round_to,
        "keep": spec.keep,
        "seed": seed,
        "losses": losses,
    }
    kind = next(kind for kind in ("ratio", "macs", "params", "latency") if getattr(spec, kind) is not None)
    share = getattr(spec, kind)
    x = example(job, network)
    if kind == "ratio":
        # So much of what is left that after the last round the whole share is gone.
        done, next_ = share * number / spec.steps, share * (number + 1) / spec.steps
        return compress.plan_prune(network.model, x, ratio=1 - (1 - next_) / (1 - done), **given)
    cost = {"macs": lambda m: benchmark.macs(m, x), "params": benchmark.parameters, "latency": timed(x)}[kind]
    return compress.plan_prune(network.model, x, cost=cost, target=share ** (1 / spec.steps), **given)


def _factorise(job: Job, spec: Factorise, network: Normalized) -> compress.Edit:
    metric, higher = evaluate.main_metric(job.data.task)

    def score(inner: nn.Module) -> float:
        wrapped = Normalized(inner, network.mean, network.std).to(job.device)
        found = float(evaluate.assess(wrapped, job.data, job.data.val[:SCORED], device=job.device)[metric])
        return found if higher else -found

    def faster(layer: nn.Module, factors: nn.Module, x: Tensor) -> bool:
        time = timed(x[:1])
        return time(factors) < time(layer)

    return compress.plan_factorise(
        network.model,
        example(job, network),
        method=spec.method,
        ranks=spec.ranks,
        energy=spec.energy,
        drop=spec.drop,
        keep=spec.keep,
        score=score if spec.ranks == "sensitivity" else None,
        faster=faster if spec.check_latency else None,
    )


def timed(x: Tensor) -> Callable[[nn.Module], float]:
    """What measures the time of a network for one row, in milliseconds, in ONNX Runtime on one thread."""

    def cost(network: nn.Module) -> float:
        return export.quick_latency(network, x)

    return cost
