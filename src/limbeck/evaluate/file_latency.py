"""Files timed against each other, each by its runtime in a process of its own."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from limbeck import export
from limbeck.core.errors import UserError, did_you_mean
from limbeck.core.formats import FORMATS
from limbeck.evaluate import costs as protocol

CALLS = 5  # for one measurement, one after the other: a runtime of some microseconds has to get warm
BATCH_ROUNDS, BATCH_SECONDS = 10, 1.0  # in which 64 rows are timed in a run
LONG_MS = 50.0  # a call of so long is its own warm-up


def once(served: export.Served, x: np.ndarray[Any, Any]) -> float:
    """The median of a few calls with the same rows, in milliseconds; of long ones a single one."""
    first = float(served.time(x, calls=1)[0])
    return first if first > LONG_MS else float(np.median(served.time(x, calls=CALLS)))


def benchmark(files: Sequence[Path], *, threads: int = 1, rounds: int = 30) -> list[dict[str, Any]]:
    """What files cost: time of one row and of 64, size, memory.

    Args:
        files: of any runtimes; the first is what `ratio` is held to.
        threads: how many each may use.
        rounds: the most rounds to measure; all files take turns.

    Returns:
        For each: file, format, size_bytes, latency_ms and fastest_ms of one row, ratio (how many times the first file's
        time), batch_ms of 64 rows, memory_mb, rounds.

    Raises:
        UserError: no file, one that is not there, or of no known format, or that its runtime cannot run.
    """
    if not files:
        raise UserError("there is nothing to time", hint="give exported files")
    forms = [_form(Path(file)) for file in files]
    with ExitStack() as stack:
        served = [
            stack.enter_context(export.Served(Path(file), form, threads=threads, alone=True))
            for file, form in zip(files, forms, strict=True)
        ]
        draw = np.random.default_rng(0)
        rows = [_rows(draw, one) for one in served]
        names = [f"{number}" for number in range(len(files))]
        single = {name: partial(once, one, x[:1]) for name, one, x in zip(names, served, rows, strict=True)}
        batch = {name: partial(once, one, x) for name, one, x in zip(names, served, rows, strict=True)}
        times = protocol.latency(single, rounds=rounds)
        batches = protocol.latency(batch, rounds=max(1, rounds // 3))
        peaks = [one.peak_mb for one in served]
    return [
        {
            "file": str(file),
            "format": form,
            "size_bytes": export.size_bytes(Path(file)),
            "latency_ms": times[name]["median_ms"],
            "fastest_ms": times[name]["min_ms"],
            "ratio": times[name]["median_ms"] / times["0"]["median_ms"],
            "batch_ms": batches[name]["median_ms"],
            "memory_mb": peak,
            "rounds": int(times[name]["n"]),
        }
        for name, file, form, peak in zip(names, files, forms, peaks, strict=True)
    ]


def _form(file: Path) -> str:
    if not file.is_file():
        raise UserError("there is no such file", where=str(file))
    known = {row.suffix: form for form, row in FORMATS.items()}
    if file.suffix not in known:
        hint = did_you_mean(file.suffix, known)
        raise UserError(f"'{file.suffix}' is the ending of no format that is run here", where=str(file), hint=hint)
    return known[file.suffix]


def _rows(draw: np.random.Generator, served: export.Served) -> np.ndarray[Any, Any]:
    shape = (export.LARGEST_BATCH, *served.shape)
    if served.dtype == "uint8":
        return draw.integers(0, 256, shape, dtype=np.uint8)
    return draw.random(shape, dtype=np.float32)
