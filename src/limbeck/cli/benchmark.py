"""`limbeck benchmark`: files timed against each other."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def benchmark(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE...", help="Exported files of any runtimes, or run directories.")
    ],
    threads: Annotated[int, typer.Option(help="How many each may use.", min=1)] = 1,
    rounds: Annotated[int, typer.Option(help="The most rounds.", min=1)] = 30,
    json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Time files against each other: one row and 64 rows, size, memory; each in a process of its own, all in turn.

    A busy machine slows all alike, so ratios hold where times do not. The first file is what others are held to.

    \b
      limbeck benchmark runs/quickstart/export/*.tflite
    """  # noqa: D301 - Click wants the character itself
    from limbeck.evaluate.file_latency import benchmark as measure
    from limbeck.export.files import shipped

    found = measure([path for given in files for path in shipped(given)], threads=threads, rounds=rounds)
    if json:
        import json as writer

        print(writer.dumps(found, indent=2))
        return
    width = max(len(row["file"]) for row in found)
    print(f"{'':{width}}  {'size':>11}  {'1 row':>10}  {'at best':>10}  {'against':>8}  {'64 rows':>10}  {'memory':>9}")
    for row in found:
        print(
            f"{row['file']:{width}}  {row['size_bytes'] / 1000:>8,.1f} kB  {row['latency_ms']:>7.3f} ms  "
            f"{row['fastest_ms']:>7.3f} ms  {row['ratio']:>7.2f}x  {row['batch_ms']:>7.2f} ms  "
            + (f"{row['memory_mb']:>6.1f} MB" if row["memory_mb"] is not None else "")
        )
    print(f"median of {found[0]['rounds']} rounds, {threads} thread{'s' if threads > 1 else ''}")
