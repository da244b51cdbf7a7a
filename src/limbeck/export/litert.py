"""LiteRT (.tflite) files, and the LiteRT interpreter to run them."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from limbeck.errors import UserError, require
from limbeck.export.trace import captured, cause, check_installed, converting, refusal, trace
from limbeck.runtime import write_atomic

_CAUSE = "limbeck: the conversion failed: "


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
    path = Path(path)
    with converting("LiteRT", path) as log, tempfile.TemporaryDirectory(prefix="limbeck-") as folder:
        graph, lowered = Path(folder) / "graph.pt2", Path(folder) / "model.tflite"
        torch.export.save(trace(model, example, dynamic_batch=False), graph)
        if reason := _lower_elsewhere(graph, lowered, log):
            raise refusal("LiteRT", path, reason)
        write_atomic(path, lambda part: shutil.copyfile(lowered, part))
    return path


def _lower_elsewhere(graph: Path, lowered: Path, log: Path) -> str | None:
    """Run `lower` in a new process, whose output goes to the log. Gives the reason where that fails."""
    call = "import sys; from limbeck.export.litert import lower; lower(*sys.argv[1:])"
    command = [sys.executable, "-P", "-W", "default", "-c", call, str(graph), str(lowered)]
    # The child sees what this process sees, whatever put it on the path; and it has no business on an accelerator.
    own = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": ""}
    with log.open("ab") as stream:
        done = subprocess.run(
            command, env={**os.environ, **own}, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, check=False
        )
    if done.returncode == 0 and lowered.exists():
        return None
    if done.returncode < 0:
        return f"the converter was stopped by {signal.Signals(-done.returncode).name} (out of memory?)"
    told = log.read_text(encoding="utf-8", errors="replace").rpartition(_CAUSE)
    return told[2].strip() if told[1] else f"the converter ended with {done.returncode} and gave no reason"


def lower(graph: str, lowered: str) -> None:
    """Turn a saved graph into a LiteRT file and end the process with 1 if that fails; `to_litert` starts this."""
    import traceback

    try:
        import litert_torch

        program = torch.export.load(graph)
        module = program.module()
        module.training = False  # it was traced in eval mode; the flag only says so to the converter
        inputs: Any = program.example_inputs
        litert_torch.convert(module, inputs[0]).export(lowered)
    except Exception as error:
        traceback.print_exc()
        sys.stderr.write(_CAUSE + cause(error) + "\n")
        sys.exit(1)


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
