"""What a search found, as a page and in a terminal: tune.json, drawn and told."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from limbeck.core.files import write_text
from limbeck.core.loss_search import LossSearch, LossTrial
from limbeck.core.metrics import METRICS
from limbeck.core.words import NOTHING, duration, finite
from limbeck.report import words
from limbeck.report.figures import axis_title, plain, text

# A colour and a mark for each loss, so that either tells them apart.
COLOURS = ("#0d9488", "#d97706", "#3b82c8", "#9669cd", "#659128", "#c2417c", "#64748b", "#b45309")
MARKS = ("circle", "diamond", "square", "triangle-up", "cross", "star", "x", "hexagon")
BEST = 5
OPTIMISTIC = (
    "This score is optimistic: of many tries on the same validation rows, the best owes something to luck. "
    "What it is worth, a run of the winner measures on the test split, with several seeds."
)


def write_search(found: LossSearch, path: Path) -> None:
    """Write the page of a search, atomically.

    Args:
        found: as `core.loss_search.read_search` gives it.
        path: the HTML file, which belongs beside tune.json.

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
    environment.filters["date"] = words.date
    page = environment.get_template("search.html.j2").render(**_content(found), plotly=Markup(get_plotlyjs()))
    write_text(Path(path), page)


def show_search(found: LossSearch, folder: Path) -> None:
    """Print the best trials, what they are worth, and how to find out more.

    Args:
        found: as `core.loss_search.read_search` gives it.
        folder: where it lies.
    """
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(highlight=False)
    done = found.ranked
    if done:
        title = f"{found.name}: the best of {len(done)} trials, on validation"
        table = Table(title=escape(title), box=box.SIMPLE)
        for heading, side in (("trial", "right"), ("loss", "left"), ("numbers", "left"), (found.metric, "right")):
            table.add_column(heading, justify=side)  # type: ignore[arg-type]
        for trial in done[:BEST]:
            value = words.metric(found.metric, trial.value)
            table.add_row(str(trial.number), escape(trial.loss or NOTHING), _numbers(trial.params), value)
        console.print(table)
    for trial in found.failed[:BEST]:
        console.print(f"[yellow]note:[/yellow] trial {trial.number} failed: {escape(trial.reason or '')}")
    if done:
        console.print(escape(OPTIMISTIC))
        seeds = "" if len(found.recipe["seeds"]) > 2 else " seeds=5"
        print(f"Measure it: limbeck run {folder / 'best.yaml'}{seeds}")
    print(f"Report: {folder / 'report.html'}")


def _numbers(params: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in params.items())


# --- the page ------------------------------------------------------------------------------------


def _content(found: LossSearch) -> dict[str, Any]:
    done, metric = found.ranked, found.metric
    plots = {"progress": _progress(found)} | {
        f"by-{option}": _against(found, option) for option in _options(found) if done
    }
    return {
        "found": found,
        "metric": METRICS[metric].title,
        "headline": _headline(found, done),
        "tiles": _tiles(found, done),
        "rows": [_row(found, trial, place) for place, trial in enumerate([*done, *_without(found)])],
        "space": [(c.loss, [_range(o, *reach) for o, reach in c.ranges.items()]) for c in found.space],
        "options": {f"by-{option}": option for option in _options(found)},
        "plots": {name: figure for name, figure in plots.items() if figure},
        "machine": [(k.capitalize(), str(v)) for k, v in found.environment.items() if k != "versions" and v],
    }  # fmt: skip


def _without(found: LossSearch) -> list[LossTrial]:
    return [trial for trial in found.trials if trial.state != "done"]


def _headline(found: LossSearch, done: Sequence[LossTrial]) -> dict[str, str]:
    if not done:
        return {"title": "No trial has a score yet", "words": "Give the same command again to go on."}
    best = done[0]
    value = words.metric(found.metric, best.value)
    return {
        "title": f"{best.loss}: {value} on validation",
        "words": f"With {_numbers(best.params)}. {OPTIMISTIC}",
    }


def _tiles(found: LossSearch, done: Sequence[LossTrial]) -> list[tuple[str, str, str]]:
    """The few numbers that matter: label, value, remark."""
    metric, seeds = found.metric, found.seeds
    title = METRICS[metric].title
    many = f"mean of {len(seeds)} seeds" if len(seeds) > 1 else f"seed {seeds[0]}"
    tiles = [("Trials", str(len(found.trials)), f"{len(found.failed)} failed" if found.failed else "none failed")]
    if done:
        tiles.append((f"{title} of the best", words.metric(metric, done[0].value), f"on validation, {many}"))
    first = found.trials[0] if found.trials else None
    if first and first.state == "done":
        remark = f"{first.loss}, {_numbers(first.params)}"
        tiles.append((f"{title} of trial 0", words.metric(metric, first.value), remark))
    taken = [trial.seconds for trial in found.trials if finite(trial.seconds)]
    if taken:
        tiles.append(("Time", duration(math.fsum(taken)), f"{duration(max(taken))} the longest trial"))
    openings = [opening for trial in found.trials for opening in trial.cache]
    if openings:
        asked = words.count(sum(opening.asked for opening in openings))
        reused = words.count(sum(opening.found for opening in openings))
        tiles.append(("Outputs of teachers", f"{asked} asked", f"{reused} times one was stored already"))
    return tiles


