"""From a float file to a quantized one, by the target's own tool; and what to do when that loses too much."""

from __future__ import annotations

import platform
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from limbeck.core.errors import UserError, did_you_mean
from limbeck.core.files import write_text
from limbeck.core.formats import QUANTIZED, FileFormat, check_quantizer, file_format
from limbeck.export import Interface, Served, put, suffix, to
from limbeck.export.logs import drop_empty, log_path
from limbeck.export.quantize.calibration import Rows, check_rows
from limbeck.export.quantize.layer_errors import LayerError
from limbeck.export.workers import elsewhere

if TYPE_CHECKING:
    from torch import Tensor, nn

Cpu = Literal["x86", "arm"]
_LOOKED_AT = 64  # rows that layers are compared on


@dataclass(frozen=True, slots=True)
class Kept:
    """A quantized file whose worst layers may have stayed float.

    Attributes:
        path: the file.
        layers: those that stayed float, the worst first.
        score: what it is worth.
        held: whether that is enough; where it is not, every layer is quantized, for leaving all but one in float did
            not help.
        tried: how many layers were left in float, and what that was worth, in the order it was tried.
    """

    path: Path
    layers: tuple[str, ...]
    score: float
    held: bool
    tried: tuple[tuple[int, float], ...]


def check_quantized(name: str) -> FileFormat:
    """The format and the precision in a name, if that can be made here.

    Raises:
        UserError: there is no such file, or the extra it needs is missing.
    """
    if name not in QUANTIZED:
        raise UserError(f"unknown quantized format {name!r}", where="quantize", hint=did_you_mean(name, QUANTIZED))
    check_quantizer(name)
    return file_format(name)


def source(form: str, model: nn.Module, example: Tensor, folder: Path, interface: Interface | None = None) -> Path:
    """What quantized files of a format are made from: its float32 file, or for ExecuTorch the traced graph.

    Args:
        form: litert, onnx, executorch or openvino.
        model: maps one tensor [B, ...] to one tensor [B, C] or [B, K]; it is left as it is.
        example: at least one row of input, [B, ...], as the model takes it.
        folder: where it goes.
        interface: what the files take.

    Raises:
        UserError: the model cannot be exported.
    """
    form = file_format(form).form
    if form != "executorch":
        return to(form, model, example, Path(folder) / f"model{suffix(form)}", interface)
    import torch

    from limbeck.export.trace import trace

    path = Path(folder) / "model.pt2"
    torch.export.save(trace(model, example, interface), path)
    return path


def quantize(
    source: Path, path: Path, name: str, rows: Rows | None = None, *, skip: Sequence[str] = (), cpu: Cpu | None = None
) -> Path:
    """Write a quantized file, made from a float one in another process and run once in its own runtime.

    Args:
        source: the float file, or for ExecuTorch the traced graph, as `source` makes them; it is left as it is.
        path: the file to write; the tool's log is beside it.
        name: one of `QUANTIZED`.
        rows: calibration rows of the training split as the file takes them, [N, ...]; files of int8 need them.
        skip: layers that stay float, by the names that `errors` gives them.
        cpu: what an ONNX file will run on: `x86` takes unsigned activations, `arm` signed ones; each is several times
            slower with the other's. This machine's kind by default.

    Returns:
        The path.

    Raises:
        UserError: a library is missing, the rows do not fit, there is no such layer, or the tool fails.
    """
    form, precision = check_quantized(name)
    source, path = Path(source), Path(path)
    rows = check_rows(rows) if precision == "int8" else rows
    log = log_path(path)
    write_text(log, "")  # finds out now, not after the work, that the place cannot be written
    with _laid_out(source, rows if precision == "int8" else None) as (folder, given):
        made = folder / f"made{path.suffix}"
        options = {
            "litert": {"option": precision, "rows": given},
            "onnx": {"rows": given, "cpu": cpu or this_cpu()},
            "executorch": {"rows": given},
            "openvino": {"option": precision, "rows": given},
        }[form]
        arguments = {"source": str(source), "target": str(made), "skip": list(skip), **options}
        doing = f"{source.name} cannot be quantized to {name}"
        elsewhere(
            f"limbeck.export.formats.{form}.quantize:make",
            arguments,
            family=form,
            log=log,
            doing=doing,
            where=str(path),
        )
        check_runs(made, name, rows)
        put(made, path)
    drop_empty(log)
    return path


