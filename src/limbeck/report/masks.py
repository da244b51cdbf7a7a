"""Masks on the page: some of them as pictures, and how well each class overlaps with what is true."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from limbeck.core.pictures import colours
from limbeck.core.result import Result
from limbeck.core.types import Artifact
from limbeck.core.words import finite
from limbeck.report import labels, roles, words

MOST_IN_LEGEND = 40


def rows(chosen: Artifact) -> list[dict[str, Any]]:
    """Each class of the chosen student: its share of the pixels, IoU, and how much of it was found and is right."""
    found, confusion = (chosen.metrics.get(key) or {} for key in ("per_class_iou", "confusion"))
    total = sum(map(sum, confusion)) or 1
    shown = []
    for n, (name, iou) in enumerate(found.items()):
        true, said, both = sum(confusion[n]), sum(row[n] for row in confusion), confusion[n][n]
        cells = [iou, both / true if true else None, both / said if said else None]
        shares = [words.metric("accuracy", value).removesuffix(" %") for value in (true / total, *cells)]
        shown.append({"name": name, "cells": shares})
    return shown


def figure(result: Result) -> dict[str, Any] | None:
    """Intersection over union of each class, of the teacher, the student alone and the taught one.

    Returns:
        The figure as plain values, or None where there are no masks, or too many classes to be told apart.
    """
    each = [(row, _means(row.models)) for row in labels.drawn_rows(result)]
    each = [(row, means) for row, means in each if means]
    if not each or len(each[0][1]) > labels.MAX_LABELS_DRAWN:
        return None
    model = each[0][0].models[0].metrics
    total = sum(map(sum, model["confusion"])) or 1
    shares = {name: sum(row) / total for name, row in zip(model["per_class_iou"], model["confusion"], strict=True)}
    known = {name: share for name, share in shares.items() if share and all(name in means for _, means in each)}
    return labels.compared(each, known, "share of the pixels", "intersection over union on test")


def _means(models: Sequence[Artifact]) -> dict[str, float]:
    """IoU of each class, as a mean over seeds."""
    found = [m.metrics.get("per_class_iou") or {} for m in models]
    return {
        name: sum(one[name] for one in found) / len(found)
        for name in found[0]
        if all(finite(one.get(name)) for one in found)
    }


def pictures(result: Result, folder: Path) -> dict[str, Any] | None:
    """The picture of the run as part of the page, so that the page stays one file; None where it is not there.

    Returns:
        source: a data URI; columns: headings; said: which images; legend: (class, colour).
    """
    found = result.masks
    if not found or not (folder / found.file).is_file():
        return None
    names = {row.models[0].name: row.short for row in roles.rows(result)}
    names |= {model.name: row.short for row in roles.rows(result) for model in row.models}
    content = base64.b64encode((folder / found.file).read_bytes()).decode("ascii")
    classes = list(result.data.classes)
    legend = [(name, f"rgb{colour}") for name, colour in zip(classes, colours(len(classes)), strict=True)][1:]
    return {
        "source": f"data:image/png;base64,{content}",
        "columns": ["image", "true", *(names.get(one.name, one.name) for one in found.columns)],
        "said": f"{found.rows} of the {found.of:,} test images, drawn at random",
        "background": classes[0],
        "legend": legend[:MOST_IN_LEGEND],
    }
