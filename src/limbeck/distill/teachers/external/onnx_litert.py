"""Files of ONNX Runtime and LiteRT as teachers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from limbeck.core.errors import UserError
from limbeck.core.hashing import fingerprint_file
from limbeck.data import Data
from limbeck.export import Session, session
from limbeck.models import ExternalModel

Rows = NDArray[Any]


def load_onnx(path: Path, data: Data) -> nn.Module:
    """An ONNX file asked in ONNX Runtime on all threads; as `_asked` takes it."""
    return _asked(path, data, session("onnx", path, torch.get_num_threads()))


def load_litert(path: Path, data: Data) -> nn.Module:
    """A LiteRT file asked in its interpreter on all threads; as `_asked` takes it."""
    return _asked(path, data, session("litert", path, torch.get_num_threads()))


def _asked(path: Path, data: Data, session: Session) -> nn.Module:
    """A file in its runtime as a network. One that takes bytes is given pixels of 0 to 255.

    Raises:
        UserError: its rows are not the data's, in whatever order of the axes.
    """
    turn, dtype = _axes(session.shape, data.shape, str(path)), session.dtype
    if dtype not in ("float32", "float16", "float64", "uint8"):
        raise UserError(f"takes {dtype} rows, and these are float32", where=str(path))

    def ask(rows: Rows) -> Rows:
        rows = rows.transpose(turn) if turn else rows
        rows = np.rint(rows * 255).clip(0, 255) if dtype == "uint8" else rows
        return _in_batches(session.run, np.ascontiguousarray(rows, dtype=dtype), session.batch)

    return ExternalModel(ask, digest=fingerprint_file(path), size_bytes=path.stat().st_size)


def _in_batches(run: Callable[[Rows], Rows], rows: Rows, size: int | None) -> Rows:
    if size is None:
        return run(rows)
    parts = []
    for start in range(0, len(rows), size):
        part = rows[start : start + size]
        full = part if len(part) == size else part[np.minimum(np.arange(size), len(part) - 1)]
        parts.append(run(full)[: len(part)])
    return np.concatenate(parts)


def _axes(wanted: tuple[Any, ...], have: tuple[int, ...], where: str) -> tuple[int, ...] | None:
    """How the axes of rows are turned to be taken: None as they are, or channels last."""

    def fits(shape: tuple[int, ...]) -> bool:
        if len(wanted) != len(shape):
            return False
        return all(not isinstance(w, int) or w < 1 or w == h for w, h in zip(wanted, shape, strict=True))

    if fits(have):
        return None
    if len(have) == 3 and fits((*have[1:], have[0])):
        return (0, 2, 3, 1)
    takes = [w if isinstance(w, int) and w > 0 else "any" for w in wanted]
    raise UserError(
        f"takes rows {takes}, and the data's are {list(have)}",
        where=where,
        hint="for images of another size give `data.size`; for tables look at `drop` and the order of the columns",
    )
