"""The search within a budget: what was asked, every trial, what was found."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from limbeck.core.metrics import SHARES
from limbeck.core.result import BudgetSearch, BudgetTrial, Result
from limbeck.core.words import NOTHING, finite, listed
from limbeck.report import files, words
from limbeck.report.figures import axis_title, plain, rgba, text
from limbeck.report.pareto import MARKS, beside, log_axis, window


class _Point(NamedTuple):
    """A trial whose file was measured, and where it stands in the figure."""

    trial: BudgetTrial
    size_kb: float
    gain: float


def budget(result: Result) -> dict[str, Any] | None:
    """What is shown of the search: asked, words and tone, rows; None where there was none."""
    found = result.budget
    if not found:
        return None
    said = found.words
    return {
        "asked": asked(found),
        "title": "A model within the budget" if found.winner else "Nothing within the budget",
        "tone": "good" if found.winner else "bad",
        "words": f"{said[0].upper()}{said[1:]}.",
        "lost": "Points lost" if found.metric in SHARES else "Error, %",
        "rows": [_row(found, trial) for trial in ranked(found)],
    }


def asked(found: BudgetSearch) -> str:
    """The budget and how it was searched, in sentences."""
    spec, wanted = found.budget, []
    if finite(spec.get("size_kb")):
        wanted.append(f"{spec['size_kb']:,g} kB")
    if finite(spec.get("latency_ms")):
        wanted.append(f"{words.milliseconds(spec['latency_ms'])} for one row")
    runtime, trials = files.RUNTIMES.get(str(spec.get("runtime")), str(spec.get("runtime"))), len(found.trials)
    epochs = (spec.get("recover") or {}).get("epochs") or 0
    again = f", each recovered for {epochs} epoch{'s' if epochs != 1 else ''}" if epochs else ""
    return (
        f"Asked for: {listed([*wanted, _allowed(found)])} at most, as a file for {runtime}. "
        f"{trials} trial{'s were' if trials != 1 else ' was'} made from {found.start}{again}. Everything here is on "
        "the validation split; a file keeps to the loss unless the rows show that it exceeds it."
    )


def ranked(found: BudgetSearch) -> list[BudgetTrial]:
    """The trials: those within the budget by size, then the others by how near they come, failed ones last."""
    measured = [t for t in found.trials if t.value is not None]
    failed = [t for t in found.trials if t.value is None]
    return [*sorted(measured, key=lambda t: (not t.within, t.value)), *failed]


def way(trial: BudgetTrial) -> str:
    """What a trial did, in short: `50 % pruned, energy 0.9, int8`."""
    tried = trial.way
    parts = [
        f"{100 * tried.ratio:.3g} % pruned" if tried.ratio else "",
        f"factorised to {100 * tried.energy:.3g} % of the energy" if tried.energy and tried.energy < 1 else "",
        words.PRECISIONS.get(tried.precision, tried.precision),
        "trained quantized" if trial.learned else "",
    ]
    return ", ".join(part for part in parts if part)


def _lost(trial: BudgetTrial) -> str:
    """What a trial lost on validation, in points or per cent of the error; a gain has a minus."""
    drop = trial.drop
    return f"{100 * drop:.2f}" if finite(drop) else NOTHING


def _chance(p: Any) -> str:
    return NOTHING if not finite(p) else f"{p:.2f}" if p >= 0.005 else "< 0.01"


def _allowed(found: BudgetSearch) -> str:
    allowed = 100 * (found.budget.get("accuracy_drop") or 0)
    if found.metric in SHARES:
        return f"{allowed:.3g} point{'s' if allowed != 1 else ''} lost"
    return f"{allowed:.3g} % more error"


def _row(found: BudgetSearch, trial: BudgetTrial) -> dict[str, Any]:
    size = trial.size_kb
    return {
        "number": found.trials.index(trial),
        "way": way(trial),
        "size": words.size(1000 * size) if finite(size) else NOTHING,
        "latency": words.milliseconds(trial.latency_ms),
        "lost": _lost(trial),
        "chance": _chance(trial.p_more),
        "within": "failed" if trial.value is None else "within" if trial.within else "outside",
        "front": bool(trial.front),
        "winner": trial == found.winner,
        "reason": trial.reason or "",
    }


def figure(result: Result) -> dict[str, Any] | None:
    """What every trial lost against its size, with the limits; those on the front of size, time and loss are filled.

    Returns:
        The figure as plain values, or None where nothing was measured.
    """
    import plotly.graph_objects as go

    found = result.budget
    if not found:
        return None
    measured = [_Point(t, t.size_kb, -100 * t.drop) for t in found.trials if finite(t.drop) and finite(t.size_kb)]
    if not measured:
        return None
    spec = found.budget
    least, limit = -100 * (spec.get("accuracy_drop") or 0), spec.get("size_kb")
    low, high = window([*(point.gain for point in measured), least])
    drawn = go.Figure()
    for within, colour in ((False, "teacher"), (True, "distilled")):
        own = [point for point in measured if point.trial.within == within]
        if own:
            drawn.add_trace(_marks(found, own, colour, low, [point.size_kb for point in measured]))
    for point in measured:
        if point.trial == found.winner:
            drawn.add_trace(_ring(point))
    line = {"color": rgba("bad", 0.8), "width": 1.25, "dash": "dash"}
    shapes = [{"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": least, "y1": least, "line": line}]
    if limit:
        shapes.append({"type": "line", "yref": "paper", "y0": 0, "y1": 1, "x0": limit, "x1": limit, "line": line})
    margin = 0.08 * (high - low or 1)
    points = found.metric in SHARES
    drawn.update_layout(
        height=340,
        showlegend=False,
        margin={"l": 8, "r": 12, "t": 8, "b": 8},
        hoverlabel={"align": "left"},
        shapes=shapes,
        xaxis={
            "title": axis_title("size of the file, kB"),
            **log_axis([*(point.size_kb for point in measured), *([limit] if limit else [])]),
        },
        yaxis={
            "title": axis_title(f"gain in {SHARES[found.metric]}, points" if points else "less error, %"),
            "range": [low - margin, high + margin],
            "automargin": True,
        },
    )
    return plain(drawn)


def _marks(found: BudgetSearch, own: Sequence[_Point], colour: str, low: float, sizes: Sequence[float]) -> Any:
    import plotly.graph_objects as go

    marks = [MARKS.get(point.trial.way.precision, "x") for point in own]
    unit = "points lost" if found.metric in SHARES else "% more error"
    return go.Scatter(
        x=[point.size_kb for point in own],
        y=[max(point.gain, low) for point in own],
        mode="markers+text",
        text=[f" ↓ {_lost(point.trial)} lost " if point.gain < low else "" for point in own],
        textposition=beside([point.size_kb for point in own], sizes),
        textfont={"size": 11},
        customdata=[
            f"{text(way(point.trial))}<br>{words.size(1000 * point.size_kb)}, "
            f"{words.milliseconds(point.trial.latency_ms)}<br>{_lost(point.trial)} {unit} on validation, "
            f"{'within' if point.trial.within else 'outside'} the budget"
            for point in own
        ],
        marker={
            "size": 10,
            "color": rgba(colour),
            "symbol": [mark if p.trial.front else f"{mark}-open" for mark, p in zip(marks, own, strict=True)],
            "line": {"width": 1.5, "color": rgba(colour)},
        },
        hovertemplate="%{customdata}<extra></extra>",
    )


def _ring(winner: _Point) -> Any:
    """A ring around the winner."""
    import plotly.graph_objects as go

    return go.Scatter(
        x=[winner.size_kb],
        y=[winner.gain],
        mode="markers",
        marker={"size": 20, "symbol": "circle-open", "color": rgba("distilled"), "line": {"width": 2.5}},
        hoverinfo="skip",
    )
