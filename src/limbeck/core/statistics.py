"""Did the teacher help? Scores of the same seeds without and with it; and what is left of it among many comparisons."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from limbeck.core.errors import UserError
from limbeck.core.metrics import SHARES

CONFIDENCE = 0.95


def interval(values: Sequence[float]) -> tuple[float, float] | None:
    """The 95 % Student-t interval of the mean of `values`; None for fewer than two, which show no spread."""
    from scipy.special import stdtrit  # scipy.stats has it whole, and takes a second to import

    n = len(values)
    if n < 2:
        return None
    mean = math.fsum(values) / n
    error = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (n - 1) / n)
    reach = float(stdtrit(n - 1, (1 + CONFIDENCE) / 2)) * error
    return mean - reach, mean + reach


def p_value(gains: Sequence[float]) -> float:
    """How often the mean of so many gains would be as far from 0 by chance: a two-sided t-test; 1 for fewer than two.

    Below 0.05 where `interval` leaves 0 out. Gains that are all the same leave no chance: 0, or 1 where they are 0.
    """
    from scipy.special import stdtr

    n = len(gains)
    if n < 2:
        return 1.0
    mean = math.fsum(gains) / n
    error = math.sqrt(math.fsum((v - mean) ** 2 for v in gains) / (n - 1) / n)
    if not error:
        return 0.0 if mean else 1.0
    return 2 * float(stdtr(n - 1, -abs(mean) / error))


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values of several comparisons made fit to be read together, in their order (Holm 1979).

    Where all that stay below 0.05 are taken for effects, the chance that any of them is none is 5 % at most, however
    the comparisons depend on each other. The smallest of m is multiplied by m, the next by m - 1 and so on; none
    becomes smaller than one before it, or larger than 1.
    """
    adjusted, least = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        least = max(least, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = least
    return adjusted


def compare(
    student: Sequence[float],
    distilled: Sequence[float],
    *,
    metric: str,
    higher_is_better: bool,
    subject: str = "the teacher",
) -> dict[str, Any]:
    """Whether a teacher helped, from the scores of the same seeds without and with it.

    The verdict is that of a paired t-test at 5 %: seeds share their initial weights and data order, so what one seed
    got lucky with counts on both sides and cancels in the difference.

    Args:
        student: a score for each seed, trained alone.
        distilled: a score for each seed, trained with the teacher, in the same order.
        metric: name of the score.
        higher_is_better: False for errors.
        subject: what the words say of, where it is not a teacher that makes the difference.

    Returns:
        metric, higher_is_better; student and distilled: mean, ci95, n, values; gain: mean, ci95, values, positive
        where the teacher helped; verdict: "helps", "no evidence" or "hurts"; words: the same in a sentence.

    Raises:
        UserError: no scores, other numbers of them, or scores that are not finite.
    """
    if not student or len(student) != len(distilled):
        raise UserError(f"scores come in pairs, one a seed: {len(student)} alone and {len(distilled)} with the teacher")
    if not all(math.isfinite(v) for v in (*student, *distilled)):
        raise UserError(f"cannot compare a {metric} that is not a finite number")
    sign = 1.0 if higher_is_better else -1.0
    gains = [sign * (d - s) for s, d in zip(student, distilled, strict=True)]
    reach = interval(gains)
    # Equal gains give an interval without width, so leave out what is only rounding.
    rounding = 1e-9 * max(abs(v) for v in (*student, *distilled))
    verdict = "no evidence"
    if reach and reach[0] > rounding:
        verdict = "helps"
    elif reach and reach[1] < -rounding:
        verdict = "hurts"
    found = {
        "metric": metric,
        "higher_is_better": higher_is_better,
        "student": _summary(student),
        "distilled": _summary(distilled),
        "gain": {k: v for k, v in _summary(gains).items() if k != "n"},
        "verdict": verdict,
    }
    return {**found, "words": _words(found, subject)}


def _summary(values: Sequence[float]) -> dict[str, Any]:
    reach = interval(values)
    return {
        "mean": math.fsum(values) / len(values),
        "ci95": list(reach) if reach else None,
        "n": len(values),
        "values": list(values),
    }


def _words(found: Mapping[str, Any], subject: str) -> str:
    """The verdict as one sentence with its numbers."""
    metric, gain = str(found["metric"]), found["gain"]
    share = metric in SHARES
    rounding = 1e-9 * max(abs(found["student"]["mean"]), abs(found["distilled"]["mean"]))

    def level(side: str) -> str:
        mean = found[side]["mean"]
        return f"{100 * mean:.2f} %" if share else f"{mean:.4g}"

    def change(value: float) -> str:
        value = 0.0 if abs(value) < rounding else value
        return f"{100 * value:+.2f}" if share else f"{value:+.3g}"

    opening = {
        "helps": f"{subject[0].upper()}{subject[1:]} helps",
        "no evidence": f"There is no evidence that {subject} helps",
        "hurts": f"{subject[0].upper()}{subject[1:]} hurts",
    }[found["verdict"]]
    name = SHARES.get(metric, metric) if found["higher_is_better"] else f"{metric.upper()} (lower is better)"
    levels = f"{name} is {level('distilled')} with it and {level('student')} without"
    gained = f"a gain of {change(gain['mean'])}{' points' if share else ''}"
    if gain["ci95"] is None:
        return f"{opening}, since one seed cannot show it: {levels}, {gained} at that seed."
    low, high = gain["ci95"]
    return (
        f"{opening}: {levels}, {gained} (95 % interval {change(low)} to {change(high)}, {len(gain['values'])} seeds)."
    )
