"""What became of each of several labels: a table of the chosen student's answers, and a figure of all models'."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from limbeck.core.result import DataSummary, Result
from limbeck.core.types import Artifact
from limbeck.core.words import NOTHING, finite
from limbeck.report import roles, words
from limbeck.report.figures import axis_title, plain, rgba, text

SHOWN = ("ap", "f1", "precision", "recall")
DRAWN = ("teacher", "student", "distilled")
MAX_LABELS_DRAWN = 40


def rows(chosen: Artifact, data: DataSummary) -> list[dict[str, Any]]:
    """Each label with how many rows have it and what the chosen student's answers are worth, the commonest first."""
    found = chosen.metrics.get("per_label") or {}
    count = data.counts.get("test") or 0
    listed = sorted(found.items(), key=lambda item: -item[1]["rows"])
    return [
        {
            "name": name,
            "rows": words.count(one["rows"]),
            "share": words.metric("accuracy", one["rows"] / count) if count else NOTHING,
            "cells": [words.metric("accuracy", one.get(key)).removesuffix(" %") for key in SHOWN],
        }
        for name, one in listed
    ]


def figure(result: Result) -> dict[str, Any] | None:
    """Average precision of each label, of the teacher, the student alone and the taught one, beside the label's share.

    The share of rows that have a label is what ordering them at random comes to: only what lies beyond it was learned.

    Returns:
        The figure as plain values, or None where there are no labels, or too many to be told apart.
    """
    each = [(row, _means(row.models)) for row in drawn_rows(result)]
    each = [(row, means) for row, means in each if means]
    if not each or len(each[0][1]) > MAX_LABELS_DRAWN:
        return None
    test = result.data.counts["test"]
    known = {name: one["rows"] / test for name, one in each[0][0].models[0].metrics["per_label"].items()}
    known = {name: known[name] for name in sorted(known, key=lambda name: -known[name]) if known[name]}
    return compared(each, known, "share of rows with the label (chance)", "average precision on test")


def drawn_rows(result: Result) -> list[roles.Row]:
    """The teacher, the student alone and the taught one."""
    teachers = [row for row in roles.rows(result) if row.role == "teacher"][-1:]  # several are followed by their joint
    return teachers + [row for row in roles.rows(result) if row.role in DRAWN[1:]]


def compared(
    each: Sequence[tuple[roles.Row, Mapping[str, float]]], shares: Mapping[str, float], bars: str, title: str
) -> dict[str, Any]:
    """A figure of a score of each label or class, of several models, beside its share.

    Args:
        each: models, and their scores by name, from 0 to 1.
        shares: of each name that is drawn, from the top down.
        bars: what the shares are, for the legend.
        title: of the axis.
    """
    import plotly.graph_objects as go

    names = list(shares)
    places = list(range(len(names)))
    drawn = go.Figure(
        go.Bar(
            x=[100 * shares[name] for name in names],
            y=places,
            orientation="h",
            width=0.7,
            name=bars,
            marker={"color": rgba("teacher", 0.18)},
            hovertemplate=f"{bars}: %{{x:.1f}} %<extra></extra>",
        )
    )
    marks = {"teacher": "line-ns-open", "student": "circle", "distilled": "diamond"}
    for row, means in each:
        seeds = f", mean of {len(row.models)} seeds" if len(row.models) > 1 else ""
        drawn.add_trace(
            go.Scatter(
                x=[100 * means[name] for name in names],
                y=places,
                mode="markers",
                name=text(row.short),
                marker={
                    "size": 16 if row.role == "teacher" else 10, "color": rgba(row.role),
                    "symbol": marks[row.role], "line": {"width": 2.5 if row.role == "teacher" else 0},
                },
                hovertemplate=f"{text(row.short)}: %{{x:.1f}} %{seeds}<extra></extra>",
            )
        )  # fmt: skip
    drawn.update_layout(
        height=120 + 26 * len(names),
        margin={"l": 8, "r": 8, "t": 8, "b": 8},
        legend={"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"},
        xaxis={
            "title": axis_title(title), "range": [0, 101], "ticksuffix": " %", "automargin": True,
        },
        yaxis={
            "tickvals": places, "ticktext": [text(_short(name)) for name in names], "autorange": "reversed",
            "automargin": True, "showgrid": False, "fixedrange": True,
        },
    )  # fmt: skip
    return plain(drawn)


def _short(name: str) -> str:
    return name if len(name) <= 24 else f"{name[:23]}…"


def _means(models: Sequence[Artifact]) -> dict[str, float]:
    """Average precision of each label, as a mean over seeds."""
    found = [m.metrics.get("per_label") or {} for m in models]
    return {
        name: sum(one[name]["ap"] for one in found) / len(found)
        for name in found[0]
        if all(finite(one[name].get("ap")) for one in found)
    }
