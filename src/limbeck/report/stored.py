"""What was stored of the teachers' outputs: how large, how many were asked for, and how many were there already."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from limbeck.core.result import Result, StoredOutputs
from limbeck.core.words import duration, finite, listed
from limbeck.report import words

CODES = {"float16": "16-bit floats", "float32": "32-bit floats"}


def stored(result: Result) -> dict[str, Any] | None:
    """Every teacher's stored outputs, and all of them in a sentence.

    A store is opened once by each student that learns from it: its size counts once, what was asked and found counts
    at each opening. Networks that differ in their seed alone share a row.

    Returns:
        said: sentences; rows: (teacher, what is stored, size, asked, found, time); None where nothing was stored.
    """
    openings = result.cache
    if not openings:
        return None
    sizes: dict[str, int] = {}
    groups: dict[str, list[StoredOutputs]] = {}
    for opening in openings:
        sizes[opening.key] = opening.bytes or 0
        groups.setdefault(_unseeded(opening.teacher), []).append(opening)
    rows = []
    for name, group in groups.items():
        keys = {o.key for o in group}
        networks = {o.teacher for o in group}
        label = f"{name}, {len(networks)} seeds" if len(networks) > 1 else next(iter(networks))
        size = words.size(sum(sizes[key] for key in keys))
        asked, found = words.count(_sum(group, "asked")), words.count(_sum(group, "found"))
        rows.append((label, _what(group[-1]), size, asked, found, duration(_sum(group, "seconds"))))
    return {"said": _said(openings, sum(sizes.values())), "rows": rows}


def _said(openings: Sequence[StoredOutputs], size: float) -> list[str]:
    asked, found, seconds = (_sum(openings, key) for key in ("asked", "found", "seconds"))
    total = words.size(size)
    if not asked:
        said = [
            f"All {found:,.0f} outputs that students began with were stored already ({total}): no teacher computed any."
        ]
    else:
        time = duration(seconds) if seconds >= 0.05 else "less than 0.1 s"
        said = [f"Teachers computed {asked:,.0f} outputs in {time}, stored in {total}."]
        if found:
            said.append(f"{found:,.0f} times an output was stored already and was not computed again.")
    return said


def _what(opening: StoredOutputs) -> str:
    many = f"{opening.views:,} views of " if (opening.views or 0) > 1 else ""
    parts = [f"{many}{words.count(opening.rows)} rows", CODES.get(str(opening.dtype), "")]
    if opening.top_k:
        parts.append(f"the {opening.top_k} largest of a row")
    if opening.taps:
        parts.append(f"with {listed(opening.taps)}")
    return ", ".join(part for part in parts if part)


def _unseeded(name: str) -> str:
    return re.sub(r"-seed-?\d+", "", name)


def _sum(openings: Sequence[StoredOutputs], key: str) -> float:
    return float(sum(value for o in openings if finite(value := getattr(o, key))))
