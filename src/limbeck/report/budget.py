"""The search within a budget: what was asked, every trial, what was found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from limbeck.core.metrics import SHARES
from limbeck.core.words import NOTHING, finite
from limbeck.report import files, words
from limbeck.report.figures import axis_title, plain, rgba, text
from limbeck.report.pareto import MARKS, beside, log_axis, window


def budget(result: Mapping[str, Any]) -> dict[str, Any] | None:
    """What is shown of the search: asked, words and tone, rows; None where there was none."""
    found = result.get("budget")
    if not found:
        return None
    said = str(found["words"])
    return {
        "asked": asked(found),
        "title": "A model within the budget" if found.get("winner") else "Nothing within the budget",
        "tone": "good" if found.get("winner") else "bad",
        "words": f"{said[0].upper()}{said[1:]}.",
        "lost": "Points lost" if found["metric"] in SHARES else "Error, %",
        "rows": [_row(found, trial) for trial in ranked(found)],
    }


def asked(found: Mapping[str, Any]) -> str:
    """The budget and how it was searched, in sentences."""
    spec, wanted = found["budget"], []
    if finite(spec.get("size_kb")):
        wanted.append(f"{spec['size_kb']:,g} kB")
    if finite(spec.get("latency_ms")):
        wanted.append(f"{words.milliseconds(spec['latency_ms'])} for one row")
    runtime, trials = files.RUNTIMES.get(spec.get("runtime"), spec.get("runtime")), len(found["trials"])
    epochs = (spec.get("recover") or {}).get("epochs") or 0
    again = f", each recovered for {epochs} epoch{'s' if epochs != 1 else ''}" if epochs else ""
    return (
        f"Asked for: {words.listed([*wanted, _allowed(found)])} at most, as a file for {runtime}. "
        f"{trials} trial{'s were' if trials != 1 else ' was'} made from {found['start']}{again}. Everything here is on "
        "the validation split; a file keeps to the loss unless the rows show that it exceeds it."
    )


def ranked(found: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The trials: those within the budget by size, then the others by how near they come, failed ones last."""
    measured = [t for t in found["trials"] if t.get("value") is not None]
    failed = [t for t in found["trials"] if t.get("value") is None]
    return [*sorted(measured, key=lambda t: (not t["within"], t["value"])), *failed]


def way(trial: Mapping[str, Any]) -> str:
    """What a trial did, in short: `50 % pruned, energy 0.9, int8`."""
    tried = trial["way"]
    parts = [
        f"{100 * tried['ratio']:.3g} % pruned" if tried.get("ratio") else "",
        f"factorised to {100 * tried['energy']:.3g} % of the energy" if (tried.get("energy") or 1) < 1 else "",
        words.PRECISIONS.get(tried["precision"], tried["precision"]),
        "trained quantized" if trial.get("learned") else "",
    ]
    return ", ".join(part for part in parts if part)


def _lost(trial: Mapping[str, Any]) -> str:
    """What a trial lost on validation, in points or per cent of the error; a gain has a minus."""
    drop = trial.get("drop")
    return f"{100 * drop:.2f}" if finite(drop) else NOTHING


def _chance(p: Any) -> str:
    return NOTHING if not finite(p) else f"{p:.2f}" if p >= 0.005 else "< 0.01"


def _allowed(found: Mapping[str, Any]) -> str:
    allowed = 100 * (found["budget"].get("accuracy_drop") or 0)
    if found["metric"] in SHARES:
        return f"{allowed:.3g} point{'s' if allowed != 1 else ''} lost"
    return f"{allowed:.3g} % more error"


def _row(found: Mapping[str, Any], trial: Mapping[str, Any]) -> dict[str, Any]:
    size = trial.get("size_kb")
    return {
        "number": found["trials"].index(trial),
        "way": way(trial),
        "size": words.size(1000 * size) if finite(size) else NOTHING,
        "latency": words.milliseconds(trial.get("latency_ms")),
        "lost": _lost(trial),
        "chance": _chance(trial.get("p_more")),
        "within": "failed" if trial.get("value") is None else "within" if trial["within"] else "outside",
        "front": bool(trial.get("front")),
        "winner": trial == found.get("winner"),
        "reason": trial.get("reason") or "",
    }


