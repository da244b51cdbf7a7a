"""New images and tables, outside of any data set, as a network that was trained on one takes them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from limbeck.data.images import decode, guarded
from limbeck.data.tables import read_table
from limbeck.errors import UserError, did_you_mean


def read_images(paths: Sequence[Path], shape: tuple[int, ...], background: str = "white") -> NDArray[np.uint8]:
    """Images as uint8 [B, channels, H, W], prepared as those of a folder are.

    Args:
        paths: of the images.
        shape: of one, [channels, H, W]; H and W are the same.
        background: what shows through transparent parts.

    Raises:
        UserError: one cannot be read.
    """
    channels, height, width = shape
    if height != width or channels not in (1, 3):
        raise UserError(f"images of shape {tuple(shape)} are not made from files", hint="square ones are, grey or RGB")
    found = []
    with guarded():
        for path in paths:
            image = decode(path, height, channels, background)
            if isinstance(image, str):
                raise UserError(f"cannot be read ({image})", where=str(path), hint="give PNG, JPEG, WebP or BMP")
            found.append(image)
    return np.stack(found) if found else np.zeros((0, *shape), np.uint8)


def read_rows(path: Path, columns: Sequence[str]) -> NDArray[np.float32]:
    """The columns of a table that a network takes, as float32 [B, columns]; others are left out.

    Args:
        path: CSV, TSV or Parquet.
        columns: their names; `colour=red` is 1 where the column `colour` says `red`.

    Raises:
        UserError: a column is missing, or holds what is no finite number.
    """
    frame = read_table(path)
    found = np.empty((len(frame), len(columns)), np.float32)
    for number, name in enumerate(columns):
        column, _, word = name.partition("=") if name not in frame.columns else (name, "", "")
        if column not in frame.columns:
            raise UserError(f"has no column '{column}'", where=str(path), hint=did_you_mean(column, frame.columns))
        if word:
            found[:, number] = frame[column].astype(str).to_numpy(dtype=np.str_) == word
            continue
        try:
            found[:, number] = frame[column].to_numpy(dtype=np.float32)
        except ValueError as error:
            raise UserError(f"column '{column}' holds what is no number ({error})", where=str(path)) from error
        if not np.isfinite(found[:, number]).all():
            raise UserError(f"column '{column}' has gaps, or numbers beyond the range of float32", where=str(path))
    return found
