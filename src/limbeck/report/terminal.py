"""The result of a run in a terminal of 80 columns: the models, the verdicts, the methods, what was stored."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from limbeck.core.metrics import METRICS
from limbeck.core.result import Result
from limbeck.core.types import Artifact
from limbeck.core.words import NOTHING, finite
from limbeck.report import roles, words
from limbeck.report.files import Made, change_in_words, made, said_of_speed
from limbeck.report.methods import alone, methods, said
from limbeck.report.pareto import PLOTS, front, points
from limbeck.report.smaller import variants
from limbeck.report.stored import stored
from limbeck.report.values import outputs
from limbeck.tasks import rules

if TYPE_CHECKING:
    from rich.console import Console

MOST_FILES = 14  # that are all listed


def show(result: Result, folder: Path) -> None:
    """Print the table of models, what was compared, what was chosen and the notes. Students are means over seeds.

    Args:
        result: as `core.result.read_result` gives it.
        folder: the run directory, where the page is.
    """
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(highlight=False)
    main, second = words.main_metric(result), rules(result.data.task).beside
    measured = any(finite(m.metrics.get(second)) for m in result.models)
    metrics = (main, second) if measured else (main,)
    count, name = result.data.counts["test"], result.data.name
    table = Table(title=escape(f"{result.name}: test split of {name}, {count:,} rows"), box=box.SIMPLE)
    table.add_column("model", no_wrap=True, max_width=24)  # so that numbers are never cut short
    for heading in (*(metric.removesuffix("_accuracy") for metric in metrics), "params", "size", "ms"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in roles.rows(result):
        if row.role in ("compared", "compressed-alone", "exported"):
            continue  # their tables follow
        cost = row.models[0].cost
        params, size, latency_ms = cost.params, cost.size_bytes, cost.latency_ms
        table.add_row(
            escape(_label(row)),
            *(_mean(row.models, metric) for metric in metrics),
            words.count(params),
            words.size(size),
            _ms(latency_ms),
        )
    console.print(table)
    if several := outputs(result):
        _show_outputs(several, console)
    if result.comparison:
        console.print(f"[bold]Verdict:[/bold] {escape(result.comparison.words)}")
    for other in result.comparisons:
        console.print(f"[bold]{escape(str(other.title))}:[/bold] {escape(other.words)}")
    if result.methods:
        _show_methods(result, console)
    if result.chosen:
        console.print(f"Chosen: {escape(result.chosen.name)}, {escape(result.chosen.why)}")
    if result.compressed:
        _show_smaller(result, console)
    if result.budget:
        console.print(f"[bold]Budget:[/bold] {escape(result.budget.words)}")
    if found := made(result):
        _show_files(result, found, main, console)
    if kept := stored(result):
        console.print(f"Stored: {escape(' '.join(kept['said']))}")
    for note in result.notes:
        console.print(f"[yellow]note:[/yellow] {escape(note)}")
    print(f"Report: {folder / 'report.html'}")


def _show_outputs(several: Mapping[str, Any], console: Console) -> None:
    """The errors of each of several outputs, in its own unit."""
    from rich.markup import escape
    from rich.table import Table

    table = Table(title="RMSE of each output in its own unit", box=None, padding=(0, 2, 0, 0))
    table.add_column("output", no_wrap=True, max_width=20)
    for heading in several["models"]:
        table.add_column(escape(heading), justify="right")
    for name, cells in several["rows"]:
        table.add_row(escape(name), *(rmse for rmse, _ in cells))
    console.print(table, "")


def show_findings(found: Sequence[Mapping[str, Any]]) -> None:
    """Print what a look at a recipe has found, by what it is about; each with level, about, text and hint."""
    from rich.console import Console
    from rich.markup import escape

    console, colours = Console(highlight=False), {"ok": "green", "note": "yellow", "warning": "bold red"}
    for about in dict.fromkeys(one["about"] for one in found):
        console.print(f"[bold]{escape(about)}[/bold]")
        for one in (one for one in found if one["about"] == about):
            colour = colours[one["level"]]
            console.print(f"  [{colour}]{one['level']:8}[/{colour}]{escape(one['text'])}", soft_wrap=True)
            if one["hint"]:
                console.print(f"  {'':8}[bold]{escape(one['hint'])}[/bold]", soft_wrap=True)
    count = sum(one["level"] == "warning" for one in found)
    console.print("nothing is wrong" if not count else f"{count} warning{'s' if count > 1 else ''}")


def _show_methods(result: Result, console: Console) -> None:
    """The sets of losses that were compared, the largest gain first, and what each of them is."""
    from rich.markup import escape
    from rich.table import Table

    found, (score, spread) = methods(result), alone(result)
    title = METRICS[result.methods[0].metric].title.removesuffix(" %")
    table = Table(title="sets of losses, each against the student alone", box=None, padding=(0, 2, 0, 0))
    table.add_column("losses", no_wrap=True, max_width=19)
    for heading in (title, "gain", "95 % interval", "verdict", "time"):
        table.add_column(heading, justify="right", no_wrap=True)
    for method in found:
        level = f"{method.score.removesuffix(' %')} {method.spread}".strip()
        verdict = f"{method.verdict}{'*' if method.holds else ''}"
        table.add_row(escape(method.name), level, method.gain, method.reach, verdict, method.time)
    table.add_row("student alone", f"{score.removesuffix(' %')} {spread}".strip(), "0", style="dim")
    console.print(table, "")
    held = " A star marks these." if any(method.holds for method in found) else ""
    console.print(escape(" ".join(said(found)) + held))
    for method in found:
        weights = f"; found: {method.found}" if method.found else ""
        console.print(f"  {escape(method.name)}: {escape(method.losses + weights)}", style="dim")


def _show_smaller(result: Result, console: Console) -> None:
    """What each compressed variant lost, and what the teacher's help in recovery was worth."""
    from rich.markup import escape
    from rich.table import Table

    rows = variants(result)[1:]
    helped = any(row["help"] for row in rows)
    title = METRICS[result.compressed[0].against_start.metric].title
    table = Table(title="smaller students, each against what it was made from", box=None, padding=(0, 2, 0, 0))
    table.add_column("variant", no_wrap=True, max_width=14)
    for heading in (title, "change", "95 % interval", *(("teacher's help",) if helped else ()), "params"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        level = row["score"].removesuffix(" %")
        brought = [f"{row['help']['change']} {row['help']['verdict']}" if row["help"] else NOTHING] * helped
        lost, params = row["lost"], row["costs"][0][1]
        table.add_row(escape(row["name"]), level, lost["change"], lost["reach"], *brought, params)
    console.print(table, "")
    for row in rows:
        console.print(f"  {escape(row['name'])}: {escape(row['steps'])}", style="dim")


def _show_files(result: Result, found: Sequence[Made], metric: str, console: Console) -> None:
    """The files of every network; of many only those that no other file or network beats."""
    from rich.markup import escape
    from rich.table import Table

    count = sum(len(one.files) for one in found)
    best = {p.name for key in PLOTS.values() for p in front(points(result, metric), key, metric)}
    few = count <= MOST_FILES
    shown = [(one, [f for f in one.files if few or f.row.name in best]) for one in found]
    title = f"{count} file{'s' if count != 1 else ''}" + ("" if few else "; these no other beats in size or time")
    table = Table(title=title, box=None, padding=(0, 2, 0, 0))
    table.add_column("file", no_wrap=True, max_width=32)
    for heading in (metric, "change", "size", "ms", "ms, 64 rows"):
        table.add_column(heading, justify="right", no_wrap=True)
    for one, files in shown:
        if files:
            table.add_row(escape(one.name), style="bold")
        for file in files:
            cost = file.row.cost
            table.add_row(
                f"  {file.title}",
                words.metric(metric, file.row.metrics.get(metric)),
                change_in_words(file, metric),
                words.size(cost.size_bytes),
                _ms(cost.latency_ms),
                _ms(cost.batch_ms),
            )
    console.print("", table, "")
    for sentence in said_of_speed(found):
        console.print(f"[yellow]note:[/yellow] {escape(sentence)}")


def _ms(value: Any) -> str:
    return f"{value:.{3 if value >= 0.1 else 2}g}" if finite(value) else NOTHING


def _label(row: roles.Row) -> str:
    """What a row is called, and of how many seeds it is the mean."""
    return row.short if len(row.models) == 1 else f"{row.short}, x{len(row.models)}"


def _mean(models: Sequence[Artifact], metric: str) -> str:
    values = [m.metrics[metric] for m in models if finite(m.metrics.get(metric))]
    return words.metric(metric, math.fsum(values) / len(values)) if values else ""
