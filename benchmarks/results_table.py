"""Print rows of docs/results.md from finished runs:  python benchmarks/results_table.py runs/*

A run that compared sets of losses gives a table of its own after them: a row a method, the largest gain first.
"""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from limbeck.report.methods import methods

HEAD = """
`{name}`, {data}, {seeds} seeds; student alone {alone}

| losses | what they are | student | gain | verdict | after Holm | time |
|---|---|---|---|---|---|---|"""


def row(result: Mapping[str, Any]) -> str:
    compared, models = result["comparison"], result["models"]
    scale, form = _unit(compared)
    # The last of the teachers is the ensemble where there is one; born-again and mutual learning have none.
    teacher = next((m for m in reversed(models) if m["role"] == "teacher"), None)
    student = next(m for m in models if m["name"] == result["chosen"]["name"])
    weights = sum(m["cost"]["size_bytes"] for m in models if m["role"] == "teacher" and m["file"])
    size = f"{weights / student['cost']['size_bytes']:.1f}x" if teacher else "-"
    files = ", ".join(
        f"{m['format']} {scale * m['metrics'][compared['metric']]:{form}}, {m['cost']['size_bytes'] / 1000:.0f} kB, "
        f"{m['cost']['latency_ms']:.3f} ms"
        for m in models
        if m["role"] == "exported"
    )
    told = f"{scale * teacher['metrics'][compared['metric']]:{form}}" if teacher else "-"
    cells = [f"`{result['name']}`", result["data"]["name"], compared["student"]["n"], told]
    cells += [_level(compared, "student"), _level(compared, "distilled")]
    return _line([*cells, _gain(compared), compared["verdict"], size, files])


def method_rows(result: Mapping[str, Any]) -> list[str]:
    """A row for each set of losses that was compared."""
    entries = {entry["name"]: entry for entry in result.get("methods") or []}
    rows = []
    for method in methods(result):
        entry = entries[method.name]
        losses = f"{method.losses}; found: {method.found}" if method.found else method.losses
        held = "" if method.verdict == "no evidence" else "holds" if method.holds else "does not hold"
        cells = [f"`{method.name}`", losses, _level(entry, "distilled"), _gain(entry), method.verdict, held]
        rows.append(_line([*cells, method.time]))
    return rows


def _unit(compared: Mapping[str, Any]) -> tuple[int, str]:
    return (100, ".2f") if compared["metric"] == "accuracy" else (1, ".3f")


def _level(compared: Mapping[str, Any], side: str) -> str:
    scale, form = _unit(compared)
    mean, reach = compared[side]["mean"], compared[side]["ci95"]
    spread = f" ± {scale * (reach[1] - reach[0]) / 2:{form}}" if reach else ""
    return f"{scale * mean:{form}}{spread}"


def _gain(compared: Mapping[str, Any]) -> str:
    scale, form = _unit(compared)
    gain = compared["gain"]
    reach = [f"{scale * end:+{form}}" for end in gain["ci95"] or []]
    return f"{scale * gain['mean']:+{form}}" + (f" [{', '.join(reach)}]" if reach else "")


def _line(cells: list[Any]) -> str:
    return "| " + " | ".join(map(str, cells)) + " |"


def main(folders: list[str]) -> None:
    results = [json.loads((Path(name) / "result.json").read_text()) for name in folders]
    print("\n".join(map(row, results)))
    for result in results:
        if rows := method_rows(result):
            compared = result["comparison"]
            around = {"name": result["name"], "data": result["data"]["name"], "seeds": compared["student"]["n"]}
            print("\n".join([HEAD.format(**around, alone=_level(compared, "student")), *rows]))


if __name__ == "__main__":
    main(sys.argv[1:])
