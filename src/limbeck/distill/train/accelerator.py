"""Devices, precision, processes and trackers: Accelerate's, asked for by the recipe's `run`."""

from __future__ import annotations

from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from limbeck.core.errors import UserError, require
from limbeck.recipe import Run


def make_accelerator(run: Run, folder: Path | None = None) -> Accelerator:
    """Accelerate's handle on device, precision, processes and trackers.

    Raises:
        UserError: the device is not there, or a tracker is not installed.
    """
    if run.device == "cuda" and not torch.cuda.is_available():
        raise UserError("there is no CUDA device here", where="run.device", hint="say auto or cpu")
    if run.device == "mps" and not torch.backends.mps.is_available():
        raise UserError("there is no MPS device here", where="run.device", hint="say auto or cpu")
    if run.precision == "fp16" and (run.device == "cpu" or not torch.cuda.is_available()):
        raise UserError("fp16 needs a CUDA device", where="run.precision", hint="say bf16 or float32")
    for tracker in run.trackers:
        require(tracker, extra=tracker, purpose=f"tracking with {tracker}")
    precision = {"float32": "no", "bf16": "bf16", "fp16": "fp16"}[run.precision]
    if AcceleratorState._shared_state and AcceleratorState().mixed_precision != precision:
        # Accelerate keeps one precision a process; another run in the same process may want another.
        AcceleratorState._reset_state()
    return Accelerator(
        cpu=run.device == "cpu", mixed_precision=precision, log_with=list(run.trackers) or None, project_dir=folder
    )
