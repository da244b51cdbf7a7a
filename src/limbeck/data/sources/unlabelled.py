"""Rows without a label, beside those of a source: a student learns from them by its teacher's outputs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from limbeck.core.errors import UserError
from limbeck.core.progress import Progress
from limbeck.data.prepare import Raw
from limbeck.data.sources.arrays import read_inputs
from limbeck.data.sources.folder import decoded, files_below

if TYPE_CHECKING:
    from limbeck import recipe

WHERE = "data.unlabelled"


def with_unlabelled(raw: Raw, spec: recipe.Data, progress: Progress | None) -> Raw:
    """The same rows and, behind them, those at `spec.unlabelled`, in memory.

    That is a folder of images (of any depth; folders are no classes), or an .npy file or an .npz file with x.

    Raises:
        UserError: there is nothing, or it is not made of the same kind of samples.
    """
    path = Path(spec.unlabelled or "").expanduser()
    if not path.exists():
        raise UserError("there is no such file or folder", where=f"{WHERE}: {path}")
    x, notes = _images(raw, path, spec, progress) if path.is_dir() else (read_inputs(path), [])
    if x.shape[1:] != raw.x.shape[1:]:
        raise UserError(
            f"samples have the shape {list(x.shape[1:])}, and those with labels {list(raw.x.shape[1:])}",
            where=f"{WHERE}: {path}",
        )
    if x.dtype != raw.x.dtype:
        if torch.uint8 in (x.dtype, raw.x.dtype) and x.ndim < 4:
            raise UserError(f"numbers are {x.dtype}, and those with labels {raw.x.dtype}", where=f"{WHERE}: {path}")
        x = x.float().div_(255) if x.dtype == torch.uint8 else (x * 255).round_().to(torch.uint8)
    return replace(raw, x=torch.cat([raw.x, x]), unlabelled=len(x), notes=(*raw.notes, *notes), identity=None)


def _images(raw: Raw, path: Path, spec: recipe.Data, progress: Progress | None) -> tuple[Tensor, list[str]]:
    files, shape = files_below(path), tuple(raw.x.shape[1:])
    if len(shape) != 3 or shape[1] != shape[2] or shape[0] not in (1, 3):
        raise UserError(
            f"samples of the shape {list(shape)} are not made from image files", where=WHERE, hint="give .npz or .npy"
        )
    x, unreadable, _ = decoded(files, shape[1], shape[0], spec.background, progress)
    skipped = [f"skipped {len(unreadable)} files without a label that cannot be read"] if unreadable else []
    if unreadable and spec.strict:
        position, why = next(iter(unreadable.items()))
        raise UserError(f"{files[position].path} cannot be read ({why})", where=WHERE)
    return torch.from_numpy(x), skipped
