"""Every model on the test split: networks here, exported files each in its own runtime."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from limbeck import benchmark, evaluate, export
from limbeck.data import Data, Scaling, pixels, targets
from limbeck.runtime import Progress
from limbeck.teachers import Combine
from limbeck.types import Artifact, Cost, Format, Role


@dataclass(frozen=True, slots=True)
class Candidate:
    """A trained network in a file, and how to build it."""

    name: str
    role: Role
    seed: int | None
    file: Path
    build: Callable[[], nn.Module]


def measure(
    candidates: Sequence[Candidate],
    chosen: str,
    formats: Sequence[Format],
    data: Data,
    combine: Combine | None,
    *,
    root: Path,
    device: torch.device,
    progress: Progress,
) -> tuple[list[Artifact], dict[str, Any] | None]:
    """What every candidate is worth and costs, and every file the chosen one is exported to.

    Args:
        candidates: teachers first.
        chosen: name of the one to export.
        formats: what it is exported to, below `root/export`.
        data: its test split is used, for the first and only time.
        combine: how several teachers make one; None for a single one, and where the last of them is all of them.
        root: the run directory.
        device: where networks are run for the metrics. Latency is always that of one sample on one CPU thread.
        progress: where progress is shown.

    Returns:
        The rows, and how far several teachers are apart (None for one).

    Raises:
        UserError: a file computes something else than the network it was made from.
    """
    example = pixels(data, data.test[:1], "cpu")
    truth = targets(data, data.test, "cpu")
    found: list[Artifact] = []
    told: list[Tensor] = []
    shipped: list[Artifact] = []
    timed: dict[str, Callable[[], object]] = {}
    with progress.bar("test", len(candidates) + len(formats)) as advance:
        for candidate in candidates:
            network = candidate.build().eval()
            prediction = evaluate.predict(network.to(device), data, data.test, device=device)
            network.cpu()
            metrics = evaluate.metrics(data.task, prediction, truth, data.targets)
            if candidate.role == "teacher":
                told.append(prediction)
            elif told:
                metrics |= evaluate.agreement(data.task, prediction, _together(told, combine), data.targets)
            cost = Cost(
                benchmark.parameters(network), benchmark.macs(network, example), candidate.file.stat().st_size, None
            )
            file = str(candidate.file.relative_to(root))
            found.append(Artifact(candidate.name, candidate.role, candidate.seed, "pytorch", file, metrics, cost))
            if candidate.role in ("teacher", "assistant") or candidate.name == chosen:
                timed[candidate.name] = _timed(network, example)
            advance(len(found), candidate.name)
            if candidate.name == chosen:
                if formats and device.type != "cpu":
                    # Files run on the CPU; a GPU's shorter float formats would look like a fault of theirs.
                    prediction = evaluate.predict(network, data, data.test)
                for kind in formats:
                    path = root / "export" / f"{chosen}{export.SUFFIXES[kind]}"
                    shipped.append(_ship(found[-1], network, prediction, kind, path, data, root))
                    session, sample = export.SESSIONS[kind](path, 1), example.numpy()
                    timed[shipped[-1].name] = lambda s=session, x=sample: s(x)  # type: ignore[misc]
                    advance(len(found) + len(shipped), path.name)
    apart = None
    if combine:
        names = [row.name for row in found[: len(told)]]
        labels = truth if data.task.kind == "classification" else None
        apart = evaluate.disagreement(data.task, torch.stack(told), names, data.targets, target=labels)
        found.insert(len(told), _ensemble(found[: len(told)], _together(told, combine), truth, data))
    return _with_latency(found + shipped, chosen, timed), apart


def _together(told: list[Tensor], combine: Combine | None) -> Tensor:
    return combine(torch.stack(told)) if combine else told[-1]


def _ensemble(members: list[Artifact], prediction: Tensor, truth: Tensor, data: Data) -> Artifact:
    def total(values: Sequence[int | None]) -> int:
        return sum(v or 0 for v in values)

    costs = [m.cost for m in members]
    cost = Cost(
        total([c.params for c in costs]), total([c.macs for c in costs]), total([c.size_bytes for c in costs]), None
    )
    metrics = evaluate.metrics(data.task, prediction, truth, data.targets)
    return Artifact("ensemble", "teacher", None, "pytorch", None, metrics, cost)


def _timed(network: nn.Module, example: Tensor) -> Callable[[], object]:
    def once() -> object:
        with torch.inference_mode():
            return network(example)

    return once


def _ship(
    source: Artifact, network: nn.Module, reference: Tensor, kind: Format, path: Path, data: Data, root: Path
) -> Artifact:
    """Export a network, run the file in its own runtime on the whole test split, and hold it against the network."""
    scaling = data.targets
    if scaling is not None:
        # A shipped file answers in the targets' own units.
        scaling = scaling.with_spread() if data.task.spread else scaling
        network = nn.Sequential(network, Rescale(scaling)).eval()
        reference = reference * scaling.std + scaling.mean
    x = pixels(data, data.test, "cpu")
    export.EXPORTERS[kind](network, x[:1], path)
    given = export.RUNNERS[kind](path, x)
    parity = export.parity(reference, given, data.task.kind)
    export.check_parity(path, parity, reference)
    standardised = given if scaling is None else (given - scaling.mean) / scaling.std
    metrics = evaluate.metrics(data.task, standardised, targets(data, data.test, "cpu"), data.targets)
    cost = replace(source.cost, size_bytes=path.stat().st_size)
    return Artifact(
        f"{source.name}.{kind}", "exported", source.seed, kind, str(path.relative_to(root)), metrics, cost, parity
    )


def _with_latency(rows: list[Artifact], chosen: str, timed: dict[str, Callable[[], object]]) -> list[Artifact]:
    """The rows with latencies, all measured in turn. Students share an architecture, so one of them stands for all."""
    with benchmark.threads(1):
        speed = {name: times["median_ms"] for name, times in benchmark.latency(timed).items()}
    members = [speed[r.name] for r in rows if r.role == "teacher" and r.name in speed]

    def latency_ms(row: Artifact) -> float:
        if row.name in speed:
            return speed[row.name]
        return sum(members) if row.role == "teacher" else speed[chosen]

    return [replace(row, cost=replace(row.cost, latency_ms=latency_ms(row))) for row in rows]


class Rescale(nn.Module):
    """Standardised values [B, K] back in their own units."""

    mean: Tensor
    std: Tensor

    def __init__(self, scaling: Scaling) -> None:
        super().__init__()
        self.register_buffer("mean", scaling.mean, persistent=False)
        self.register_buffer("std", scaling.std, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Values [B, K] in their own units."""
        return x * self.std + self.mean
