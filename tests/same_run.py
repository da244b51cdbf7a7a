"""Whether two run directories hold the same: python tests/same_run.py BEFORE AFTER

Weights are compared bit for bit, stored outputs by their key, and every value of result.json but for times, machines
and versions. A key that only one side has is told and is no difference, for results gain keys.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

# What no two runs have in common.
TIMES = {
    *("created", "seconds", "environment", "limbeck", "latency_ms", "fastest_ms", "batch_ms", "memory_mb"),
    *("asked", "found"),
}


def values(tree: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """Every plain value of a JSON-like tree with its dotted place."""
    if isinstance(tree, dict | list):
        for key, inner in tree.items() if isinstance(tree, dict) else enumerate(tree):
            if key not in TIMES:
                yield from values(inner, f"{place}.{key}" if place else str(key))
    else:
        yield place, tree


def differences(before: Path, after: Path) -> Iterator[str]:
    """One line for each difference between two run directories."""
    weights = [{p.relative_to(folder) for p in folder.rglob("*.safetensors")} for folder in (before, after)]
    for name in sorted(weights[0] ^ weights[1]):
        yield f"{name}: in one of them only"
    for name in sorted(weights[0] & weights[1]):
        one, other = load_file(before / name), load_file(after / name)
        if one.keys() != other.keys() or any(not np.array_equal(one[key], other[key]) for key in one):
            yield f"{name}: other weights"
    results = [dict(values(json.loads((folder / "result.json").read_text()))) for folder in (before, after)]
    for key in results[0].keys() & results[1].keys():
        if results[0][key] != results[1][key]:
            yield f"result.json: {key}: {results[0][key]!r}, then {results[1][key]!r}"
    print(f"{len(weights[0])} files of weights, {len(results[0].keys() & results[1].keys())} values compared")
    for side, keys in (("before", results[0].keys() - results[1]), ("after", results[1].keys() - results[0])):
        if keys:
            print(f"only {side}: {', '.join(sorted(keys)[:10])}")


if __name__ == "__main__":
    found = list(differences(*map(Path, sys.argv[1:3])))
    print(*found, f"{len(found)} differences", sep="\n")
    sys.exit(bool(found))
