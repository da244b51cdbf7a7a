"""The files of a run, by the network they were made of: each held against it, and against its runtime's float file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from limbeck.core.formats import FORMATS
from limbeck.core.metrics import METRICS
from limbeck.core.result import Result
from limbeck.core.types import Artifact
from limbeck.core.words import NOTHING, finite, listed
from limbeck.report import roles, words

RUNTIMES = {"pytorch": "PyTorch"} | {form: row.runtime for form, row in FORMATS.items()}
ORDER = tuple(RUNTIMES)
NOISE = 0.05  # times that differ by no more than this are the same


@dataclass(frozen=True, slots=True)
class File:
    """A file with what it is held against.

    Attributes:
        row: its row of `models`.
        network: that of the network it was made of, where the result has it.
        plain: that of the float32 file for the same runtime, where there is another one.
    """

    row: Artifact
    network: Artifact | None
    plain: Artifact | None

    @property
    def precision(self) -> str:
        """Of its numbers."""
        return self.row.precision

    @property
    def title(self) -> str:
        """Its runtime and precision."""
        return f"{RUNTIMES.get(self.row.format, self.row.format)}, {words.PRECISIONS.get(self.precision)}"

    def change(self, metric: str) -> float | None:
        """What it gains over its network; negative where it is worse."""
        own, before = (m.metrics.get(metric) if m else None for m in (self.row, self.network))
        return METRICS[metric].gain(before, own) if finite(own) and finite(before) else None

    @property
    def share(self) -> float | None:
        """Its size as a share of the float file's."""
        own, before = (m.cost.size_bytes if m else None for m in (self.row, self.plain))
        return own / before if finite(own) and finite(before) and before else None


@dataclass(frozen=True, slots=True)
class Made:
    """A network and the files that it became.

    Attributes:
        name: of the network.
        title: what it is.
        network: its row of `models`, where the result has it.
        files: in the order of the runtimes, the most precise first.
    """

    name: str
    title: str
    network: Artifact | None
    files: Sequence[File]


def made(result: Result) -> list[Made]:
    """Networks with their files, in the order of the result; empty where nothing was exported."""
    known = {m.name: m for m in result.models if m.role != "exported"}
    found: dict[str, list[Artifact]] = {}
    for row in result.models:
        if row.role == "exported":
            found.setdefault(source(row), []).append(row)
    listed = []
    for name, rows in found.items():
        plain = {m.format: m for m in rows if m.precision == "float32"}
        network = known.get(name)
        own = [File(m, network, None if m is plain.get(m.format) else plain.get(m.format)) for m in rows]
        own.sort(key=lambda file: (_place(ORDER, file.row.format), _place(tuple(words.PRECISIONS), file.precision)))
        listed.append(Made(name, roles.named(name, network.role, result)[0] if network else "", network, own))
    return listed


def source(row: Artifact) -> str:
    """The name of the network that a file was made of."""
    return row.source or row.name.removesuffix(f".{row.format}")


def _place(order: Sequence[str], name: str) -> int:
    return order.index(name) if name in order else len(order)


def change_in_words(file: File, metric: str) -> str:
    """What a file gains over its network, with its sign; 0 where nothing changes."""
    change = file.change(metric)
    return "0" if change == 0 else words.change(metric, change)


# --- is int8 worth it? -----------------------------------------------------------------------------


def no_faster(file: File) -> str:
    """A plain word where an int8 file takes as long as the float32 one in the same runtime, or longer; else nothing."""
    if file.precision != "int8" or file.plain is None:
        return ""
    times = []
    for key, rows in (("latency_ms", "one row"), ("batch_ms", "64 rows")):
        own, before = getattr(file.row.cost, key), getattr(file.plain.cost, key)
        if finite(own) and finite(before) and before:
            spoken = f"{words.milliseconds(own)} instead of {words.milliseconds(before)} for {rows}"
            times.append((own / before - 1, spoken, rows))
    slower = [spoken for by, spoken, _ in times if by > NOISE]
    faster = [rows for by, _, rows in times if by < -NOISE]
    if not slower and (faster or not times):
        return ""
    if not slower:
        return f"int8 is no faster than float32 here: {listed([spoken for _, spoken, _ in times])}; {_advice(file)}"
    said = f"int8 is slower than float32 here: {listed(slower)}"
    return f"{said}, though faster for {faster[0]}" if faster else f"{said}; {_advice(file)}"


