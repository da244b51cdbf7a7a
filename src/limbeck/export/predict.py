"""What an exported file says of new images or rows, in its own runtime."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from limbeck import export
from limbeck.core.errors import UserError
from limbeck.core.readers.tables import read_rows
from limbeck.tasks import rules


def predict(file: Path, inputs: Sequence[Path], *, top: int = 1) -> list[dict[str, Any]]:
    """Predictions for images, or for every row of tables.

    Args:
        file: an exported file with its card beside it.
        inputs: images, folders of images, or tables.
        top: how many classes to name, the likeliest first; of labels all that are likely are named.

    Returns:
        One mapping an image or row: input, and classes with their probabilities, the likeliest first; labels with
        theirs, those above 0.5 (there may be none); or values by name. Of a row with words that no row learned from
        had, also unknown, these words by column.

    Raises:
        UserError: the file has no card, or an input cannot be read or does not fit.
    """
    card, unknown = export.read_card(file), list[dict[str, str]]()
    if not inputs:
        raise UserError("there is nothing to predict", hint="give images, or a table")
    if len(card.shape) == 3:
        from limbeck.core.readers.images import read_images

        paths = [path for given in inputs for path in (sorted(_images(given)) if given.is_dir() else [given])]
        names = [str(path) for path in paths]
        x = read_images(paths, card.shape, card.made.get("background") or "white")
        rows: np.ndarray[Any, Any] = x if card.interface.input == "uint8" else x.astype(np.float32) / 255
        rows = rows.transpose(0, 2, 3, 1) if card.interface.layout == "nhwc" else rows
    else:
        tables = [read_rows(path, card.table, card.shape[0]) for path in inputs]
        names = [f"{path}:{n + 1}" for path, (table, _) in zip(inputs, tables, strict=True) for n in range(len(table))]
        rows, unknown = np.concatenate([table for table, _ in tables]), [one for _, found in tables for one in found]
    if not len(rows):
        raise UserError("there is no image and no row in it", where=str(inputs[0]))
    with export.Served(file, card.format) as served:
        told = served.predict(np.ascontiguousarray(rows))
    asked, known = rules(card.task), card.task.names
    said = [{"input": name} | asked.said(known, row, top) for name, row in zip(names, told, strict=True)]
    return [one | {"unknown": words} if words else one for one, words in zip_longest(said, unknown)]


def _images(folder: Path) -> list[Path]:
    from limbeck.core.readers.images import SUFFIXES

    return [path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES]
