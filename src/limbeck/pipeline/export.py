"""Files of a trained network: made, run in their own runtimes on the test split, held against the network."""

from __future__ import annotations

import contextlib
import tempfile
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from limbeck import evaluate, export
from limbeck.compress import qat
from limbeck.core.formats import file_format
from limbeck.core.hashing import fingerprint
from limbeck.core.machine import cores
from limbeck.core.types import Artifact, ModelForm
from limbeck.data import Scaling, pixels, targets
from limbeck.evaluate import costs
from limbeck.evaluate.file_latency import BATCH_ROUNDS, BATCH_SECONDS, once
from limbeck.export import quantize
from limbeck.export.interface import classes_last
from limbeck.export.process import abandon, turns
from limbeck.pipeline.context import RunContext
from limbeck.pipeline.stage_results import FileResult
from limbeck.recipe import Deployable
from limbeck.tasks import main_metric, rules


@dataclass(frozen=True)
class Shipped:
    """A network that becomes files.

    Attributes:
        row: what was measured of it.
        network: on the CPU, in eval mode.
        prediction: of the test rows, on the CPU, [N, outputs].
        key: what it depends on.
        trained_quantized: whether it went through quantization-aware training, and becomes integer files only.
        told: what was done to it, in words.
    """

    row: Artifact
    network: nn.Module
    prediction: Tensor
    key: str
    trained_quantized: bool = False
    told: Sequence[str] = ()


@dataclass(frozen=True)
class Sources:
    """What the quantized files of one network are made from, each made once.

    Attributes:
        folder: for those that are not files of the run themselves.
        known: the float file by format, or for ExecuTorch the traced graph.
    """

    folder: Path
    known: dict[str, Path] = field(default_factory=dict)


def ship(
    job: RunContext,
    shipped: Shipped,
    names: Sequence[Deployable],
    advance: Callable[[int, str], object] = lambda done, name: None,
) -> list[Artifact]:
    """The files of a network: made, run on the whole test split, and described in cards beside them.

    Files of several formats are made side by side, as many as there are cores: each format has a process of its own.

    Args:
        job: the run.
        shipped: the network.
        names: of the files' formats.
        advance: called when a file is done, with how many are and with its name.

    Returns:
        The files, in the order of the names.

    Raises:
        UserError: one cannot be made, or computes something else than the network.
    """
    by_form: dict[str, list[Deployable]] = {}
    for name in sorted(names, key=lambda name: "-" in name):  # float files first: the others are made from them
        by_form.setdefault(file_format(name).form, []).append(name)
    found: dict[Deployable, Artifact] = {}
    stopped = threading.Event()

    def made(own: Sequence[Deployable]) -> None:
        with turns.taken(), tempfile.TemporaryDirectory(prefix="limbeck-") as scratch:
            sources = Sources(Path(scratch))
            for name in own:
                if stopped.is_set():
                    return
                found[name] = _shipped(job, shipped, name, sources)
                advance(len(found), found[name].name)

    with ThreadPoolExecutor(cores(), "files") as pool:
        try:
            for one in as_completed([pool.submit(made, own) for own in by_form.values()]):
                one.result()
        except BaseException as error:
            stopped.set()
            if not isinstance(error, Exception):  # a Ctrl-C does not wait for what is half done
                abandon()
            raise
    return [found[name] for name in names]


def _shipped(job: RunContext, shipped: Shipped, name: Deployable, sources: Sources) -> Artifact:
    key = fingerprint(shipped.key, name, job.recipe.files.model_dump(mode="json"), job.data.fingerprint)
    stage = f"export/made/{shipped.row.name}.{name}"
    row = job.stages.alone(stage, key, FileResult, lambda _: _made(job, shipped, name, sources), renew=True).row
    if row.precision == "float32" and row.format != "executorch" and row.file:
        sources.known[row.format] = job.folder / row.file
    return row