def figure(result: Mapping[str, Any]) -> dict[str, Any] | None:
    """What every trial lost against its size, with the limits; those on the front of size, time and loss are filled.

    Returns:
        The figure as plain values, or None where nothing was measured.
    """
    import plotly.graph_objects as go

    found = result.get("budget") or {"trials": []}
    measured = [t for t in found["trials"] if finite(t.get("drop")) and finite(t.get("size_kb"))]
    if not measured:
        return None
    spec = found["budget"]
    least, limit = -100 * (spec.get("accuracy_drop") or 0), spec.get("size_kb")
    low, high = window([*(-100 * t["drop"] for t in measured), least])
    drawn = go.Figure()
    for within, colour in ((False, "teacher"), (True, "distilled")):
        own = [t for t in measured if t["within"] == within]
        if own:
            drawn.add_trace(_marks(found, own, colour, low, [t["size_kb"] for t in measured]))
    if found.get("winner"):
        drawn.add_trace(_ring(found["winner"]))
    line = {"color": rgba("bad", 0.8), "width": 1.25, "dash": "dash"}
    shapes = [{"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": least, "y1": least, "line": line}]
    if limit:
        shapes.append({"type": "line", "yref": "paper", "y0": 0, "y1": 1, "x0": limit, "x1": limit, "line": line})
    margin = 0.08 * (high - low or 1)
    points = found["metric"] in SHARES
    drawn.update_layout(
        height=340,
        showlegend=False,
        margin={"l": 8, "r": 12, "t": 8, "b": 8},
        hoverlabel={"align": "left"},
        shapes=shapes,
        xaxis={
            "title": axis_title("size of the file, kB"),
            **log_axis([*(t["size_kb"] for t in measured), *([limit] if limit else [])]),
        },
        yaxis={
            "title": axis_title(f"gain in {SHARES[found['metric']]}, points" if points else "less error, %"),
            "range": [low - margin, high + margin],
            "automargin": True,
        },
    )
    return plain(drawn)


def _marks(
    found: Mapping[str, Any], own: Sequence[Mapping[str, Any]], colour: str, low: float, sizes: Sequence[float]
) -> Any:
    import plotly.graph_objects as go

    marks = [MARKS.get(t["way"]["precision"], "x") for t in own]
    unit = "points lost" if found["metric"] in SHARES else "% more error"
    return go.Scatter(
        x=[t["size_kb"] for t in own],
        y=[max(-100 * t["drop"], low) for t in own],
        mode="markers+text",
        text=[f" ↓ {_lost(t)} lost " if -100 * t["drop"] < low else "" for t in own],
        textposition=beside([t["size_kb"] for t in own], sizes),
        textfont={"size": 11},
        customdata=[
            f"{text(way(t))}<br>{words.size(1000 * t['size_kb'])}, {words.milliseconds(t['latency_ms'])}"
            f"<br>{_lost(t)} {unit} on validation, {'within' if t['within'] else 'outside'} the budget"
            for t in own
        ],
        marker={
            "size": 10,
            "color": rgba(colour),
            "symbol": [mark if t.get("front") else f"{mark}-open" for mark, t in zip(marks, own, strict=True)],
            "line": {"width": 1.5, "color": rgba(colour)},
        },
        hovertemplate="%{customdata}<extra></extra>",
    )


def _ring(winner: Mapping[str, Any]) -> Any:
    """A ring around the winner."""
    import plotly.graph_objects as go

    return go.Scatter(
        x=[winner["size_kb"]],
        y=[-100 * winner["drop"]],
        mode="markers",
        marker={"size": 20, "symbol": "circle-open", "color": rgba("distilled"), "line": {"width": 2.5}},
        hoverinfo="skip",
    )
