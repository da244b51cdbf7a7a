"""Every model on the test split: networks here, exported files each in its own runtime."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from limbeck import evaluate
from limbeck.core.hashing import fingerprint, fingerprint_file
from limbeck.core.result import Disagreement, DrawnModel, DrawnValues
from limbeck.core.types import Artifact, Cost, Role
from limbeck.data import Data, pixels, targets
from limbeck.distill.teachers import Combine
from limbeck.evaluate import costs
from limbeck.models import external_model
from limbeck.pipeline.context import SCHEMA, RunContext
from limbeck.pipeline.export import Shipped, ship, with_latency
from limbeck.pipeline.pictures import masks
from limbeck.pipeline.stage_results import MeasuredResult
from limbeck.pipeline.trained import TrainedModel
from limbeck.recipe import Deployable
from limbeck.tasks import rules

FILE = 20  # making and testing one takes as long as testing so many networks
MOST_POINTS, MOST_OUTPUTS_DRAWN = 2000, 8  # of a model on the page, which holds all of them


@dataclass(frozen=True, slots=True)
class Candidate:
    """A model to be measured.

    Attributes:
        model: the trained network.
        formats: the files that it becomes.
        timed: whether its time is measured, and not that of one with the same architecture.
        drawn: whether its predictions of values or pixels are shown on the page.
    """

    model: TrainedModel
    formats: Sequence[Deployable] = ()
    timed: bool = False
    drawn: bool = False


def measure(job: RunContext, candidates: Sequence[Candidate], combine: Combine | None) -> MeasuredResult:
    """What every candidate is worth and costs, and the files of those that are shipped.

    The test split is used here, for the first and only time.

    Args:
        job: the run; files go below `export` in its folder.
        candidates: teachers first.
        combine: how several teachers make one; None for a single one, and where the last of them is all of them.

    Raises:
        UserError: a file computes something else than the network it was made from.
    """
    data = job.data
    example, truth = pixels(data, data.test[:1], "cpu"), targets(data, data.test, "cpu")
    found: list[Artifact] = []
    of_teachers: list[Tensor] = []
    files: list[Artifact] = []
    timed: dict[str, nn.Module] = {}
    drawn: dict[tuple[str, Role], Tensor] = {}
    count = sum(len(c.formats) for c in candidates)
    total, timings = len(candidates) + FILE * count, sum(c.timed for c in candidates) + count
    unit = job.progress.course.work / (total + timings)
    with job.progress.bar("tests and files" if count else "tests", total, work=unit * total) as advance:

        def shown(made: int, note: str) -> None:
            advance(len(found) + FILE * (len(files) + made), note)

        for candidate in candidates:
            model, network = candidate.model, candidate.model.build().eval()
            prediction = evaluate.predict(network.to(job.device), data, data.test, device=job.device)
            together = _together(of_teachers, combine) if of_teachers and model.role != "teacher" else None
            found.append(_tested(job, model, network.cpu(), prediction, truth, together, example))
            if model.role == "teacher":
                of_teachers.append(prediction)
            if candidate.drawn:
                drawn[model.name, model.role] = prediction
            inner = external_model(network)
            if candidate.timed and not (inner and inner.keyed):
                timed[model.name] = network
            shown(0, model.name)
            if candidate.formats:
                shown(0, f"making {len(candidate.formats)} files of {model.name}")
                files += ship(job, _shipped(job, model, network, found[-1], prediction), candidate.formats, shown)
        advance(total, f"{len(found)} networks" + (f", {len(files)} files" if files else ""))
    apart: Disagreement | None = None
    if combine:
        names = [row.name for row in found[: len(of_teachers)]]
        labels = truth if rules(data.task).predicts != "values" else None
        apart = Disagreement.model_validate(
            evaluate.disagreement(data.task, torch.stack(of_teachers), names, data.targets, target=labels)
        )
        found.insert(
            len(of_teachers), _ensemble(found[: len(of_teachers)], _together(of_teachers, combine), truth, data)
        )
    with job.progress.bar("timing", timings, work=unit * timings) as advance:
        note = f"{len(timed)} networks and {len(files)} files, one after the other"
        advance(0, note)
        rows = _with_latency(found, timed, example)
        advance(len(timed), note)
        rows += with_latency(job, files)
    if of_teachers:
        drawn = {(found[len(of_teachers) - (not combine)].name, "teacher"): _together(of_teachers, combine), **drawn}
    picture = masks(job, drawn)
    made = [row.file for row in files if row.file] + ([picture.file] if picture else [])
    return MeasuredResult(models=rows, disagreement=apart, predictions=_drawn(data, drawn), masks=picture, files=made)


def _tested(
    job: RunContext,
    model: TrainedModel,
    network: nn.Module,
    prediction: Tensor,
    truth: Tensor,
    teacher: Tensor | None,
    example: Tensor,
) -> Artifact:
    """What a network is worth on the test split, held against the teacher's prediction where it has one, and costs."""
    data = job.data
    metrics = evaluate.metrics(data.task, prediction, truth, data.targets)
    if teacher is not None:
        metrics |= evaluate.agreement(data.task, prediction, teacher, data.targets, target=truth)
    here = model.file is not None and model.file.is_relative_to(job.folder)
    file = str(model.file.relative_to(job.folder)) if model.file and here else None
    size_bytes = model.file.stat().st_size if model.file else None
    cost = Cost(None, None, size_bytes, None)
    if external_model(network) is None:
        cost = Cost(costs.parameters(network), costs.macs(network, example), size_bytes, None)
    seed = None if model.role in ("teacher", "assistant") else model.seed
    row = Artifact(model.name, model.role, seed, "pytorch", file, metrics, cost)
    return replace(row, variant=model.variant, number=model.number)