def _made(job: RunContext, shipped: Shipped, name: Deployable, sources: Sources) -> FileResult:
    path = job.folder / "export" / f"{shipped.row.name}{export.suffix(name)}"
    form, precision = file_format(name)
    notes = file_of(job, shipped.network, name, path, sources, trained_quantized=shipped.trained_quantized)
    with export.Served(path, form, alone=True) as served:
        outputs = _answers(job, served, given(job, job.data.test))
        memory_mb = served.peak_mb
    scaling = units(job)
    reference = shipped.prediction if scaling is None else scaling.restore(shipped.prediction)
    parity = export.parity(reference, outputs, job.data.task.kind)
    if precision == "float32":
        export.check_parity(path, parity, reference)
    row = Artifact(
        f"{shipped.row.name}.{name}",
        "exported",
        shipped.row.seed,
        form,
        str(path.relative_to(job.folder)),
        metrics_of(job, outputs, job.data.test),
        replace(shipped.row.cost, size_bytes=export.size_bytes(path), latency_ms=None, memory_mb=memory_mb),
        parity,
        precision,
        shipped.row.name,
        tuple(notes),
    )
    _card(job, shipped, row, path)
    return FileResult(row=row, files=[str(file.relative_to(job.folder)) for file in export.files(path)])


def file_of(
    job: RunContext,
    network: nn.Module,
    name: Deployable,
    path: Path,
    sources: Sources,
    *,
    trained_quantized: bool = False,
) -> list[str]:
    """Write a network of this run as a file that takes and gives what the recipe says.

    Args:
        job: the run.
        network: on the CPU.
        name: of the format.
        path: of the file.
        sources: of this network's quantized files.
        trained_quantized: whether it went through quantization-aware training.

    Returns:
        What the user must be told.
    """
    form, precision = file_format(name)
    scaling, example = units(job), pixels(job.data, job.data.train[:2], "cpu")
    after = None if scaling is None else Rescale(scaling)
    if trained_quantized:
        qat.lower_qat(network, example, path, name, interface(job), after=after)
        return []
    whole = network if after is None else nn.Sequential(network, after)
    if precision == "float32":
        export.to(form, whole.eval(), example, path, interface(job))
        return []
    if form not in sources.known:
        sources.known[form] = quantize.source(form, whole.eval(), example, sources.folder, interface(job))
    source = sources.known[form]
    rows, allowed = given(job, calibration(job)), job.recipe.files.max_drop
    if allowed is None or precision != "int8":
        quantize.quantize(source, path, name, rows)
        return []
    metric, val = main_metric(job.data.task), job.data.val
    x = given(job, val)

    def score(file: Path) -> float:
        with export.Served(file, form) as served:
            return metric.sign * float(metrics_of(job, _answers(job, served, x), val)[metric.name])

    before = evaluate.metrics(
        job.data.task, evaluate.predict(network, job.data, val), targets(job.data, val, "cpu"), job.data.targets
    )[metric.name]
    unit = 1.0 if metric.higher else before  # an error may grow by a share of itself
    kept = quantize.within(source, path, name, rows, score=score, least=metric.sign * before - allowed * unit)
    return _told(kept, allowed, (metric.sign * before - kept.score) / unit)


def _told(kept: quantize.Kept, allowed: float, lost: float) -> list[str]:
    """What the user must know of the layers that stayed float."""
    if not kept.held:
        return [f"loses {lost:.4g} on validation, and no layers left in float keep that within {allowed}"]
    count = len(kept.layers)
    what = "layer stays" if count == 1 else "layers stay"
    return [f"{count} {what} float so that no more than {allowed} is lost: {', '.join(kept.layers)}"] if count else []


def interface(job: RunContext) -> export.Interface:
    """What the files of this run take."""
    files = job.recipe.files
    return export.Interface(files.input, files.layout, tuple(files.batches))


def predicted(
    job: RunContext, path: Path, form: ModelForm, rows: Tensor, *, calls: int = 0
) -> tuple[Tensor, float | None]:
    """What a file gives for some rows, in the targets' own units, and how long one row takes, in milliseconds."""
    x = given(job, rows)
    with export.Served(path, form) as served:
        outputs = _answers(job, served, x)
        return outputs, float(np.median(served.time(x[:1], calls=calls))) if calls else None


def calibration(job: RunContext) -> Tensor:
    """Training rows that ranges are measured on."""
    data, count = job.data, job.recipe.files.calibration
    labels = data.y[data.train.to(data.y.device)].cpu() if rules(data.task).predicts == "classes" else None
    return data.train[quantize.calibration(len(data.train), labels, count, seed=0)]


def given(job: RunContext, rows: Tensor) -> np.ndarray[Any, Any]:
    """Rows as the files of this run take them."""
    files = job.recipe.files
    x = job.data.x[rows.to(job.data.x.device)].cpu() if files.input == "uint8" else pixels(job.data, rows, "cpu")
    if files.layout == "nhwc" and x.ndim == 4:
        x = x.permute(0, 2, 3, 1)
    return np.ascontiguousarray(x.numpy())