def check_runs(path: Path, name: str, rows: Rows | None) -> None:
    """Let a file run some rows, or zeros, in its runtime.

    Raises:
        UserError: it cannot, or gives numbers that are not finite.
    """
    with Served(path, name) as served:
        given = served.predict(np.zeros((1, *served.shape), served.dtype) if rows is None else rows[:_LOOKED_AT])
    if not np.isfinite(given).all():
        raise UserError("the quantized file gives NaN or infinite numbers", where=str(path))


def errors(source: Path, quantized: Path, name: str, rows: Rows, *, skip: Sequence[str] = ()) -> list[LayerError]:
    """Which layers lose most by being quantized: each output beside that of the float file, on the same rows.

    Args:
        source: the float file, or for ExecuTorch the traced graph.
        quantized: the file made from it.
        name: one of `QUANTIZED`.
        rows: as the file takes them; the first 64 are compared, but ExecuTorch wants all that it was calibrated on, for
            its files do not let one look inside, so the graph is quantized once more.
        skip: layers that stayed float in the file; only ExecuTorch must be told.

    Returns:
        Every layer that both have, the one that adds most noise first.

    Raises:
        UserError: a library is missing, a file cannot be read, or the rows do not fit.
    """
    form, _ = check_quantized(name)
    rows = check_rows(rows)
    task = f"limbeck.export.formats.{form}.quantize:errors"
    with _laid_out(Path(source), rows if form == "executorch" else rows[:_LOOKED_AT]) as (folder, given):
        own = {"skip": list(skip)} if form == "executorch" else {"quantized": str(quantized)}
        arguments, doing = {"source": str(source), "rows": given, **own}, "its layers cannot be compared"
        found = elsewhere(task, arguments, family=form, log=folder / "log", doing=doing, where=str(quantized))
    return [LayerError(**row) for row in found]


def within(
    source: Path,
    path: Path,
    name: str,
    rows: Rows,
    *,
    score: Callable[[Path], float],
    least: float,
    cpu: Cpu | None = None,
) -> Kept:
    """A quantized file that is worth no less than is asked, with as few of the worst layers left in float as do.

    The layers that add most noise are left first, 1, 2, 4, ... of them until it is enough; then the number is halved
    back towards the last that was too small.

    Args:
        source: the float file, or for ExecuTorch the traced graph.
        path: the file to write.
        name: one of `QUANTIZED`.
        rows: calibration rows, as `quantize` takes them.
        score: what a file is worth, higher is better, on rows that are neither test rows nor these.
        least: what it must be worth.
        cpu: as `quantize` takes it.

    Returns:
        The file, the layers left in float, and whether that was enough.

    Raises:
        UserError: as `quantize`.
    """
    tried: dict[int, float] = {}
    worst: list[str] = []
    path = Path(path)

    def attempt(count: int) -> bool:
        quantize(source, path, name, rows, skip=worst[:count], cpu=cpu)
        tried[count] = score(path)
        return tried[count] >= least

    held = attempt(0)
    count = 0
    if not held:
        # Also those that add no noise where the network is full of it: with the first ones in float it is they that do.
        worst += [row.layer for row in errors(source, path, name, rows)]
        too_few, count = 0, 1
        most = len(worst) - 1  # with all of them left it would be the float file
        while count <= most and not (held := attempt(count)):
            too_few, count = count, count * 2 if count * 2 <= most or count == most else most
        if held:
            enough = count
            while enough - too_few > 1:
                middle = (enough + too_few) // 2
                too_few, enough = (too_few, middle) if attempt(middle) else (middle, enough)
            count = enough
        else:
            count = 0
        if list(tried)[-1] != count:
            quantize(source, path, name, rows, skip=worst[:count], cpu=cpu)
    return Kept(path, tuple(worst[:count]), tried[count], held, tuple(tried.items()))


@contextmanager
def _laid_out(source: Path, rows: Rows | None) -> Iterator[tuple[Path, str | None]]:
    """A folder for a while, and in it the rows as a file."""
    if not source.is_file():
        raise UserError("there is no such file", where=str(source))
    with tempfile.TemporaryDirectory(prefix="limbeck-") as place:
        folder = Path(place)
        if rows is not None:
            np.save(folder / "rows.npy", rows)
        yield folder, None if rows is None else str(folder / "rows.npy")


def this_cpu() -> Cpu:
    """What kind of processor this machine has."""
    return "arm" if platform.machine().lower() in ("arm64", "aarch64", "armv7l", "armv8l") else "x86"
