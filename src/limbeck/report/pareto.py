"""Score against size and time: every file and network a point, and the front that nothing else beats in both."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from limbeck.core.metrics import METRICS
from limbeck.core.result import Result
from limbeck.core.types import Artifact, Cost
from limbeck.core.words import NOTHING, finite
from limbeck.report import files, roles, words
from limbeck.report.figures import axis_title, plain, rgba, text

MARKS = {"float32": "circle", "fp16": "square", "int8": "diamond", "w8": "triangle-up", "w4": "triangle-down"}
SIGNS = {"float32": "●", "fp16": "■", "int8": "◆", "w8": "▲", "w4": "▼"}
KINDS = {
    "teacher": "teacher", "assistant": "assistant", "distilled": "student", "compressed": "smaller student",
    **{form: title for form, title in files.RUNTIMES.items() if form != "pytorch"},
}  # fmt: skip
AXES = {"size_bytes": ("size of the file, kB", 1e-3, words.size), "latency_ms": ("ms a row", 1.0, words.milliseconds)}
PLOTS = {"pareto-size": "size_bytes", "pareto-latency": "latency_ms"}  # id on the page -> cost
SHOWN_TIMES_MEDIAN = 3  # how far the score's axis reaches below the best, so that one collapse does not hide the rest


@dataclass(frozen=True, slots=True)
class Point:
    """A file or network in the plot.

    Attributes:
        name: in the result.
        label: whose it is, and what.
        kind: what its colour says, a key of KINDS.
        precision: what its mark says.
        score: the metric.
        cost: as in the result.
        lines: everything that is shown where one points at it.
    """

    name: str
    label: str
    kind: str
    precision: str
    score: float
    cost: Cost
    lines: Sequence[str]


def points(result: Result, metric: str) -> list[Point]:
    """Teachers, assistants, the chosen student, smaller ones and every file; of seeds the one that became files.

    Empty where there is nothing to choose from: two files at most, and no smaller student.
    """
    made = files.made(result)
    if sum(len(one.files) for one in made) <= 2 and not result.compressed:
        return []
    chosen, sources = (result.chosen.name if result.chosen else None), {one.name for one in made}
    found = []
    for row in roles.rows(result):
        if row.role in ("teacher", "assistant"):
            shown = list(row.models)
        else:
            shown = [m for m in row.models if m.name in sources or m.name == chosen]
            shown = shown or (list(row.models[:1]) if row.role == "compressed" else [])
        found += [_network(m, row, metric) for m in shown if m.role != "exported"]
    found += [_file(file, one, metric) for one in made for file in one.files]
    return [point for point in found if point is not None]


def _network(model: Artifact, row: roles.Row, metric: str) -> Point | None:
    score, kind = model.metrics.get(metric), row.role if row.role in KINDS else "distilled"
    if not finite(score):
        return None
    label = model.name if row.role != "distilled" else f"{model.name}, {row.short}"
    lines = [label, "PyTorch, float32", words.metric(metric, score) + " on test"]
    return Point(model.name, label, kind, "float32", score, model.cost, [*lines, *_costs(model.cost, None)])


def _file(file: files.File, one: files.Made, metric: str) -> Point | None:
    score, change = file.row.metrics.get(metric), files.change_in_words(file, metric)
    if not finite(score):
        return None
    against = {"0": " (as its network)", NOTHING: ""}.get(change, f" ({change} against its network)")
    same = file.row.parity.agreement if file.row.parity else None
    agreement = [f"same class as its network on {words.metric('agreement', same)}"] if finite(same) else []
    lines = [one.name, file.title, f"{words.metric(metric, score)} on test{against}", *agreement]
    cost = file.row.cost
    label = f"{one.name} as {file.title}"
    lines += _costs(cost, file.share)
    return Point(file.row.name, label, file.row.format, file.precision, score, cost, lines)


def _costs(cost: Cost, share: float | None) -> list[str]:
    lines = [words.size(cost.size_bytes) + ("" if share is None else f", {100 * share:.3g} % of the float file")]
    if finite(cost.latency_ms):
        fastest = cost.fastest_ms
        least = f" (at least {words.milliseconds(fastest)})" if finite(fastest) else ""
        lines.append(f"{words.milliseconds(cost.latency_ms)} for one row{least}")
    if finite(cost.batch_ms):
        lines.append(f"{words.milliseconds(cost.batch_ms)} for 64 rows")
    if finite(cost.memory_mb):
        lines.append(f"{cost.memory_mb:.1f} MB of memory")
    return lines


def front(found: Sequence[Point], key: str, metric: str) -> list[Point]:
    """Points than which none costs as little and is better, the cheapest first."""
    known = [p for p in found if finite(cost := getattr(p.cost, key)) and cost > 0]
    best: list[Point] = []
    for point in sorted(known, key=lambda p: (getattr(p.cost, key), -METRICS[metric].sign * p.score)):
        if not best or METRICS[metric].gain(best[-1].score, point.score) > 0:
            best.append(point)
    return best


def legend(found: Sequence[Point]) -> dict[str, list[tuple[str, str]]]:
    """What colours and marks mean, of those that are there: (colour, words) and (sign, words)."""
    kinds, precisions = {p.kind for p in found}, {p.precision for p in found}
    return {
        "colours": [(rgba(kind), title) for kind, title in KINDS.items() if kind in kinds],
        "marks": [(SIGNS[p], words.PRECISIONS[p]) for p in SIGNS if p in precisions],
    }


def said(found: Sequence[Point], key: str, metric: str) -> list[str]:
    """The front in words, the cheapest first."""
    say = AXES[key][2]
    return [
        f"{p.label} ({say(getattr(p.cost, key))}, {words.metric(metric, p.score)})" for p in front(found, key, metric)
    ]


def figure(found: Sequence[Point], key: str, metric: str) -> dict[str, Any] | None:
    """The score of every point against one of its costs, which has a logarithmic axis; better is higher.

    Args:
        found: as `points` gives them.
        key: size_bytes or latency_ms.
        metric: the score.

    Returns:
        The figure as plain values, or None where fewer than two points have that cost.
    """
    import plotly.graph_objects as go

    shown = [p for p in found if finite(cost := getattr(p.cost, key)) and cost > 0]
    if len(shown) < 2:
        return None
    title, unit, _ = AXES[key]
    scale, sign = (100.0 if METRICS[metric].percent else 1.0), METRICS[metric].sign
    low, high = window([sign * scale * p.score for p in shown])
    drawn = go.Figure(
        _steps(front(found, key, metric), [getattr(p.cost, key) * unit for p in shown], key, scale, sign * low)
    )
    for kind in KINDS:
        own = [p for p in shown if p.kind == kind]
        heights = [max(sign * scale * p.score, low) for p in own]
        below = [sign * scale * p.score < low for p in own]
        if own:
            drawn.add_trace(
                go.Scatter(
                    x=[getattr(p.cost, key) * unit for p in own],
                    y=[sign * height for height in heights],
                    mode="markers+text",
                    text=[f" ↓ {words.metric(metric, p.score)} " if b else "" for p, b in zip(own, below, strict=True)],
                    textposition=beside([getattr(p.cost, key) for p in own], [getattr(p.cost, key) for p in shown]),
                    textfont={"size": 11},
                    customdata=["<br>".join(text(line) for line in p.lines) for p in own],
                    marker={
                        "size": 10, "color": rgba(kind, 0.85), "symbol": [MARKS.get(p.precision, "x") for p in own],
                        "line": {"width": 1, "color": rgba(kind)},
                    },
                    hovertemplate="%{customdata}<extra></extra>",
                )
            )  # fmt: skip
    margin = 0.06 * (high - low or 1)
    ends = (low - margin, high + margin)
    unit_of_score = " %" if METRICS[metric].percent else ""
    drawn.update_layout(
        height=340,
        showlegend=False,
        margin={"l": 8, "r": 12, "t": 8, "b": 8},
        hoverlabel={"align": "left"},
        xaxis={"title": axis_title(title), **log_axis([getattr(p.cost, key) * unit for p in shown])},
        yaxis={"range": [sign * ends[0], sign * ends[1]], "automargin": True, "ticksuffix": unit_of_score},
    )
    return plain(drawn)


def _steps(best: Sequence[Point], costs: Sequence[float], key: str, scale: float, floor: float) -> Any:
    """The front as a step line: from the floor up to its cheapest point, and to the right edge from its best."""
    import plotly.graph_objects as go

    unit = AXES[key][1]
    own = [getattr(point.cost, key) * unit for point in best]
    x = [own[0], *own, max(costs)]
    y = [floor, *(scale * p.score for p in best), scale * best[-1].score]
    style = {"shape": "hv", "width": 1.75, "color": rgba("teacher", 0.9), "dash": "dot"}
    return go.Scatter(x=x, y=y, mode="lines", line=style, hoverinfo="skip")


def window(heights: Sequence[float]) -> tuple[float, float]:
    """What an axis shows of heights of which larger ones are better: the best, and as far down as most of them go."""
    high = max(heights)
    reach = SHOWN_TIMES_MEDIAN * (high - statistics.median(heights))
    return (max(min(heights), high - reach) if reach else min(heights)), high


def beside(values: Sequence[float], reach: Sequence[float]) -> list[str]:
    """Where words stand that belong to points on a logarithmic axis, so that they do not leave it."""
    middle = math.sqrt(min(reach) * max(reach))
    return ["middle right" if value < middle else "middle left" for value in values]


def log_axis(values: Sequence[float]) -> dict[str, Any]:
    """A logarithmic axis for these values, with round numbers on it and room for a mark at both ends."""
    low, high = math.log10(min(values)), math.log10(max(values))
    margin = max(0.12, 0.06 * (high - low))
    low, high = low - margin, high + margin
    near = (1, 2, 5) if high - low < 2.2 else (1, 3) if high - low < 3.2 else (1,)
    ticks = [d * 10.0**e for e in range(math.floor(low), math.ceil(high) + 1) for d in near]
    ticks = [tick for tick in ticks if low <= math.log10(tick) <= high]
    labels = [f"{tick:,.0f}" if tick >= 1 else f"{tick:g}" for tick in ticks]
    return {"type": "log", "range": [low, high], "tickvals": ticks, "ticktext": labels, "automargin": True}