def _answers(job: RunContext, served: export.Served, x: np.ndarray[Any, Any]) -> Tensor:
    """What a file gives for some rows, in the normal form."""
    return torch.from_numpy(np.ascontiguousarray(classes_last(served.predict(x), interface(job))))


def units(job: RunContext) -> Scaling | None:
    """What leads from a network's outputs to the targets' own units, in which files answer; None for classes."""
    scaling = job.data.targets
    return scaling.with_spread() if scaling is not None and job.data.task.predicts_variance else scaling


def standardised(job: RunContext, outputs: Tensor) -> Tensor:
    """What a file gives, as a network gives it."""
    scaling = units(job)
    if scaling is None:
        return outputs
    # A rounded file may answer 0 where only what is above 0 has a logarithm.
    return scaling.standardise(outputs.clamp_min(torch.finfo(outputs.dtype).tiny) if scaling.log else outputs)


def metrics_of(job: RunContext, outputs: Tensor, rows: Tensor) -> dict[str, Any]:
    """What a file is worth, from what it gives for some rows."""
    truth = targets(job.data, rows, "cpu")
    return evaluate.metrics(job.data.task, standardised(job, outputs), truth, job.data.targets)


def _card(job: RunContext, shipped: Shipped, row: Artifact, path: Path) -> None:
    data = job.data
    export.write_card(
        path,
        interface=interface(job),
        format=row.format,
        precision=row.precision,
        task=data.task,
        shape=data.shape,
        columns=data.columns,
        table=data.table,
        metrics={k: v for k, v in row.metrics.items() if isinstance(v, int | float)},
        made={
            "recipe": job.recipe.name,
            "data": data.name,
            "model": job.recipe.student.model,
            "student": row.source,
            "seed": row.seed,
            "steps": list(shipped.told),
            **({"background": job.recipe.data.background} if job.recipe.data.source == "folder" else {}),
        },
    )


# --- time ----------------------------------------------------------------------------------------


def with_latency(job: RunContext, rows: Sequence[Artifact]) -> list[Artifact]:
    """Files with their times for one row and for 64, on one thread, all files of a runtime in turn."""
    found: list[Artifact] = []
    for form in dict.fromkeys(row.format for row in rows):
        own = [row for row in rows if row.format == form]
        with contextlib.ExitStack() as stack:
            served = {row.name: stack.enter_context(export.Served(job.folder / str(row.file), form)) for row in own}
            one, many = (given(job, job.data.test[:count]) for count in (1, 64))
            single = {name: partial(once, file, one) for name, file in served.items()}
            batch = {name: partial(once, file, many) for name, file in served.items()}
            with costs.threads(1):
                times = costs.latency(single)
                batches = costs.latency(batch, rounds=BATCH_ROUNDS, seconds=BATCH_SECONDS)
        for row in own:
            cost = replace(
                row.cost,
                latency_ms=times[row.name]["median_ms"],
                fastest_ms=times[row.name]["min_ms"],
                batch_ms=batches[row.name]["median_ms"],
            )
            found.append(replace(row, cost=cost))
    return found


class Rescale(nn.Module):
    """Standardised values [B, K] back in their own units; see `Scaling.restore`."""

    mean: Tensor
    std: Tensor
    low: Tensor | None
    high: Tensor | None

    def __init__(self, scaling: Scaling) -> None:
        super().__init__()
        for name, end in zip(("low", "high"), scaling.bounds or (None, None), strict=True):
            self.register_buffer(name, end, persistent=False)
        self.register_buffer("mean", scaling.mean, persistent=False)
        self.register_buffer("std", scaling.std, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Values [B, K] in their own units."""
        bounds = None if self.low is None or self.high is None else (self.low, self.high)
        return Scaling(self.mean, self.std, bounds).restore(x)

    def as_keras(self, keras: Any, values: Any) -> Any:
        """The same of symbolic values, in layers of Keras."""
        own = keras.layers.Rescaling(self.std.tolist(), self.mean.tolist(), name="units")(values)
        if self.low is None or self.high is None:
            return own
        return keras.ops.exp(keras.ops.minimum(keras.ops.maximum(own, self.low.cpu().numpy()), self.high.cpu().numpy()))
