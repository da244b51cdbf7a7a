"""The result of a run in a terminal of 80 columns: the models, the verdicts, the methods, what was stored."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from limbeck.report import roles, words
from limbeck.report.methods import alone, methods, said
from limbeck.report.stored import stored

if TYPE_CHECKING:
    from rich.console import Console


def show(result: Mapping[str, Any], folder: Path) -> None:
    """Print the table of models, what was compared, what was chosen and the notes. Students are means over seeds.

    Args:
        result: the content of result.json.
        folder: the run directory, where the page is.
    """
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(highlight=False)
    main, second = ("accuracy", "agreement") if result["data"]["task"] == "classification" else ("rmse", "r2")
    told = any(words.finite(m["metrics"].get(second)) for m in result["models"])
    metrics = (main, second) if told else (main,)
    count, name = result["data"]["counts"]["test"], result["data"]["name"]
    table = Table(title=escape(f"{result['name']}: test split of {name}, {count:,} rows"), box=box.SIMPLE)
    table.add_column("model", no_wrap=True, max_width=24)  # so that numbers are never cut short
    for heading in (*metrics, "params", "size", "ms"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in roles.rows(result):
        if row.role == "compared":
            continue  # their table follows
        cost = row.models[0]["cost"]
        params, size, latency_ms = cost.get("params"), cost.get("size_bytes"), cost.get("latency_ms")
        table.add_row(
            escape(_label(row)),
            *(_mean(row.models, metric) for metric in metrics),
            words.count(params),
            words.size(size),
            f"{latency_ms:.{3 if latency_ms >= 0.1 else 2}g}" if words.finite(latency_ms) else words.NOTHING,
        )
    console.print(table)
    if result.get("comparison"):
        console.print(f"[bold]Verdict:[/bold] {escape(result['comparison']['words'])}")
    for other in result.get("comparisons") or []:
        console.print(f"[bold]{escape(other['title'])}:[/bold] {escape(other['words'])}")
    if result.get("methods"):
        _show_methods(result, console)
    console.print(f"Chosen: {escape(result['chosen']['name'])}, {escape(result['chosen']['why'])}")
    if kept := stored(result):
        console.print(f"Stored: {escape(' '.join(kept['said']))}")
    for note in result["notes"]:
        console.print(f"[yellow]note:[/yellow] {escape(note)}")
    print(f"Report: {folder / 'report.html'}")


def _show_methods(result: Mapping[str, Any], console: Console) -> None:
    """The sets of losses that were compared, the largest gain first, and what each of them is."""
    from rich.markup import escape
    from rich.table import Table

    found, (score, spread) = methods(result), alone(result)
    title = words.METRICS[result["methods"][0]["metric"]][0].removesuffix(" %")
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


def _label(row: roles.Row) -> str:
    """What a row is called, and of how many seeds it is the mean."""
    if row.role == "exported":
        return f"exported, {row.models[0]['format']}"
    return row.short if len(row.models) == 1 else f"{row.short}, x{len(row.models)}"


def _mean(models: Sequence[Mapping[str, Any]], metric: str) -> str:
    values = [m["metrics"][metric] for m in models if words.finite(m["metrics"].get(metric))]
    return words.metric(metric, math.fsum(values) / len(values)) if values else ""
