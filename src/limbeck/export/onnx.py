"""ONNX files, and ONNX Runtime to run them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from limbeck.errors import UserError, require
from limbeck.export.chatter import check_installed
from limbeck.export.trace import lowering
from limbeck.runtime import write_atomic


def check_onnx() -> None:
    """Refuse where the libraries for ONNX are missing.

    Raises:
        UserError: the extra `onnx` is not installed.
    """
    check_installed(("onnx", "onnxscript", "onnxruntime"), extra="onnx", purpose="export to ONNX")


def to_onnx(model: nn.Module, example: Tensor, path: Path) -> Path:
    """Write `model` as one ONNX file: float32, any batch size, input `input`, output `output`.

    The converter's chatter goes to a log beside the file. The model is left as it is.

    Args:
        model: maps one tensor [B, ...] to one tensor [B, C] or [B, K].
        example: at least one row of input, [B, ...]; its values do not matter.
        path: the file to write; it is replaced in one step or not at all.

    Returns:
        The path.

    Raises:
        UserError: the extra is missing, the model cannot be converted, or the place cannot be written.
    """
    check_onnx()
    path, task = Path(path), "limbeck.export.onnx:lower"
    with lowering("ONNX", task, model, example, path, dynamic_batch=True) as made:
        write_atomic(path, lambda part: shutil.copyfile(made, part))
    return path


def lower(graph: str, lowered: str) -> None:
    """Turn a saved graph into an ONNX file; `to_onnx` has this done elsewhere."""
    program = torch.onnx.export(
        torch.export.load(graph), (), dynamo=True, verbose=False, input_names=["input"], output_names=["output"]
    )
    if program is None:
        raise RuntimeError("torch.onnx.export gave nothing")
    _forget_origins(program.model.graph)
    program.save(lowered, external_data=False)


def _forget_origins(graph: Any) -> None:
    """Drop the exporter's notes: for a small model they double the file, and they hold stack traces of this machine."""
    graph.metadata_props.clear()
    for node in graph.all_nodes():
        node.metadata_props.clear()
        for value in node.outputs:
            value.metadata_props.clear()
    for value in (*graph.inputs, *graph.initializers.values()):
        value.metadata_props.clear()


def session_onnx(path: Path, threads: int = 1) -> Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]]:
    """A function that runs an ONNX file on one batch: [B, ...] -> [B, width].

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
    name = session.get_inputs()[0].name

    def run(batch: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        return session.run(None, {name: batch})[0]  # type: ignore[no-any-return]

    return run


def run_onnx(path: Path, x: Tensor | np.ndarray[Any, Any], *, threads: int = 1, batch_size: int = 256) -> Tensor:
    """What an ONNX file gives for every row: [N, ...] -> [N, width], computed by ONNX Runtime.

    Args:
        path: the file.
        x: input rows, [N, ...].
        threads: how many threads to use.
        batch_size: how many rows to run at a time.

    Raises:
        UserError: the file cannot be loaded, or the rows do not fit it.
    """
    run = session_onnx(path, threads)
    rows = np.ascontiguousarray(torch.as_tensor(x).detach().cpu().numpy())
    try:
        parts = [run(rows[start : start + batch_size]) for start in range(0, max(len(rows), 1), batch_size)]
    except Exception as error:
        raise UserError(f"ONNX Runtime cannot run it ({error})", where=str(path)) from error
    return torch.from_numpy(np.concatenate(parts))
