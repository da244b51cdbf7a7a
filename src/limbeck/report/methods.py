"""The sets of losses of one run side by side, each against the same students alone: a table, sentences and a figure."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from limbeck.core.metrics import METRICS
from limbeck.core.result import Result
from limbeck.core.statistics import CONFIDENCE, holm, p_value
from limbeck.core.words import NOTHING, listed
from limbeck.report import words
from limbeck.report.figures import axis_title, plain, rgba, text

SEEDS_BELOW = 0.28  # of a row, so that the bar does not hide them
SHOWN_TIMES_MEDIAN = 3  # how far the axis of the figure reaches, so that one collapse does not hide the rest


@dataclass(frozen=True, slots=True)
class Method:
    """One set of losses: what is shown of it, and the gains behind it.

    Attributes:
        name: as in `compare`, or "distilled" for the recipe's `losses`.
        losses: in words.
        found: weights that were found, in words; empty where none was sought.
        score: mean over seeds.
        spread: half of its 95 % interval.
        gain: over the student alone, positive where it is better.
        reach: the gain's 95 % interval.
        verdict: "helps", "no evidence" or "hurts", by itself.
        holds: whether that verdict survives Holm's correction for all methods; False where there is no evidence.
        time: seconds of training in those of the student alone.
        mean: the gain.
        ci95: its interval; None for one seed.
        values: the gain at each seed.
    """

    name: str
    losses: str
    found: str
    score: str
    spread: str
    gain: str
    reach: str
    verdict: str
    holds: bool
    time: str
    mean: float
    ci95: tuple[float, float] | None
    values: Sequence[float]


def methods(result: Result) -> list[Method]:
    """The methods of a run, the largest gain first; empty where none were compared."""
    entries = result.methods
    adjusted = holm([p_value(entry.gain.values) for entry in entries])
    alone = _seconds_alone(result)
    found = []
    for entry, p in zip(entries, adjusted, strict=True):
        metric, gain, side = entry.metric, entry.gain, entry.distilled
        ci95, seconds = gain.ci95, math.fsum(entry.seconds)
        found.append(
            Method(
                name=entry.name,
                losses=words.formula(entry.losses),
                found=_found(entry.weights),
                score=words.metric(metric, side.mean),
                spread=words.spread(metric, side.ci95),
                gain=words.change(metric, gain.mean),
                reach=" to ".join(words.change(metric, end) for end in ci95) if ci95 else "",
                verdict=entry.verdict,
                holds=entry.verdict != "no evidence" and p < 1 - CONFIDENCE,
                time=words.times(seconds / alone) if seconds and alone else NOTHING,
                mean=gain.mean,
                ci95=ci95,
                values=gain.values,
            )
        )
    return sorted(found, key=lambda method: -method.mean)


def _seconds_alone(result: Result) -> float:
    """Seconds of training of the students alone, all seeds together; 0 where they were not recorded."""
    epochs = [result.curves.get(m.name, []) for m in result.models if m.role == "student"]
    return math.fsum(row.get("seconds") or 0 for rows in epochs for row in rows)


def _found(weights: Sequence[Mapping[str, float]]) -> str:
    """Weights found at each seed, from the least to the most: `fitnet 0.20 to 0.65`."""
    said = []
    for name in dict.fromkeys(name for seed in weights for name in seed):
        values = [seed[name] for seed in weights if name in seed]
        ends = dict.fromkeys(words.number(end, 2) for end in (min(values), max(values)))
        said.append(f"{name} {' to '.join(ends)}")
    return ", ".join(said)


def alone(result: Result) -> tuple[str, str]:
    """The score of the students alone, and half of its interval."""
    first = result.methods[0]
    side = first.student
    return words.metric(first.metric, side.mean), words.spread(first.metric, side.ci95)


def said(found: Sequence[Method]) -> list[str]:
    """What must be known to read so many comparisons at once."""
    count, seeds = len(found), len(found[0].values)
    sentences = [
        f"{count} sets of losses, each against the same students alone, seed by seed. Were these lucky, every gain "
        "here is too small."
    ]
    if seeds < 2:
        return [*sentences, "One seed cannot show which of them helps: the order here is as much chance as merit."]
    sentences.append(
        "Every interval stands for itself, and of methods without any effect one in twenty comes out as helping or "
        f"hurting by chance: {0.05 * count:.1f} of {count} are to be expected."
    )
    shown = [method for method in found if method.verdict != "no evidence"]
    held = []
    for verdict in ("helps", "hurts"):
        if names := [m.name for m in shown if m.holds and m.verdict == verdict]:
            held.append(f"{listed(names)} {verdict if len(names) == 1 else verdict[:-1]}")
    if not shown:
        sentences.append("There is no evidence that any of them helps or hurts.")
    elif not held:
        which = "The one verdict that differs" if len(shown) == 1 else f"None of the {len(shown)} verdicts that differ"
        does = "does not hold" if len(shown) == 1 else "holds"
        sentences.append(f"{which} from no evidence {does} after Holm's correction for {count} comparisons.")
    else:
        rest = [m.name for m in shown if not m.holds]
        held += [f"the verdict on {listed(rest)} does not hold"] if rest else []
        sentences.append(f"After Holm's correction for {count} comparisons: {'; '.join(held)}.")
    return sentences


def intervals(found: Sequence[Method], metric: str) -> dict[str, Any] | None:
    """Every method's gain with its interval and its seeds, beside the zero line that is the student alone.

    The axis reaches three times as far as half of the methods do; a mean beyond it is drawn at its end, as a triangle
    with its number.

    Returns:
        The figure as plain values, or None where nothing was compared.
    """
    import plotly.graph_objects as go

    if not found:
        return None
    percent = METRICS[metric].percent
    scale, unit = (100, " points") if percent else (1, "")
    left, right = (scale * end for end in _axis(found))
    edge = 0.02 * (right - left)
    figure = go.Figure(
        go.Scatter(
            x=[scale * v for m in found for v in m.values],
            y=[y + SEEDS_BELOW for y, m in enumerate(found) for _ in m.values],
            mode="markers",
            marker={"size": 5, "color": rgba("student", 0.55)},
            hoverinfo="skip",
        )
    )
    for y, method in enumerate(found):
        mean = scale * method.mean
        low, high = (scale * end for end in method.ci95 or (method.mean, method.mean))
        beyond = "" if left <= mean <= right else "left" if mean < left else "right"
        colour = rgba({"helps": "distilled", "hurts": "bad"}.get(method.verdict, "teacher"))
        symbol = "diamond" if method.holds else "circle" if method.verdict == "no evidence" else "diamond-open"
        figure.add_trace(
            go.Scatter(
                x=[min(max(mean, left + edge), right - edge)],
                y=[y],
                error_x={
                    "type": "data", "symmetric": False, "array": [high - mean], "arrayminus": [mean - low],
                    "thickness": 2, "width": 4, "color": colour, "visible": high > low and not beyond,
                },
                mode="markers+text" if beyond else "markers",
                text=[method.gain],
                textposition="middle right" if beyond == "left" else "middle left",
                marker={"size": 10, "color": colour, "symbol": f"triangle-{beyond}" if beyond else symbol},
                hovertemplate=f"{text(method.name)}: {method.gain}{unit}"
                + (f" ({method.reach})" if method.reach else "")
                + "<extra></extra>",
            )
        )  # fmt: skip
    names = [m.name if len(m.name) <= 18 else f"{m.name[:17]}…" for m in found]
    title = f"gain in {'accuracy, points' if percent else METRICS[metric].title}"
    figure.update_layout(
        height=80 + 26 * len(found),
        showlegend=False,
        margin={"l": 8, "r": 12, "t": 8, "b": 8},
        xaxis={"title": axis_title(title), "zeroline": True, "range": [left, right], "automargin": True},
        yaxis={
            "tickvals": list(range(len(found))), "ticktext": [text(name) for name in names], "automargin": True,
            "range": [len(found) - 0.3, -0.6], "fixedrange": True,
        },
    )  # fmt: skip
    return plain(figure)


def _axis(found: Sequence[Method]) -> tuple[float, float]:
    """What the axis reaches: zero and all intervals, as far as most of them go."""
    ends = [(m.mean, *(m.ci95 or ()), *m.values) for m in found]
    limit = SHOWN_TIMES_MEDIAN * statistics.median(max(map(abs, each)) for each in ends) or math.inf
    low = max(-limit, min(0.0, *(min(each) for each in ends)))
    high = min(limit, max(0.0, *(max(each) for each in ends)))
    margin = 0.06 * (high - low or 1)
    return low - margin, high + margin
