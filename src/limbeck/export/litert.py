"""LiteRT (.tflite) files, and the LiteRT interpreter to run them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from limbeck.errors import UserError, require
from limbeck.export.chatter import captured, check_installed
from limbeck.export.trace import lowering
from limbeck.runtime import write_atomic


def check_litert() -> None:
    """Refuse where the libraries for LiteRT are missing.

    Raises:
        UserError: the extra `litert` is not installed.
    """
    check_installed(("litert_torch", "ai_edge_litert"), extra="litert", purpose="export to LiteRT")


def to_litert(model: nn.Module, example: Tensor, path: Path) -> Path:
    """Write `model` as one LiteRT file: float32, one sample a call. TensorFlow is not needed.

    The lowering runs in a process of its own: it loads JAX, which does not bear a later `fork` in the same process and
    stays in memory for good. Its chatter goes to a log beside the file. The model is left as it is.

    Args:
        model: maps one tensor [B, ...] to one tensor [B, C] or [B, K].
        example: at least one row of input, [B, ...]; its values do not matter.
        path: the file to write; it is replaced in one step or not at all.

    Returns:
        The path.

    Raises:
        UserError: the extra is missing, the model cannot be converted, or the place cannot be written.
    """
    check_litert()
    path, task = Path(path), "limbeck.export.litert:lower"
    with lowering("LiteRT", task, model, example, path, dynamic_batch=False) as made:
        write_atomic(path, lambda part: shutil.copyfile(made, part))
    return path


def lower(graph: str, lowered: str) -> None:
    """Turn a saved graph into a LiteRT file; `to_litert` has this done elsewhere."""
    import litert_torch

    program = torch.export.load(graph)
    module = program.module()
    module.training = False  # it was traced in eval mode; the flag only says so to the converter
    inputs: Any = program.example_inputs
    litert_torch.convert(module, inputs[0]).export(lowered)


def session_litert(path: Path, threads: int = 1) -> Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]]:
    """A function that runs a LiteRT file: [B, ...] -> [B, width], one row after the other.

    Args:
        path: the file.
        threads: how many threads one call may use.

    Raises:
        UserError: the extra is missing, or the file cannot be loaded.
    """
    runtime = require("ai_edge_litert.interpreter", extra="litert", purpose="running a LiteRT file")
    try:
        with Path(os.devnull).open("w") as nowhere, captured(nowhere):
            interpreter = runtime.Interpreter(str(path), num_threads=threads)
            interpreter.allocate_tensors()
    except Exception as error:
        raise UserError(f"LiteRT cannot load it ({error})", where=str(path)) from error
    source, sink = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]
    width = tuple(sink["shape"][1:])

    def run(batch: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        out = np.empty((len(batch), *width), sink["dtype"])
        for row in range(len(batch)):
            interpreter.set_tensor(source, batch[row : row + 1])
            interpreter.invoke()
            out[row] = interpreter.get_tensor(sink["index"])[0]
        return out

    return run


def run_litert(path: Path, x: Tensor | np.ndarray[Any, Any], *, threads: int = 1) -> Tensor:
    """What a LiteRT file gives for every row: [N, ...] -> [N, width], computed by the LiteRT interpreter.

    Args:
        path: the file.
        x: input rows, [N, ...].
        threads: how many threads to use.

    Raises:
        UserError: the file cannot be loaded, or the rows do not fit it.
    """
    run = session_litert(path, threads)
    rows = np.ascontiguousarray(torch.as_tensor(x).detach().cpu().numpy())
    try:
        return torch.from_numpy(run(rows))
    except Exception as error:
        raise UserError(f"LiteRT cannot run it ({error})", where=str(path)) from error
