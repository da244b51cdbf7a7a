"""The test scores side by side: an ensemble's members with what they teach, and one generation after the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from limbeck.core.metrics import METRICS, SHARES
from limbeck.core.result import Disagreement, Result
from limbeck.core.statistics import interval
from limbeck.core.types import Artifact
from limbeck.core.words import finite
from limbeck.report import roles, words
from limbeck.report.figures import axis_title, plain, rgba, text
from limbeck.tasks import rules


def members(result: Result, metric: str) -> dict[str, Any] | None:
    """Every teacher, the ensemble, the student alone and the student they taught, with intervals where there are seeds.

    Dots rather than bars: bars begin at zero, where the few points that count cannot be seen.

    Returns:
        The figure as plain values, or None where there is no ensemble.
    """
    import plotly.graph_objects as go

    if not result.ensemble:
        return None
    scale, unit = _scale(metric)
    weights = result.ensemble.weights or {}
    shown, drawn = [], []
    for row in roles.rows(result):
        scores = _scores(row.models, metric)
        if row.role in ("compared", *roles.SMALLER, "exported") or not scores:
            continue
        mean, reach = sum(scores) / len(scores), interval(scores)
        name = row.short if len(row.short) <= 20 else f"{row.short[:19]}…"
        if row.short in weights:
            name += f" · {weights[row.short]:.2f}"
        shown.append((row, mean, reach or (mean, mean), name))
    if not shown:
        return None
    together = max((y for y, (row, *_) in enumerate(shown) if row.role == "teacher"), default=None)
    for y, (row, mean, reach, _) in enumerate(shown):
        colour, (low, high) = row.role, reach
        drawn.append(
            go.Scatter(
                x=[scale * mean],
                y=[y],
                error_x={
                    "type": "data", "symmetric": False, "array": [scale * (high - mean)],
                    "arrayminus": [scale * (mean - low)], "thickness": 2.5, "width": 6, "color": rgba(colour),
                    "visible": high > low,
                },
                mode="markers+text",
                text=[words.metric(metric, mean)],
                textposition="top center",
                cliponaxis=False,
                marker={"size": 11, "color": rgba(colour), "symbol": "diamond" if y == together else "circle"},
                hovertemplate=f"{text(row.short)}: %{{x:.4~g}}{unit}" + _seeds(row.models) + "<extra></extra>",
            )
        )  # fmt: skip
    figure = go.Figure(drawn)
    ends = [scale * v for _, _, reach, _ in shown for v in reach]
    margin = 0.14 * (max(ends) - min(ends) or abs(ends[0]) or 1)
    better = "" if METRICS[metric].higher else ", lower is better"
    title = f"{SHARES.get(metric, METRICS[metric].title)} on test{better}"
    figure.update_layout(
        height=90 + 44 * len(shown),
        showlegend=False,
        margin={"l": 8, "r": 30, "t": 8, "b": 8},
        xaxis={
            "title": axis_title(title),
            "range": [min(ends) - margin, max(ends) + margin], "automargin": True, "ticksuffix": unit,
        },
        yaxis={
            "tickvals": list(range(len(shown))), "ticktext": [text(name) for *_, name in shown], "automargin": True,
            "range": [len(shown) - 0.5, -0.8], "fixedrange": True, "showgrid": True,
        },
    )  # fmt: skip
    return plain(figure)


def generations(result: Result, metric: str) -> dict[str, Any] | None:
    """The score of each generation: every seed, the mean and its interval; the student trained alone stands first.

    Returns:
        The figure as plain values, or None where there is one generation at most.
    """
    import plotly.graph_objects as go

    found = {role: [r for r in roles.rows(result) if r.role == role] for role in ("student", "generation", "distilled")}
    if not found["generation"]:
        return None
    scale, unit = _scale(metric)
    line = [(row, _scores(row.models, metric)) for rows in found.values() for row in rows]
    line = [(row, scores) for row, scores in line if scores]
    names = ["alone" if row.role == "student" else row.short.removeprefix("generation ") for row, _ in line]
    means = [sum(scores) / len(scores) for _, scores in line]
    reaches = [interval(scores) or (mean, mean) for (_, scores), mean in zip(line, means, strict=True)]
    figure = go.Figure(
        go.Scatter(
            x=[i - 0.08 for i, (_, scores) in enumerate(line) for _ in scores],
            y=[scale * v for _, scores in line for v in scores],
            mode="markers",
            marker={"size": 7, "color": rgba("student", 0.55)},
            hovertemplate=f"one seed: %{{y:.4~g}}{unit}<extra></extra>",
        )
    )
    figure.add_trace(
        go.Scatter(
            x=list(range(len(line))),
            y=[scale * mean for mean in means],
            error_y={
                "type": "data", "symmetric": False, "thickness": 2.5, "width": 7, "color": rgba("distilled"),
                "array": [scale * (high - mean) for mean, (_, high) in zip(means, reaches, strict=True)],
                "arrayminus": [scale * (mean - low) for mean, (low, _) in zip(means, reaches, strict=True)],
            },
            mode="lines+markers",
            line={"color": rgba("distilled"), "width": 2},
            marker={"symbol": "diamond", "size": 11, "color": rgba("distilled")},
            hovertemplate=f"mean: %{{y:.4~g}}{unit}<extra></extra>",
        )
    )  # fmt: skip
    figure.update_layout(
        height=280,
        showlegend=False,
        margin={"l": 8, "r": 8, "t": 8, "b": 8},
        xaxis={
            "title": axis_title("generation"), "tickvals": list(range(len(line))), "ticktext": names,
            "range": [-0.5, len(line) - 0.5], "automargin": True,
        },
        yaxis={"automargin": True, "ticksuffix": unit},
    )  # fmt: skip
    return plain(figure)


def apart(result: Result) -> dict[str, Any] | None:
    """How far the members of the ensemble say different things: sentences, and a table of all pairs from three on.

    Returns:
        said: sentences; names; rows: (member, [(value, share of the largest)]); None where nothing was measured.
    """
    found = result.ensemble.disagreement if result.ensemble else None
    if not found or len(found.names) < 2:
        return None
    several = rules(result.data.task).predicts == "labels"
    said = _said_of_values(found) if found.all_agree is None else _said_of_classes(found, several)
    matrix = found.pairwise
    largest = max((v for row in matrix for v in row if finite(v)), default=0) or 1
    name = "rmse" if found.all_agree is None else "accuracy"
    cells = [[(words.metric(name, v), v / largest if finite(v) else 0) for v in row] for row in matrix]
    table = list(zip(found.names, cells, strict=True)) if len(matrix) == len(found.names) > 2 else []
    of = "RMSE between two members" if found.all_agree is None else "Share of the test rows with another class"
    of = "Share of the answers that differ" if several else of
    return {"said": said, "names": found.names, "rows": table, "of": of}


def _said_of_classes(found: Disagreement, several: bool) -> list[str]:
    count = len(found.names)
    everyone, every = ("Both", "both") if count == 2 else (f"All {count} members", "all of them")
    choose, of = "choose the same class on", "the test rows"
    if several:
        choose, of = "give the same answer to", "all questions for a label"
    said = [f"{everyone} {choose} {words.metric('accuracy', found.all_agree)} of {of}"]
    if count > 2 and finite(found.mean_pairwise):
        said[0] += f"; two of them differ on {words.metric('accuracy', found.mean_pairwise)} on average"
    if finite(found.oracle):
        oracle = words.metric("accuracy", found.oracle)
        said.append(
            f"At least one is right on {oracle}: no way of choosing among them can do better, and on the rest "
            f"{every} are wrong"
        )
    if finite(found.divergence):
        said.append(f"Their probabilities diverge by {words.number(found.divergence, 2)} nats (Jensen-Shannon)")
    return [f"{sentence}." for sentence in said]


def _said_of_values(found: Disagreement) -> list[str]:
    said = [f"Two members differ by {words.number(found.mean_pairwise)} (RMSE), on average over the pairs."]
    if finite(found.spread):
        said.append(f"The standard deviation over the members is {words.number(found.spread)} for a row, on average.")
    return said


def _scores(models: Sequence[Artifact], metric: str) -> list[float]:
    return [m.metrics[metric] for m in models if finite(m.metrics.get(metric))]


def _scale(metric: str) -> tuple[float, str]:
    return (100, " %") if METRICS[metric].percent else (1, "")


def _seeds(models: Sequence[Any]) -> str:
    return f", mean of {len(models)} seeds" if len(models) > 1 else ""
