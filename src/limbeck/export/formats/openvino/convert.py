"""OpenVINO files (.xml with its weights in a .bin), and the OpenVINO runtime to run them."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from limbeck.core.errors import UserError, require
from limbeck.export.interface import Interface, Rows
from limbeck.export.process import no_telemetry
from limbeck.export.session import Session

if TYPE_CHECKING:
    from torch import Tensor, nn

# OpenVINO computes in bfloat16 where the processor can, unless it is told not to.
_EXACT = {"INFERENCE_PRECISION_HINT": "f32"}
# The name of what nobody named, as Multiply_2648. The number counts all that was ever made in the process.
_COUNTED = re.compile(r"[A-Z][A-Za-z0-9]*_\d+")


def to_openvino(model: nn.Module, example: Tensor, path: Path, interface: Interface | None = None) -> Path:
    """Write `model` as OpenVINO IR: float32, any number of rows; the weights are in a .bin beside the .xml.

    Args:
        model: maps one tensor [B, ...] to one tensor [B, C] or [B, K]; it is left as it is.
        example: at least one row of input, [B, ...], as the model takes it; its values do not matter.
        path: the .xml to write; the converter's log is beside it.
        interface: what the file takes; what the model takes where it is absent.

    Returns:
        The path of the .xml. A stop on the way leaves none.

    Raises:
        UserError: the extra is missing, the model cannot be converted, or the place cannot be written.
    """
    from limbeck.export.trace import make

    if Path(path).suffix != ".xml":
        raise UserError("an OpenVINO file is called .xml", where=str(path), hint="its weights go to a .bin beside it")
    return make("openvino", model, example, path, interface)


def lower(graph: str, lowered: str) -> None:
    """Turn a saved graph into OpenVINO IR; `to_openvino` has this done elsewhere."""
    import openvino
    import torch

    from limbeck.export.trace import naming

    program = torch.export.load(graph)
    inputs: Any = program.example_inputs
    with naming(program):
        model = openvino.convert_model(program, input=[-1, *inputs[0][0].shape[1:]])
        _name_weights(model, program.state_dict)
        model.inputs[0].set_names({"input"})
        model.outputs[0].set_names({"output"})
    save(model, lowered)


def save(model: Any, path: str, *, half: bool = False) -> None:
    """Write OpenVINO IR, the same for the same model whatever this process has made before."""
    import openvino

    model.set_friendly_name("limbeck")
    taken, number = {op.get_friendly_name() for op in model.get_ordered_ops()}, itertools.count()
    for op in model.get_ordered_ops():
        if _COUNTED.fullmatch(op.get_friendly_name()):
            names = (f"{op.get_type_name()}{count}" for count in number)
            op.set_friendly_name(next(name for name in names if name not in taken))
    openvino.save_model(model, path, compress_to_fp16=half)


def _name_weights(model: Any, names: Iterable[str]) -> None:
    """Call weights as the network does, so that what is said about a file can say of which layer it is."""
    known = {name.replace(".", "_"): name for name in names}
    for op in model.get_ordered_ops():
        for name in op.output(0).names if op.get_type_name() == "Constant" else ():
            if (own := name.partition(":")[0]) in known:
                op.set_friendly_name(known[own])


def session_openvino(path: Path, threads: int = 1) -> Session:
    """What runs an OpenVINO file in this process.

    Args:
        path: the .xml.
        threads: how many threads one call may use.

    Raises:
        UserError: the extra is missing, or the file cannot be loaded.
    """
    no_telemetry()
    runtime = require("openvino", extra="openvino", purpose="running an OpenVINO file")
    settings = {**_EXACT, "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "PERFORMANCE_HINT": "LATENCY"}
    try:
        compiled = runtime.Core().compile_model(str(path), "CPU", settings)
        source = compiled.inputs[0]
        shape = tuple(int(d.get_length()) for d in list(source.partial_shape)[1:])
        dtype = source.element_type.to_dtype().name
    except Exception as error:
        raise UserError(f"OpenVINO cannot load it ({error})", where=str(path)) from error
    request = compiled.create_infer_request()

    def run(rows: Rows) -> Rows:
        given: Rows = request.infer([rows], share_inputs=True)[0]
        return given

    return Session("OpenVINO", dtype, shape, run)


def values_openvino(path: Path, rows: Rows) -> list[tuple[str, Rows]]:
    """What every operator of an OpenVINO file gives for the rows: names and arrays."""
    no_telemetry()
    runtime = require("openvino", extra="openvino", purpose="running an OpenVINO file")
    core = runtime.Core()
    model = core.read_model(str(path))
    skipped = ("Parameter", "Constant", "Result")
    operators = [op for op in model.get_ordered_ops() if op.get_type_name() not in skipped]
    model.add_outputs([op.output(0) for op in operators])
    compiled = core.compile_model(model, "CPU", _EXACT)
    given = compiled([rows])
    return [(port.get_any_name() if port.get_names() else "", value) for port, value in given.items()]
