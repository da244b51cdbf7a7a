"""Files of a network that was trained in integers: one graph, four runtimes."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.compress.qat.prepare import FakeQuantized, converted
from limbeck.core.errors import UserError, did_you_mean
from limbeck.core.formats import TRAINED, check_installed
from limbeck.export import Interface, as_given, put
from limbeck.export.logs import converting, heard
from limbeck.export.quantize import pt2e
from limbeck.export.quantize.post_training import Cpu, check_quantized, check_runs, this_cpu
from limbeck.export.trace import trace
from limbeck.export.workers import elsewhere


def lower_qat(
    module: nn.Module,
    example: Tensor,
    path: Path,
    name: str,
    interface: Interface | None = None,
    *,
    after: nn.Module | None = None,
    cpu: Cpu | None = None,
) -> Path:
    """Write a network trained in integers as a file that computes in the very same integers.

    Args:
        module: as `prepare_qat` made it; it is left as it is.
        example: at least one row of input, [B, ...], as the network takes it.
        path: the file to write; the converter's log is beside it.
        name: one of `TRAINED`.
        interface: what the file takes; what the network takes where it is absent.
        after: what is done, in floats, to what the network gives.
        cpu: of an ONNX file, as `quantize` takes it.

    Returns:
        The path.

    Raises:
        UserError: a library is missing, the network was not prepared, or the converter fails.
    """
    if name not in TRAINED:
        raise UserError(
            f"a network trained in integers cannot become {name!r}", where="quantize", hint=did_you_mean(name, TRAINED)
        )
    if not isinstance(module, FakeQuantized):
        raise UserError("was not prepared for training in integers", where=type(module).__name__, hint="prepare_qat")
    pt2e.check_pt2e("quantization-aware training")
    form, _ = check_quantized(name)
    if form == "openvino":
        check_installed(
            ("onnx", "onnxscript"), extra="onnx", purpose="an OpenVINO file of a network trained in integers"
        )
    interface, path = interface or Interface(), Path(path)
    with converting(name, path) as log, tempfile.TemporaryDirectory(prefix="limbeck-") as folder:
        graph, lowered = Path(folder) / "graph.pt2", Path(folder) / f"model{path.suffix}"
        with heard(log):
            # LiteRT's converter makes its own integers of the weights; the others want them made.
            whole: nn.Module = converted(module, fold=form != "litert")
            whole = whole if after is None else nn.Sequential(whole, after)
            torch.export.save(trace(whole, example, interface), graph)
        known: dict[str, dict[str, Any]] = {
            "litert": {"batches": sorted(interface.batches)},
            "onnx": {"cpu": cpu or this_cpu()},
        }
        task, doing = f"limbeck.export.formats.{form}.quantize:lower_trained", f"the network cannot become {name}"
        elsewhere(
            task,
            {"graph": str(graph), "lowered": str(lowered), **known.get(form, {})},
            family=form,
            log=log,
            doing=doing,
            where=str(path),
        )
        check_runs(lowered, name, as_given(example.detach().cpu().numpy(), interface))
        put(lowered, path)
    return path
