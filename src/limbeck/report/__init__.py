"""The page: result.json as one HTML file that needs no network, no server and no other file.

Everything shown comes from the result; no model is loaded and nothing is computed again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import quote

from limbeck.core.files import write_text
from limbeck.core.metrics import METRICS, Metric
from limbeck.core.result import Comparison, DataSummary, Result, Spread
from limbeck.core.statistics import interval
from limbeck.core.types import Artifact
from limbeck.core.words import duration, finite
from limbeck.report import budget, figures, files, labels, masks, methods, pareto, roles, scores, smaller, values, words
from limbeck.report.stored import stored
from limbeck.report.usage import inputs, usage
from limbeck.tasks import rules

__all__ = ["write_report"]

COSTS = {
    "params": ("Parameters", words.count, "numbers learned"),
    "macs": ("MACs", words.count, "multiply-accumulates for one sample"),
    "size_bytes": ("Size", words.size, "size of the file"),
    "latency_ms": ("Latency", words.milliseconds, "median time for one sample on one CPU thread"),
}
VERDICTS = {
    "helps": ("good", "{} helps", "a gain"),
    "no evidence": ("open", "No evidence that {} helps", "no evidence"),
    "hurts": ("bad", "{} hurts", "a loss"),
}
MISTAKES_LISTED = 8


def write_report(result: Result, path: Path) -> None:
    """Write the page of a result, atomically.

    Args:
        result: as `core.result.read_result` gives it.
        path: the HTML file. Links to model files are relative, so it belongs beside result.json.

    Raises:
        UserError: the place cannot be written, or the disk is full.
    """
    import jinja2
    from markupsafe import Markup
    from plotly.offline import get_plotlyjs

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("limbeck", "report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"date": words.date, "link": lambda file: f"./{quote(file)}"}
    content = _content(result, Path(path).parent)
    page = environment.get_template("page.html.j2").render(**content, plotly=Markup(get_plotlyjs()))
    write_text(Path(path), page)


def _content(result: Result, folder: Path) -> dict[str, Any]:
    data, models = result.data, result.models
    classes = rules(data.task).predicts == "classes" and rules(data.task).each == "row"
    metric = words.main_metric(result)
    name = result.chosen.name if result.chosen else None
    chosen = next((m for m in models if m.name == name), None)
    names = [n for n in METRICS if any(n in m.metrics for m in models)]
    others = result.comparisons
    compared = methods.methods(result)
    groups = [_group(row, names, name) for row in roles.rows(result) if row.role != "exported"]
    points, made = pareto.points(result, metric), files.made(result)
    on_front = [point.name for point in pareto.front(points, "size_bytes", metric)]
    variants = smaller.variants(result)
    return {
        "result": result,
        "metric": METRICS[metric].title,
        "headline": _headline(result),
        "tiles": _tiles(result, chosen),
        "comparisons": [_comparison(other) for other in others],
        "methods": [{**asdict(m), "tone": VERDICTS[m.verdict][0]} for m in compared],
        "said_of_methods": methods.said(compared) if compared else [],
        "alone": methods.alone(result) if compared else None,
        "notes": _notes(result),
        "story": words.story(result, smaller.told(result)),
        "columns": [_heading(METRICS[n]) for n in names] + [(c[0], c[2]) for c in COSTS.values()],
        "groups": [
            group for group in groups if not _folded(group) and not (variants and group["role"] in roles.SMALLER)
        ],
        "folded": [group for group in groups if _folded(group)],
        "smaller": [group for group in groups if variants and group["role"] in roles.SMALLER],
        "variants": variants,
        "helped": any(variant["help"] for variant in variants),
        "said_of_variants": smaller.said(result),
        "told_of_variants": smaller.lines(result),
        "files": files.groups(made, metric, name, on_front),
        "protocol": files.protocol(result),
        "said_of_speed": files.said_of_speed(made),
        "front": _front(points, metric),
        "budget": budget.budget(result),
        "ensemble": result.ensemble,
        "apart": scores.apart(result),
        "plots": _plots(result, chosen, compared, points),
        "chosen": chosen,
        "classes": _classes(chosen, data) if chosen and classes else [],
        "mistakes": _mistakes(chosen, data.classes) if chosen and classes else [],
        "labels": labels.rows(chosen, data) if chosen else [],
        "masks": masks.rows(chosen) if chosen else [],
        "pictures": masks.pictures(result, folder),
        "outputs": values.outputs(result),
        "predicted": values.told(result),
        "usage": usage(result),
        "inputs": inputs(result),
        "stored": stored(result),
        "seconds": _seconds(result.seconds),
        "machine": _machine(result.environment),
    }


def _plots(
    result: Result,
    chosen: Artifact | None,
    compared: Sequence[methods.Method],
    points: Sequence[pareto.Point],
) -> dict[str, Any]:
    """The figures of the page by their ids; those that there is nothing to show in are left out."""
    metric, others = words.main_metric(result), result.comparisons
    ends, data = figures.reach(others), result.data
    plots = {
        "gains": figures.gains(result.comparison) if result.comparison else None,
        **{f"gains-{i}": figures.gains(other, ends) for i, other in enumerate(others)},
        "intervals": methods.intervals(compared, metric),
        "generations": scores.generations(result, metric),
        "members": scores.members(result, metric),
        "metric-curves": figures.curves(result, f"val_{metric}"),
        "loss-curves": figures.curves(result, "val_loss"),
        **{place: pareto.figure(points, key, metric) for place, key in pareto.PLOTS.items()},
        "budget-plot": budget.figure(result),
        "labels-plot": labels.figure(result),
        "masks-plot": masks.figure(result),
        "confusion": figures.confusion(chosen.metrics.get("confusion") or [], data.classes) if chosen else None,
        **values.plots(result),
    }
    return {key: figure for key, figure in plots.items() if figure}


def _front(points: Sequence[pareto.Point], metric: str) -> dict[str, Any] | None:
    """What stands beside the two plots of the front; None where there are none."""
    if not points:
        return None
    best = {place: pareto.said(points, key, metric) for place, key in pareto.PLOTS.items()}
    return {"legend": pareto.legend(points), **best}


# --- the verdict ---------------------------------------------------------------------------------


def _headline(result: Result) -> dict[str, str]:
    comparison = result.comparison
    if not comparison and result.compressed:
        text = smaller.in_short(result)
        return {"tone": "none", "question": "Result", "title": "A student made smaller", "words": text}
    if not comparison:
        text = "This recipe has no teacher, so there is nothing to compare the student with."
        return {"tone": "none", "question": "Result", "title": "A student without a teacher", "words": text}
    subject = roles.lesson(result).subject
    tone, title, _ = VERDICTS[comparison.verdict]
    title = title.format(subject)
    return {
        "tone": tone,
        "question": f"Did {subject} help?",
        "title": f"{title[0].upper()}{title[1:]}",
        "words": comparison.words,
    }


def _comparison(found: Comparison) -> dict[str, str]:
    """A further comparison: its title, verdict and words."""
    tone, _, label = VERDICTS[found.verdict]
    return {"tone": tone, "label": label, "title": str(found.title), "words": found.words}


def _tiles(result: Result, chosen: Artifact | None) -> list[dict[str, str]]:
    """The few numbers that matter: label, value, remark."""
    models, comparison = result.models, result.comparison
    metric = words.main_metric(result)
    title = METRICS[metric].title
    teachers = [m for m in models if m.role == "teacher"]
    teacher = teachers[-1] if teachers else None  # several are followed by what they say together
    tiles = []
    if teacher:
        who = "ensemble" if result.ensemble else "teacher"
        tiles.append(_tile(f"{title} of the {who}", words.metric(metric, teacher.metrics.get(metric)), "on test"))
    if comparison:
        for key, label in (("student", "Student alone"), ("distilled", roles.lesson(result).tile)):
            side: Spread = getattr(comparison, key)
            count = side.n or len(side.values)
            seeds = f"mean of {count} seeds" if count > 1 else "one seed"
            reach = words.spread(metric, side.ci95)
            tiles.append(_tile(label, words.metric(metric, side.mean), f"{reach + ', ' if reach else ''}{seeds}"))
    elif chosen:
        tiles.append(_tile(f"{title} of the student", words.metric(metric, chosen.metrics.get(metric)), "on test"))
    if teacher and chosen:
        for key, better, worse in (("size_bytes", "smaller", "larger"), ("latency_ms", "faster", "slower")):
            title, say, _ = COSTS[key]
            old, new = getattr(teacher.cost, key), getattr(chosen.cost, key)
            if finite(old) and finite(new) and old and new:
                ratio = f"{words.times(max(old / new, new / old))} {better if old >= new else worse}"
                tiles.append(_tile(title, ratio, f"{say(new)}, teacher {say(old)}"))
    return tiles


def _tile(label: str, value: str, remark: str) -> dict[str, str]:
    return {"label": label, "value": value, "remark": remark}


def _notes(result: Result) -> list[str]:
    """Everything the run wants to be known, once."""
    named = [f"{t.name}: {n}" for t in result.teachers for n in t.notes]
    known = [*result.notes, *result.data.notes]
    return list(dict.fromkeys([*known, *(n for n in named if not any(n.endswith(k) for k in known))]))


# --- the tables ----------------------------------------------------------------------------------


def _group(row: roles.Row, names: Sequence[str], chosen: str | None) -> dict[str, Any]:
    """Models of one role: a summary over seeds where it has any, and a row for each."""
    seeded, rows = row.role in roles.SEEDED, []
    for m in row.models:
        cells = [(words.metric(n, m.metrics.get(n)), "") for n in names]
        cells += [(say(getattr(m.cost, key)), "") for key, (_, say, _) in COSTS.items()]
        label = f"seed {m.seed}" if m.seed is not None and seeded else m.name
        rows.append({
            "label": label, "file": m.file, "chosen": m.name == chosen, "cells": cells,
        })  # fmt: skip
    summary = None
    if seeded:
        summary = [_over_seeds(n, [m.metrics.get(n) for m in row.models]) for n in names]
        for key, (_, say, _) in COSTS.items():
            known = [v for m in row.models if finite(v := getattr(m.cost, key))]
            summary.append((say(known[0] if known else None), ""))
    return {"role": row.role, "title": row.title, "rows": rows, "summary": summary, "n": len(row.models)}


def _folded(group: Mapping[str, Any]) -> bool:
    """Whether models stand in a table of their own, to be opened: compared ones, of which there may be many."""
    return group["role"] == "compared" and not any(row["chosen"] for row in group["rows"])


def _over_seeds(name: str, values: Sequence[Any]) -> tuple[str, str]:
    known = [v for v in values if finite(v)]
    mean = math.fsum(known) / len(known) if known else None
    return words.metric(name, mean), words.spread(name, interval(known))


def _classes(chosen: Artifact, data: DataSummary) -> list[dict[str, Any]]:
    """Each class with its rows and accuracy."""
    found = chosen.metrics.get("per_class_accuracy") or {}
    rows = (data.class_counts or {}).get("test") or [sum(r) for r in chosen.metrics.get("confusion") or []]
    counts: Sequence[int | None] = rows if len(rows) == len(data.classes) else [None] * len(data.classes)
    shown = []
    for name, n in zip(data.classes, counts, strict=True):
        share = found.get(name)
        accuracy = words.metric("accuracy", share)
        shown.append({"name": name, "rows": words.count(n), "accuracy": accuracy, "share": share or 0})
    return shown if found else []


def _mistakes(chosen: Artifact, names: Sequence[str]) -> list[tuple[str, str, int, str]]:
    """The commonest mistakes: (true, predicted, rows, share of the class)."""
    matrix = chosen.metrics.get("confusion") or []
    pairs = [(v, i, j) for i, row in enumerate(matrix) for j, v in enumerate(row) if i != j and v]
    pairs.sort(key=lambda p: (-p[0], p[1], p[2]))
    return [
        (names[i], names[j], v, words.metric("accuracy", v / sum(matrix[i]))) for v, i, j in pairs[:MISTAKES_LISTED]
    ]


def _seconds(taken: Mapping[str, Any]) -> list[tuple[str, str, float]]:
    """Each stage with its time and its share of the longest."""
    longest = max((v for v in taken.values() if finite(v)), default=0) or 1
    return [(stage, duration(v), v / longest if finite(v) else 0) for stage, v in taken.items()]


def _machine(environment: Mapping[str, Any]) -> list[tuple[str, str]]:
    shown = [
        (key.capitalize(), str(value)) for key, value in environment.items() if key != "versions" and value is not None
    ]
    return [*shown, *((name, str(version)) for name, version in (environment.get("versions") or {}).items())]


def _heading(metric: Metric) -> tuple[str, str]:
    """The head of a column, and what it means."""
    return metric.title, metric.about if metric.higher else f"{metric.about}, lower is better"
