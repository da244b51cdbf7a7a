"""ONNX files, and ONNX Runtime to run them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from limbeck.core.errors import UserError, require
from limbeck.export.interface import Interface, Rows
from limbeck.export.session import Session

if TYPE_CHECKING:
    from torch import Tensor, nn


def to_onnx(model: nn.Module, example: Tensor, path: Path, interface: Interface | None = None) -> Path:
    """Write `model` as one ONNX file: float32, any number of rows, input `input`, output `output`.

    Args:
        model: maps one tensor [B, ...] to one tensor [B, C] or [B, K]; it is left as it is.
        example: at least one row of input, [B, ...], as the model takes it; its values do not matter.
        path: the file to write; it is replaced in one step or not at all. The converter's log is beside it.
        interface: what the file takes; what the model takes where it is absent.

    Returns:
        The path.

    Raises:
        UserError: the extra is missing, the model cannot be converted, or the place cannot be written.
    """
    from limbeck.export.trace import make

    return make("onnx", model, example, path, interface)


def lower(graph: str, lowered: str) -> None:
    """Turn a saved graph into an ONNX file; `to_onnx` has this done elsewhere."""
    import torch

    from limbeck.export.trace import naming

    program = torch.export.load(graph)
    with naming(program):
        found = torch.onnx.export(
            program, (), dynamo=True, verbose=False, input_names=["input"], output_names=["output"]
        )
    if found is None:
        raise RuntimeError("torch.onnx.export gave nothing")
    _forget_origins(found.model.graph)
    found.save(lowered, external_data=False)


def _forget_origins(graph: Any) -> None:
    """Drop the exporter's notes: for a small model they double the file, and they hold stack traces of this machine."""
    graph.metadata_props.clear()
    for node in graph.all_nodes():
        node.metadata_props.clear()
        for value in node.outputs:
            value.metadata_props.clear()
    for value in (*graph.inputs, *graph.initializers.values()):
        value.metadata_props.clear()


def session_onnx(path: Path, threads: int = 1) -> Session:
    """What runs an ONNX file in this process.

    Args:
        path: the file.
        threads: how many threads one call may use.

    Raises:
        UserError: the extra is missing, or the file cannot be loaded.
    """
    runtime = require("onnxruntime", extra="onnx", purpose="running an ONNX file")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors only
    try:
        session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise UserError(f"ONNX Runtime cannot load it ({error})", where=str(path)) from error
    source, given = session.get_inputs()[0], session.get_outputs()
    types = {"float": "float32", "uint8": "uint8", "float16": "float16", "double": "float64", "int64": "int64"}
    dtype = types.get(source.type.removeprefix("tensor(").removesuffix(")"), source.type)
    # A converted classifier of scikit-learn gives the class before its probabilities.
    sink = next((one.name for one in given if "float" in one.type or "double" in one.type), given[0].name)
    batch = source.shape[0] if isinstance(source.shape[0], int) else None
    return Session(
        "ONNX Runtime", dtype, tuple(source.shape[1:]), lambda rows: session.run([sink], {source.name: rows})[0], batch
    )


def values_onnx(path: Path, rows: Rows) -> list[tuple[str, Rows]]:
    """What every operator of an ONNX file gives for the rows, in the order they are computed: names and arrays."""
    import onnx

    runtime = require("onnxruntime", extra="onnx", purpose="running an ONNX file")
    model = onnx.load(str(path))
    known = {value.name for value in model.graph.output}
    names = [name for node in model.graph.node for name in node.output if name]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in known)
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = runtime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    given = session.run(names, {session.get_inputs()[0].name: rows})
    return [(name, value) for name, value in zip(names, given, strict=True) if isinstance(value, np.ndarray)]
