"""Files for other runtimes: written, run there, and compared with the PyTorch model they come from.

A new format is one file beside these, with a `to_...`, a `run_...` and a `session_...` function, and a row in the
tables below. The libraries a format needs are imported when it is used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from limbeck.errors import UserError, did_you_mean
from limbeck.export.litert import check_litert, run_litert, session_litert, to_litert
from limbeck.export.onnx import check_onnx, run_onnx, session_onnx, to_onnx
from limbeck.types import Kind, Parity

__all__ = [
    "EXPORTERS",
    "RUNNERS",
    "SESSIONS",
    "SUFFIXES",
    "check_available",
    "check_parity",
    "parity",
    "run_litert",
    "run_onnx",
    "session_litert",
    "session_onnx",
    "to_litert",
    "to_onnx",
]

EXPORTERS: Mapping[str, Callable[[nn.Module, Tensor, Path], Path]] = {"onnx": to_onnx, "litert": to_litert}
RUNNERS: Mapping[str, Callable[..., Tensor]] = {"onnx": run_onnx, "litert": run_litert}
SESSIONS: Mapping[str, Callable[[Path, int], Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]]]] = {
    "onnx": session_onnx,
    "litert": session_litert,
}
_CHECKS: Mapping[str, Callable[[], None]] = {"onnx": check_onnx, "litert": check_litert}
SUFFIXES: Mapping[str, str] = {"onnx": ".onnx", "litert": ".tflite"}


def check_available(formats: Iterable[str]) -> None:
    """Refuse, before anything expensive starts, formats whose libraries are not installed.

    Raises:
        UserError: a format is unknown, or the extra it needs is missing.
    """
    for name in formats:
        if name not in _CHECKS:
            raise UserError(f"unknown format {name!r}", where="export", hint=did_you_mean(name, _CHECKS))
        _CHECKS[name]()


def parity(reference: Tensor, exported: Tensor, kind: Kind) -> Parity:
    """How far an exported file is from the PyTorch model it was made from.

    Args:
        reference: what the PyTorch model gives, [N, width].
        exported: what the file gives in its own runtime for the same rows, [N, width].
        kind: classification adds the share of rows with the same predicted class.

    Raises:
        UserError: the two have other shapes, or there are no rows.
    """
    if reference.shape != exported.shape or not len(reference):
        raise UserError(
            f"the exported file gives {tuple(exported.shape)} where the model gives {tuple(reference.shape)}",
            where="export",
        )
    reference, exported = reference.detach().cpu().double(), exported.detach().cpu().double()
    agreement = None
    if kind == "classification":
        agreement = (reference.argmax(1) == exported.argmax(1)).double().mean().item()
    return Parity(max_abs_error=(reference - exported).abs().max().item(), agreement=agreement)


def check_parity(path: Path, found: Parity, reference: Tensor, *, tolerance: float = 1e-3) -> None:
    """Refuse a float32 file that computes something else than the model it was made from.

    Args:
        path: the file.
        found: what `parity` gave for it.
        reference: what the PyTorch model gives, [N, width].
        tolerance: the largest error allowed, as a share of the largest output (or of 1, if that is smaller).

    Raises:
        UserError: the error is above the tolerance, or is not a number.
    """
    allowed = tolerance * max(1.0, torch.nan_to_num(reference.detach().double()).abs().max().item())
    if not found.max_abs_error <= allowed:
        raise UserError(
            f"its outputs differ from the PyTorch model's by up to {found.max_abs_error:.3g}; {allowed:.3g} is allowed",
            where=str(path),
            hint="do not ship this file; the converter's log beside it may say why",
        )
