"""What an exported file says of new images or rows, in its own runtime."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from limbeck import export
from limbeck.core.errors import UserError
from limbeck.core.pictures import write_mask
from limbeck.core.readers.tables import read_rows
from limbeck.export.interface import classes_last
from limbeck.tasks import rules


def predict(file: Path, inputs: Sequence[Path], *, top: int = 1, masks: Path | None = None) -> list[dict[str, Any]]:
    """Predictions for images, or for every row of tables.

    Args:
        file: an exported file with its card beside it.
        inputs: images, folders of images, or tables.
        top: how many classes to name, the likeliest first; of labels all that are likely are named.
        masks: the folder for the masks of a file that gives a class for each pixel; it needs one.

    Returns:
        One mapping an image or row: input, and classes with their probabilities, the likeliest first; labels with
        theirs, those above 0.5 (there may be none); values by name; or the path of the mask, a palette PNG in the
        image's own size, and pixels, the classes in it with their shares. Of a row with words that no row learned from
        had, also unknown, these words by column.

    Raises:
        UserError: the file has no card, an input cannot be read or does not fit, or a mask has no place to go.
    """
    card, unknown = export.read_card(file), list[dict[str, str]]()
    if not inputs:
        raise UserError("there is nothing to predict", hint="give images, or a table")
    of_task, paths, pictures = rules(card.task), list[Path](), list[Path]()
    if (of_task.each == "pixel") != (masks is not None):
        if masks is not None:
            raise UserError("has an effect only on files that give a class for each pixel", where="--masks")
        raise UserError("it gives a mask for each image", where=str(file), hint="say where they go: --masks FOLDER")
    if len(card.shape) == 3:
        from limbeck.core.readers.images import read_images

        found = [(given, path) for given in inputs for path in (sorted(_images(given)) if given.is_dir() else [given])]
        paths = [path for _, path in found]
        names = [str(path) for path in paths]
        pictures = _places(found, masks) if masks else []
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
        outputs = served.predict(np.ascontiguousarray(rows))
    outputs, known = classes_last(outputs, card.interface), card.task.names
    said = [{"input": name} | of_task.said(known, row, top) for name, row in zip(names, outputs, strict=True)]
    if pictures:
        from limbeck.core.readers.images import image_size

        for path, place, row, one in zip(paths, pictures, outputs, said, strict=True):
            one["mask"] = str(write_mask(place, row.argmax(-1), len(known), image_size(path)))
    return [one | {"unknown": words} if words else one for one, words in zip_longest(said, unknown)]


def _places(found: Sequence[tuple[Path, Path]], masks: Path) -> list[Path]:
    """Where the mask of each image goes: below the folder of masks as the image stands below what was given.

    Raises:
        UserError: two images would have one mask, or there is such a file already.
    """
    places = [masks / path.relative_to(given if given.is_dir() else given.parent) for given, path in found]
    places = [place.with_suffix(".png") for place in places]
    for place, count in Counter(places).items():
        if count > 1:
            raise UserError("would be the mask of two images", where=str(place), hint="ask for them one by one")
        if place.exists():
            raise UserError("is there already, and is not overwritten", where=str(place), hint="give another folder")
    return places


def _images(folder: Path) -> list[Path]:
    from limbeck.core.readers.images import SUFFIXES

    return [path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES]