def _advice(file: File) -> str:
    small = file.share is not None and file.share < 1
    return f"ship the float file{', or int8 for its size' if small else ''}"


def said_of_speed(found: Sequence[Made]) -> list[str]:
    """For each runtime whether int8 pays there, where there are int8 files that it does not pay for."""
    said = []
    for form in ORDER:
        files = [f for m in found for f in m.files if f.row.format == form and f.precision == "int8" and f.plain]
        slow = [f for f in files if no_faster(f)]
        if slow:
            many = f" for {'all' if len(slow) == len(files) else f'{len(slow)} of'} {len(files)} networks"
            said.append(
                f"In {RUNTIMES[form]} int8 is slower than float32 or no faster{many if len(files) > 1 else ''}."
            )
    return said


# --- the table -------------------------------------------------------------------------------------


def protocol(result: Result) -> str:
    """How the files were measured, once for all of them."""
    count = result.data.counts["test"]
    spec, exported = result.recipe.get("files") or {}, [m for m in result.models if m.role == "exported"]
    said = [f"Each file was run in its own runtime on the {count:,} rows of the test split."]
    if any(finite(m.cost.batch_ms) for m in exported):
        said.append(
            "Times are medians on one CPU thread, below them the shortest; all files of a runtime took turns, so that "
            "a busy machine slows them alike."
        )
    if any(finite(m.cost.memory_mb) for m in exported):
        said.append("Memory is what a process took at its peak, above the runtime with nothing loaded.")
    if any(m.precision == "int8" for m in exported) and spec.get("calibration"):
        said.append(f"The ranges of integers were measured on {spec['calibration']:,} training rows.")
    return " ".join(said)


def groups(found: Sequence[Made], metric: str, chosen: str | None, front: Sequence[str]) -> list[dict[str, Any]]:
    """The table of files: networks, and a row for each file of theirs.

    Args:
        found: as `made` gives them.
        metric: the score.
        chosen: the name of the student that was chosen.
        front: names of files than which none is smaller and better.
    """
    return [
        {
            "name": one.name,
            "title": one.title,
            "chosen": one.name == chosen,
            "score": words.metric(metric, one.network.metrics.get(metric)) if one.network else NOTHING,
            "file": one.network.file if one.network else None,
            "rows": [_row(file, metric, front) for file in one.files],
            "n": len(one.files),
        }
        for one in found
    ]


def _row(file: File, metric: str, front: Sequence[str]) -> dict[str, Any]:
    row, cost, parity = file.row, file.row.cost, file.row.parity
    fastest, memory = cost.fastest_ms, cost.memory_mb
    return {
        "runtime": RUNTIMES.get(row.format, row.format),
        "precision": words.PRECISIONS.get(file.precision, file.precision),
        "file": row.file,
        "front": row.name in front,
        "score": words.metric(metric, row.metrics.get(metric)),
        "change": change_in_words(file, metric),
        "same": words.metric("agreement", parity.agreement if parity else None),
        "apart": f"≤ {words.number(parity.max_abs_error, 2)}" if parity and finite(parity.max_abs_error) else "",
        "size": words.size(cost.size_bytes),
        "share": "" if file.share is None else f"{file.share:.1%}".replace("%", " %"),
        "latency": words.milliseconds(cost.latency_ms),
        "fastest": words.milliseconds(fastest) if finite(fastest) else "",
        "batch": words.milliseconds(cost.batch_ms),
        "memory": f"{memory:.1f} MB" if finite(memory) else NOTHING,
        "slow": no_faster(file),
        "notes": list(row.notes),
    }