def _row(found: LossSearch, trial: LossTrial, place: int) -> dict[str, Any]:
    metric = found.metric
    values = trial.values if len(trial.values) > 1 else []
    return {
        "number": trial.number,
        "loss": trial.loss or NOTHING,
        "numbers": _numbers(trial.params),
        "value": words.metric(metric, trial.value) if trial.state == "done" else trial.state,
        "each": ", ".join(words.metric(metric, value) for value in values),
        "val_loss": words.number(trial.val_loss),
        "time": duration(trial.seconds),
        "reason": trial.reason or "",
        "best": place == 0 and trial.state == "done",
    }


def _range(option: str, low: float, high: float) -> str:
    return f"{option} {low:g} to {high:g}"


def _options(found: LossSearch) -> list[str]:
    """Everything that is searched, the weight first."""
    return list(dict.fromkeys(option for candidate in found.space for option in candidate.ranges))


# --- the plots -----------------------------------------------------------------------------------


def _scale(found: LossSearch) -> tuple[float, str]:
    return (100.0, " %") if METRICS[found.metric].percent else (1.0, "")


def _progress(found: LossSearch) -> dict[str, Any] | None:
    """The score of every trial, and the best so far."""
    import plotly.graph_objects as go

    scale, unit = _scale(found)
    done = found.done
    if not done:
        return None
    best: list[float] = []
    for trial in done:
        value = scale * trial.score
        better = max if found.higher_is_better else min
        best.append(better(best[-1], value) if best else value)
    figure = go.Figure()
    figure.add_trace(
        go.Scatter(
            x=[trial.number for trial in done],
            y=best,
            name="best so far",
            mode="lines",
            line={"shape": "hv", "width": 2, "color": COLOURS[0], "dash": "dot"},
            hovertemplate=f"best so far %{{y:.4~g}}{unit}<extra></extra>",
        )
    )
    for trace in _traces(found, lambda trial, _: trial.number):
        figure.add_trace(trace)
    _lay_out(figure, found, "trial", height=340)
    figure.update_xaxes(tickformat="d", **({"dtick": 1} if len(done) <= 10 else {}))
    return plain(figure)


def _against(found: LossSearch, option: str) -> dict[str, Any] | None:
    """The score of every trial against one number; weights as multiples of where their loss began."""
    share = option == "weight"

    def place(trial: LossTrial, start: Mapping[str, float]) -> float | None:
        value = trial.params.get(option)
        return None if value is None else value / start[option] if share else value

    import plotly.graph_objects as go

    figure = go.Figure(list(_traces(found, place)))
    if not figure.data:
        return None
    title = f"weight, {words.TIMES} where each loss began" if share else option
    _lay_out(figure, found, title, height=300)
    searched = [(c.ranges[option], c.start[option]) for c in found.space if option in c.ranges]
    ends = [end / (start if share else 1) for reach, start in searched for end in reach]
    span = [math.log10(min(ends)) - 0.05, math.log10(max(ends)) + 0.05]  # all that was searched, and room for a mark
    figure.update_xaxes(type="log", dtick="D2", tickformat="~g", range=span)
    return plain(figure)


def _traces(found: LossSearch, place: Any) -> list[Any]:
    """One set of points for each loss: where `place` says, as high as the score."""
    import plotly.graph_objects as go

    (scale, unit), traces = _scale(found), []
    for number, candidate in enumerate(found.space):
        loss = candidate.loss
        own = [t for t in found.done if t.loss == loss]
        points = [(place(trial, candidate.start), trial) for trial in own]
        points = [(x, trial) for x, trial in points if x is not None]
        if not points:
            continue
        traces.append(
            go.Scatter(
                x=[x for x, _ in points],
                y=[scale * trial.score for _, trial in points],
                customdata=[text(f"trial {t.number}: {loss}, {_numbers(t.params)}") for _, t in points],
                name=text(loss),
                mode="markers",
                marker={"size": 9, "color": COLOURS[number % 8], "symbol": MARKS[number % 8]},
                hovertemplate=f"%{{customdata}}<br>%{{y:.4~g}}{unit}<extra></extra>",
            )
        )
    return traces


def _lay_out(figure: Any, found: LossSearch, title: str, *, height: int) -> None:
    figure.update_layout(
        height=height,
        margin={"l": 8, "r": 8, "t": 8, "b": 8},
        showlegend=True,
        legend={"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"},
        xaxis={"title": axis_title(text(title)), "automargin": True},
        yaxis={"automargin": True, "ticksuffix": _scale(found)[1]},
    )
