"""Print rows of docs/results.md from finished runs:  python benchmarks/results_table.py runs/*

A run that compared sets of losses gives a table of its own after them: a row a method, the largest gain first. One that
made students smaller gives two: a row a way, and a row for each format of each way, means over seeds.
"""

import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from limbeck.core.result import parse_result, read_result
from limbeck.report.methods import methods

HEAD = """
`{name}`, {data}, {seeds} seeds; student alone {alone}

| losses | what they are | student | gain | verdict | after Holm | time |
|---|---|---|---|---|---|---|"""


WAYS = """
`{name}`, {data}; {start}: {score}, {params:,} parameters, {macs} M multiply-accumulates

| way | with teacher | without | gain | verdict | parameters | MACs, M |
|---|---|---|---|---|---|---|"""
FILES = """
| student | file | {metric} | lost | size, kB | of float32 | one row, ms | of float32 |
|---|---|---|---|---|---|---|---|"""


def row(result: Mapping[str, Any]) -> str:
    compared, models = result["comparison"], result["models"]
    scale, form = _unit(compared)
    # The last of the teachers is the ensemble where there is one; born-again and mutual learning have none.
    teacher = next((m for m in reversed(models) if m["role"] == "teacher"), None)
    student = next(m for m in models if m["name"] == result["chosen"]["name"])
    weights = sum(m["cost"]["size_bytes"] for m in models if m["role"] == "teacher" and m["file"])
    size = f"{weights / student['cost']['size_bytes']:.1f}x" if teacher else "-"
    own = [m for m in models if m["role"] == "exported" and m.get("source", student["name"]) == student["name"]]
    files = ", ".join(
        f"{m['name'].partition('.')[2] or m['format']} {scale * m['metrics'][compared['metric']]:{form}}, "
        f"{m['cost']['size_bytes'] / 1000:.0f} kB, {m['cost']['latency_ms']:.3f} ms"
        for m in own
    )
    told = f"{scale * teacher['metrics'][compared['metric']]:{form}}" if teacher else "-"
    cells = [f"`{result['name']}`", result["data"]["name"], compared["student"]["n"], told]
    cells += [_level(compared, "student"), _level(compared, "distilled")]
    return _line([*cells, _gain(compared), compared["verdict"], size, files])


def method_rows(result: Mapping[str, Any]) -> list[str]:
    """A row for each set of losses that was compared."""
    entries = {entry["name"]: entry for entry in result.get("methods") or []}
    rows = []
    for method in methods(parse_result(result, result["name"])):
        entry = entries[method.name]
        losses = f"{method.losses}; found: {method.found}" if method.found else method.losses
        held = "" if method.verdict == "no evidence" else "holds" if method.holds else "does not hold"
        cells = [f"`{method.name}`", losses, _level(entry, "distilled"), _gain(entry), method.verdict, held]
        rows.append(_line([*cells, method.time]))
    return rows


def way_rows(result: Mapping[str, Any]) -> list[str]:
    """A row for each way to a smaller student, after what they were made of."""
    rows = []
    for entry in result.get("compressed") or []:
        own = _of(entry["name"], result["models"])
        held = entry["with_teacher"]
        against = [_level(held, "student"), _gain(held), held["verdict"]] if held else ["", "", ""]
        costs = [f"{_mean(own, 'params'):,.0f}", f"{_mean(own, 'macs') / 1e6:.2f}"]
        rows.append(_line([f"`{entry['name']}`", _level(entry["against_start"], "distilled"), *against, *costs]))
    return rows


def file_rows(result: Mapping[str, Any], metric: str) -> list[str]:
    """A row for each format of each student, means over the seeds it was made for."""
    scale, form = _unit({"metric": metric})
    files = [m for m in result["models"] if m["role"] == "exported"]
    start = _start(result)
    networks = {m["seed"]: m for m in _of(start, result["models"]) if m["role"] != "exported"}
    rows = []
    for way in [start, *(entry["name"] for entry in result["compressed"])]:
        own = _of(way, files)
        for name in dict.fromkeys(m["name"].partition(".")[2] for m in own):
            these = [m for m in own if m["name"].endswith(f".{name}")]
            floats = [m for m in _of(start, files) if m["name"].endswith(f".{name.partition('-')[0]}")]
            whole = [networks[m["seed"]] for m in these]
            score, before = (sum(m["metrics"][metric] for m in ms) / len(ms) for ms in (these, whole))
            size, time = _mean(these, "size_bytes"), _mean(these, "latency_ms")
            shares = ["", ""]
            if floats:
                shares = [f"{size / _mean(floats, 'size_bytes'):.1%}", f"{time / _mean(floats, 'latency_ms'):.2f}x"]
            told = [f"{scale * score:{form}}", f"{scale * (before - score):+{form}}"]
            rows.append(_line([f"`{way}`", name, *told, f"{size / 1000:,.0f}", shares[0], f"{time:.3f}", shares[1]]))
    return rows


def _start(result: Mapping[str, Any]) -> str:
    """What the smaller students were made of: student or distilled."""
    return next(iter(result["compressed"][0]["start"].values())).rpartition("-seed")[0]


def _of(way: str, models: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [m for m in models if re.fullmatch(rf"{re.escape(way)}-seed\d+", m["name"].partition(".")[0])]


def _mean(models: list[dict[str, Any]], cost: str) -> float:
    return sum(m["cost"][cost] for m in models) / len(models)


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
    results = [read_result(Path(name) / "result.json").content() for name in folders]
    print("\n".join(row(result) for result in results if result["comparison"]))
    for result in results:
        if rows := method_rows(result):
            compared = result["comparison"]
            around = {"name": result["name"], "data": result["data"]["name"], "seeds": compared["student"]["n"]}
            print("\n".join([HEAD.format(**around, alone=_level(compared, "student")), *rows]))
        if rows := way_rows(result):
            held = result["compressed"][0]["against_start"]
            start = _start(result)
            own = _of(start, result["models"])[0]["cost"]
            around = {"name": result["name"], "data": result["data"]["name"], "start": start}
            around |= {"score": _level(held, "student"), "params": own["params"], "macs": f"{own['macs'] / 1e6:.2f}"}
            print("\n".join([WAYS.format(**around), *rows]))
            print("\n".join([FILES.format(metric=held["metric"]), *file_rows(result, held["metric"])]))


if __name__ == "__main__":
    main(sys.argv[1:])
