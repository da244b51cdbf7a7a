"""New images and tables, outside of any data set, as a network that was trained on one takes them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from limbeck.data.images import decode, guarded
from limbeck.data.tables import read_table
from limbeck.errors import UserError, did_you_mean
from limbeck.types import Column

if TYPE_CHECKING:
    import pandas as pd


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


def read_rows(path: Path, table: Sequence[Column], width: int) -> tuple[NDArray[np.float32], list[dict[str, str]]]:
    """The columns of a table that a network takes, as its inputs; other columns are left out.

    Args:
        path: CSV, TSV or Parquet.
        table: the columns, numbers and words; empty where nothing is known but their number.
        width: number of inputs.

    Returns:
        float32 [B, inputs], and for each row the words that no row learned from had, by column. All inputs of such a
        column are 0 there.

    Raises:
        UserError: a column is missing, has gaps, or holds what is no finite number.
    """
    frame = read_table(path)
    frame.columns = frame.columns.astype(str)
    if not table:
        if frame.shape[1] != width:
            what = f"has {frame.shape[1]} columns, and the file takes {width} numbers a row"
            raise UserError(what, where=str(path), hint="their names are not known: give these columns alone")
        table = [Column(name) for name in frame.columns]
    for column in table:
        if column.name not in frame.columns:
            hint = did_you_mean(column.name, frame.columns)
            raise UserError(f"has no column '{column.name}'", where=str(path), hint=hint)
    blocks, unknown = [np.empty((len(frame), 0), np.float32)], [dict[str, str]() for _ in range(len(frame))]
    for column in table:
        values = frame[column.name]
        if column.categories is None:
            blocks.append(_numbers(values, path)[:, None])
            continue
        if values.isna().any():
            raise UserError(f"column '{column.name}' has gaps", where=str(path), hint="fill them in")
        words = values.astype(str).to_numpy(dtype=np.str_)
        chosen = words[:, None] == np.asarray(column.categories, dtype=np.str_)
        blocks.append(chosen.astype(np.float32))
        for row in np.flatnonzero(~chosen.any(axis=1)):
            unknown[row][column.name] = str(words[row])
    return np.concatenate(blocks, axis=1), unknown


def _numbers(values: pd.Series[Any], path: Path) -> NDArray[np.float32]:
    try:
        with np.errstate(over="ignore"):
            found: NDArray[np.float32] = values.to_numpy(dtype=np.float32)
    except (ValueError, TypeError) as error:
        what = f"column '{values.name}' holds what is no number ({error})"
        raise UserError(what, where=str(path)) from error
    if not np.isfinite(found).all():
        raise UserError(f"column '{values.name}' has gaps, or numbers beyond the range of float32", where=str(path))
    return found
