"""The page's plots, as Plotly figures without a theme: the page brings one for light and one for dark."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Sequence
from typing import Any

from limbeck.core.metrics import METRICS, SHARES
from limbeck.core.result import Comparison, Result
from limbeck.core.words import finite
from limbeck.report.roles import ORDER, SMALLER, named

# Each stands out from white and from near-black; dashes tell them apart without colour.
COLOURS = {
    "teacher": (100, 116, 139), "assistant": (59, 130, 200), "student": (217, 119, 6), "direct": (150, 105, 205),
    "generation": (101, 145, 40), "peer": (101, 145, 40), "distilled": (13, 148, 136), "bad": (214, 69, 65),
    "compressed": (208, 72, 140), "litert": (217, 119, 6), "onnx": (59, 130, 200), "executorch": (150, 105, 205),
    "openvino": (101, 145, 40), "keras": (214, 69, 65),
}  # fmt: skip
DASHES = {
    "teacher": ("dot",), "assistant": ("dashdot",), "student": ("dash",), "direct": ("longdash",),
    "generation": ("dot", "dashdot", "dash", "longdash"), "peer": ("dot", "dashdot", "dash", "longdash"),
    "distilled": ("solid",),
}  # fmt: skip
MAX_CLASSES_DRAWN, MAX_CLASSES_LABELLED, MAX_CLASSES_COUNTED = 200, 60, 16


def curves(result: Result, quantity: str) -> dict[str, Any] | None:
    """A quantity of each epoch: teachers, student alone, student with the teacher; seeds as mean and band.

    Returns:
        The figure as plain values, or None where nothing was recorded.
    """
    import plotly.graph_objects as go

    percent = quantity.removeprefix("val_") in METRICS and METRICS[quantity.removeprefix("val_")].percent
    figure = go.Figure()
    for label, role, dash, runs in _runs(result):
        points: dict[int, list[float]] = {}
        for epochs in runs:
            for row in epochs:
                if finite(row.get(quantity)):
                    points.setdefault(int(row["epoch"]), []).append((100 if percent else 1) * row[quantity])
        if not points:
            continue
        x = sorted(points)
        if any(len(points[i]) > 1 for i in x):
            figure.add_trace(
                go.Scatter(
                    x=[*x, *reversed(x)],
                    y=[*(max(points[i]) for i in x), *(min(points[i]) for i in reversed(x))],
                    fill="toself",
                    fillcolor=rgba(role, 0.16),
                    line={"width": 0},
                    mode="lines",
                    legendgroup=label,
                    showlegend=False,
                    hoverinfo="skip",
                )
            )
        figure.add_trace(
            go.Scatter(
                x=x,
                y=[sum(points[i]) / len(points[i]) for i in x],
                customdata=[len(points[i]) for i in x],
                name=text(label),
                legendgroup=label,
                mode="lines+markers" if len(x) < 40 else "lines",
                line={"color": rgba(role), "width": 2.25, "dash": dash},
                marker={"size": 5, "color": rgba(role)},
                hovertemplate="epoch %{x}: %{y:.4~g}" + ("%" if percent else "") + " (n = %{customdata})",
            )
        )
    if not figure.data:
        return None
    last = max(max(trace.x) for trace in figure.data)
    whole = {"dtick": 1} if last <= 10 else {}  # or Plotly would put ticks between epochs
    figure.update_layout(
        height=300,
        margin={"l": 8, "r": 8, "t": 8, "b": 8},
        legend={"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"},
        xaxis={"title": axis_title("epoch"), "automargin": True, "tickformat": "d", **whole},
        yaxis={"automargin": True, "ticksuffix": " %" if percent else ""},
        hovermode="x unified",
    )
    return plain(figure)


def _runs(result: Result) -> list[tuple[str, str, str, list[Any]]]:
    """(label, role, dash, the runs of all seeds), as in the table of models; compared and smaller ones are left out."""
    left_out = {m.name for m in result.models if m.role in ("compared", *SMALLER)}
    recorded = {name: rows for name, rows in result.curves.items() if name not in left_out}
    assistants = {spec.get("name", "assistant") for spec in result.recipe.get("assistants") or []}
    roles = {name: _role(name, "assistant" if name in assistants else "teacher") for name in recorded}
    found: list[tuple[str, str, str, list[Any]]] = []
    for role in ORDER:
        same: dict[str, list[Any]] = {}
        for name in sorted((n for n in recorded if roles[n] == role), key=_number):
            same.setdefault(named(name, role, result)[1], []).append(recorded[name])
        dashes = DASHES.get(role, ("solid",))
        found += [(label, role, dashes[i % len(dashes)], runs) for i, (label, runs) in enumerate(same.items())]
    return found


def _role(name: str, otherwise: str) -> str:
    """The role that a network's folder tells, which students' folders do."""
    match = re.fullmatch(r"(student|direct|distilled)-seed-?\d+(?:-(gen|peer)\d+)?", name)
    if not match:
        return otherwise
    return {"gen": "generation", "peer": "peer"}.get(match[2], match[1])


def _number(name: str) -> int:
    match = re.search(r"-(?:gen|peer)(\d+)$", name)
    return int(match[1]) if match else 0


def reach(comparisons: Sequence[Comparison]) -> tuple[float, float]:
    """From the least to the most of what these comparisons and zero reach, in the unit of the metric."""
    found = [v for c in comparisons for v in (*c.gain.values, *(c.gain.ci95 or []))]
    return min([0.0, *found]), max([0.0, *found])


def gains(comparison: Comparison, ends: tuple[float, float] | None = None) -> dict[str, Any]:
    """What teaching brought at each seed, their mean and its interval, against zero.

    Args:
        comparison: as `limbeck.evaluate.compare` gives it.
        ends: what the axis reaches, for comparisons that are looked at together; their own reach without it.
    """
    import plotly.graph_objects as go

    gain, percent = comparison.gain, comparison.metric in SHARES
    scale, unit = (100, " points") if percent else (1, "")
    values = [scale * v for v in gain.values]
    mean, ci95 = scale * gain.mean, [scale * v for v in gain.ci95 or []]
    figure = go.Figure()
    if ci95:
        figure.add_trace(
            go.Scatter(
                x=[mean],
                y=[0],
                error_x={
                    "type": "data", "symmetric": False, "array": [ci95[1] - mean], "arrayminus": [mean - ci95[0]],
                    "thickness": 2.5, "width": 7, "color": rgba("distilled"),
                },
                mode="markers",
                marker={"symbol": "diamond", "size": 12, "color": rgba("distilled")},
                hovertemplate=f"mean %{{x:+.3~g}}{unit}<extra></extra>",
            )
        )  # fmt: skip
    figure.add_trace(
        go.Scatter(
            x=values,
            y=[0.8] * len(values),
            mode="markers",
            marker={"size": 9, "color": rgba("student", 0.75)},
            hovertemplate=f"one seed %{{x:+.3~g}}{unit}<extra></extra>",
        )
    )
    low, high = (scale * end for end in ends or reach([comparison]))
    margin = 0.06 * (high - low or 1)
    span = [low - margin, high + margin]
    metric = comparison.metric
    title = f"{SHARES[metric]}, points" if percent else text(METRICS[metric].title if metric in METRICS else metric)
    rows = {"tickvals": [0, 0.8], "ticktext": ["mean", "seeds"]} if ci95 else {"tickvals": [0.8], "ticktext": ["seed"]}
    figure.update_layout(
        height=150,
        showlegend=False,
        margin={"l": 8, "r": 8, "t": 8, "b": 8},
        xaxis={"title": axis_title(f"gain in {title}"), "zeroline": True, "range": span, "automargin": True},
        yaxis={**rows, "range": [-0.7, 1.4], "showgrid": False, "fixedrange": True, "automargin": True},
    )
    return plain(figure)


def confusion(matrix: Sequence[Sequence[int]], names: Sequence[str]) -> dict[str, Any] | None:
    """True classes in rows, predicted ones in columns; colour is the share of the row, in another colour for mistakes.

    Returns:
        The figure as plain values, or None where there are too many classes to see anything.
    """
    import plotly.graph_objects as go

    n = len(names)
    if not n or n > MAX_CLASSES_DRAWN or len(matrix) != n:
        return None
    shares = [[100 * v / (sum(row) or 1) for v in row] for row in matrix]

    def shown(i: int, j: int, right: bool) -> bool:
        return (i == j) == right and (right or matrix[i][j] > 0)

    worst = max((shares[i][j] for i in range(n) for j in range(n) if i != j), default=0)
    figure = go.Figure()
    for right, role, top in ((True, "distilled", 100), (False, "student", max(worst, 5))):
        figure.add_trace(
            go.Heatmap(
                x=list(range(n)),
                y=list(range(n)),
                z=[[shares[i][j] if shown(i, j, right) else None for j in range(n)] for i in range(n)],
                customdata=[[_cell(names[i], names[j], matrix[i][j]) for j in range(n)] for i in range(n)],
                text=[[str(v) if v else "" for v in row] for row in matrix],
                texttemplate="%{text}" if n <= MAX_CLASSES_COUNTED else None,
                hovertemplate="%{customdata} (%{z:.1f} % of the class)<extra></extra>",
                hoverongaps=False,
                zmin=0,
                zmax=top,
                colorscale=[[0, rgba(role, 0.06)], [1, rgba(role, 0.72)]],
                showscale=False,
                xgap=1 if n <= MAX_CLASSES_LABELLED else 0,
                ygap=1 if n <= MAX_CLASSES_LABELLED else 0,
            )
        )  # fmt: skip
    labels: dict[str, Any] = {"showgrid": False, "automargin": True}
    if n <= MAX_CLASSES_LABELLED:
        short = [text(name if len(name) <= 22 else f"{name[:21]}…") for name in names]
        labels |= {"tickvals": list(range(n)), "ticktext": short, "tickfont": {"size": 12 if n <= 20 else 9}}
    # Upright where a name fits above its column: about 7 pixels a letter, 380 for all columns.
    slant = 0 if all(len(name) <= max(2, 54 // n) for name in names) else -45 if n <= 20 else -90
    figure.update_layout(
        height=min(900, max(320, 150 + (30 if n <= 20 else 14) * n)),
        margin={"l": 8, "r": 8, "t": 8, "b": 8},
        xaxis={**labels, "title": axis_title("predicted"), "tickangle": slant},
        yaxis={**labels, "title": axis_title("true"), "autorange": "reversed"},
    )
    return plain(figure)


def _cell(true: str, predicted: str, rows: int) -> str:
    verb = "recognised" if true == predicted else f"taken for {text(predicted)}"
    return f"{text(true)} {verb}: {rows}"


def text(words: str) -> str:
    """Words for Plotly, which reads a little HTML but shows `&quot;` as it stands."""
    return html.escape(words, quote=False)


def axis_title(title: str) -> dict[str, Any]:
    """The title of an axis, small."""
    return {"text": title, "font": {"size": 12}, "standoff": 10}


def rgba(role: str, alpha: float = 1.0) -> str:
    """The colour of a role."""
    red, green, blue = COLOURS[role]
    return f"rgba({red}, {green}, {blue}, {alpha:g})"


def plain(figure: Any) -> dict[str, Any]:
    """A figure as plain values, without a theme."""
    figure.update_layout(template="none")
    plain: dict[str, Any] = json.loads(figure.to_json())
    return {"data": plain["data"], "layout": {k: v for k, v in plain["layout"].items() if k != "template"}}
