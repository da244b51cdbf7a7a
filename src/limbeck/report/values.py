"""Measured values on the page: what was predicted for each test row, and the errors of each of several outputs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from limbeck.core.result import DrawnModel, Result
from limbeck.core.types import Artifact
from limbeck.core.words import finite
from limbeck.report import roles, words
from limbeck.report.figures import axis_title, plain, rgba, text

SYMBOLS = {"teacher": "square", "student": "diamond"}
RATIOS = [0.01, 0.1, 0.2, 0.5, 0.8, 1, 1.25, 2, 5, 10, 100]
LINE = "rgba(128, 128, 128, 0.9)"  # stands out from white and from near-black


def plots(result: Result) -> dict[str, Any]:
    """For each output a figure of predicted over true values and one of residuals over predicted ones, by their ids."""
    found = result.predictions
    if not found:
        return {}
    logs = bool(result.data.log_target)
    drawn = {}
    for number, true in enumerate(found.true):
        named = [(model, model.values[number]) for model in found.models]
        drawn[f"predicted-{number}"] = _predicted(result, true, named, logs)
        drawn[f"residuals-{number}"] = _residuals(result, true, named, logs)
    return drawn


def told(result: Result) -> dict[str, Any] | None:
    """What stands around the plots: outputs, their ids, and how many of the rows are drawn; None without plots."""
    found = result.predictions
    if not found:
        return None
    logs = bool(result.data.log_target)
    rows, of = found.rows, found.of
    which = f"all {of:,} test rows" if rows == of else f"{rows:,} of the {of:,} test rows, drawn at random"
    names, total = found.outputs, len(result.data.classes)
    said = f"Each point is one row: {which}. On the dashed lines predictions are right."
    if total > len(names):
        said += f" The first {len(names)} of {total} outputs are drawn."
    if logs:
        said += " The logarithm was learned, so axes are logarithmic and errors are ratios."
    return {
        "said": said,
        "outputs": [(name, f"predicted-{i}", f"residuals-{i}") for i, name in enumerate(names)],
        "residual": "Predicted over true" if logs else "Residuals",
        "explained": "predicted divided by true value" if logs else "predicted less true value",
    }


def outputs(result: Result) -> dict[str, Any] | None:
    """The errors of every model in each of several outputs, means over seeds; None for a single output.

    Returns:
        models: headings; rows: (output, [(RMSE, MAE and R²)]).
    """
    shown = [row for row in roles.rows(result) if row.role in ("teacher", "student", "distilled")]
    shown = [row for row in shown if all(m.metrics.get("per_output") for m in row.models)]
    if not shown:
        return None
    table = []
    for name in result.data.classes:
        cells = []
        for row in shown:
            errors = {k: _mean(row.models, name, k) for k in ("rmse", "mae", "r2")}
            cells.append((
                words.number(errors["rmse"]), f"MAE {words.number(errors['mae'])}, R² {words.number(errors['r2'], 3)}",
            ))  # fmt: skip
        table.append((name, cells))
    return {"models": [row.short for row in shown], "rows": table}


def _mean(models: Sequence[Artifact], output: str, error: str) -> float | None:
    known = [m.metrics["per_output"][output][error] for m in models]
    known = [value for value in known if finite(value)]
    return sum(known) / len(known) if known else None


def _predicted(
    result: Result, true: Sequence[float], named: Sequence[tuple[DrawnModel, Sequence[float]]], logs: bool
) -> dict[str, Any]:
    import plotly.graph_objects as go

    figure = go.Figure([_points(result, model, true, values, "true %{x:.4~g}: %{y:.4~g}") for model, values in named])
    ends = [f([*true, *(v for _, values in named for v in values)]) for f in (min, max)]
    line = {"color": LINE, "width": 1.5, "dash": "dash"}
    figure.add_trace(go.Scatter(x=ends, y=ends, mode="lines", line=line, showlegend=False, hoverinfo="skip"))
    return _laid_out(figure, ("true", _ticks(true) if logs else {}), ("predicted", _ticks(ends) if logs else {}))


def _residuals(
    result: Result, true: Sequence[float], named: Sequence[tuple[DrawnModel, Sequence[float]]], logs: bool
) -> dict[str, Any]:
    import plotly.graph_objects as go

    figure = go.Figure()
    for model, values in named:
        errors = [_rounded(p / t if logs else p - t) for p, t in zip(values, true, strict=True)]
        said = "predicted %{x:.4~g}: %{y:.3~g} of the true value" if logs else "predicted %{x:.4~g}: off by %{y:+.4~g}"
        figure.add_trace(_points(result, model, values, errors, said))
    figure.add_hline(y=1 if logs else 0, line={"color": LINE, "width": 1.5, "dash": "dash"})
    if not logs:
        return _laid_out(figure, ("predicted", {}), ("predicted - true", {}))
    ratios = {"type": "log", "tickvals": RATIOS, "tickformat": "~g"}
    given = [value for _, values in named for value in values]
    return _laid_out(figure, ("predicted", _ticks(given)), ("predicted / true", ratios))


def _points(result: Result, model: DrawnModel, x: Sequence[float], y: Sequence[float], said: str) -> Any:
    import plotly.graph_objects as go

    role, label = model.role, roles.named(model.name, model.role, result)[1]
    alpha = 0.75 if len(x) <= 150 else 0.5 if len(x) <= 600 else 0.35
    return go.Scatter(
        x=list(x),
        y=list(y),
        mode="markers",
        name=text(label),
        marker={"size": 7 if len(x) <= 150 else 5, "color": rgba(role, alpha), "symbol": SYMBOLS.get(role, "circle")},
        hovertemplate=f"{said}<extra>{text(label)}</extra>",
    )


def _ticks(values: Sequence[float]) -> dict[str, Any]:
    """A logarithmic axis with ticks at 1, 2 and 5 of every power of ten, or at the powers where that is many."""
    low, high = (math.floor(math.log10(f(values))) for f in (min, max))
    digits = (1, 2, 5) if high - low < 4 else (1,)
    places = [digit * 10.0**power for power in range(low, high + 1) for digit in digits]
    return {"type": "log", "tickvals": places, "tickformat": "~s" if min(values) >= 1 else "~g"}


def _laid_out(figure: Any, x: tuple[str, Mapping[str, Any]], y: tuple[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The figure with its axes: title and what is particular to each."""
    figure.update_layout(
        height=360,
        margin={"l": 8, "r": 8, "t": 8, "b": 8},
        legend={"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "itemsizing": "constant"},
        xaxis={"title": axis_title(x[0]), "automargin": True, **x[1]},
        yaxis={"title": axis_title(y[0]), "automargin": True, **y[1]},
        hovermode="closest",
    )
    return plain(figure)


def _rounded(value: float) -> float:
    return float(f"{value:.5g}")