def _shipped(job: RunContext, model: TrainedModel, network: nn.Module, row: Artifact, prediction: Tensor) -> Shipped:
    """A measured network as what files are made of."""
    if job.device.type != "cpu":
        # Files run on the CPU; a GPU's shorter float formats would look like a fault of theirs.
        prediction = evaluate.predict(network, job.data, job.data.test)
    key = fingerprint(fingerprint_file(model.weights), SCHEMA, job.recipe.student.model_dump(mode="json"))
    return Shipped(row, network, prediction, key, model.quantized, model.changes)


def _drawn(data: Data, predictions: Mapping[tuple[str, Role], Tensor]) -> DrawnValues | None:
    """What models predict of some test rows, in the targets' own units, five digits of it; None for classes."""
    if data.targets is None:
        return None
    width, total = min(data.task.width, MOST_OUTPUTS_DRAWN), len(data.test)
    count = min(total, max(MOST_POINTS // width, 300))
    kept = torch.randperm(total, generator=torch.Generator().manual_seed(0))[:count].sort().values

    def own(values: Tensor) -> list[list[float]]:
        return [[float(f"{value:.5g}") for value in column] for column in values[kept, :width].double().T.tolist()]

    scaling = data.targets
    models = [
        DrawnModel(name=name, role=role, values=own(scaling.restore(evaluate.means(data.task, prediction).double())))
        for (name, role), prediction in predictions.items()
    ]
    true = own(data.y[data.test.to(data.y.device)].cpu())
    return DrawnValues(outputs=list(data.task.names[:width]), rows=count, of=total, true=true, models=models)


def _together(members: list[Tensor], combine: Combine | None) -> Tensor:
    return combine(torch.stack(members)) if combine else members[-1]


def _ensemble(members: list[Artifact], prediction: Tensor, truth: Tensor, data: Data) -> Artifact:
    def total(values: Sequence[int | None]) -> int:
        return sum(v or 0 for v in values)

    parts = [m.cost for m in members]
    cost = Cost(
        total([c.params for c in parts]), total([c.macs for c in parts]), total([c.size_bytes for c in parts]), None
    )
    metrics = evaluate.metrics(data.task, prediction, truth, data.targets)
    return Artifact("ensemble", "teacher", None, "pytorch", None, metrics, cost)


def _with_latency(rows: list[Artifact], timed: dict[str, nn.Module], example: Tensor) -> list[Artifact]:
    """The rows with latencies, all measured in turn; one of several with the same architecture stands for all."""

    def once(network: nn.Module) -> Callable[[], float]:
        def run() -> object:
            with torch.inference_mode():
                return network(example)

        return costs.stopwatch(run)

    with costs.threads(1):
        speed = costs.latency({name: once(network) for name, network in timed.items()})
    alike = {_build(row): speed[row.name] for row in rows if row.name in speed}
    members = [speed[r.name]["median_ms"] for r in rows if r.role == "teacher" and r.name in speed]

    def found(row: Artifact) -> Artifact:
        times = speed.get(row.name) or alike.get(_build(row))
        if row.name == "ensemble" and row.name not in speed:
            return replace(row, cost=replace(row.cost, latency_ms=sum(members)))
        if times is None:
            return row
        return replace(row, cost=replace(row.cost, latency_ms=times["median_ms"], fastest_ms=times["min_ms"]))

    return [found(row) for row in rows]


def _build(row: Artifact) -> tuple[int | None, int | None, bool, str]:
    """What two networks of the same architecture have in common.

    A network that learned quantized counts as many parameters as the one it was made of, and takes ten times as long.
    """
    variant = row.variant if row.role in ("compressed", "compressed-alone") else ""
    return row.cost.params, row.cost.macs, row.role == "teacher", variant
