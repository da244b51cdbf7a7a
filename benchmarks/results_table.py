"""Print rows of docs/results.md from finished runs:  python benchmarks/results_table.py runs/*"""

import json
import sys
from pathlib import Path


def row(folder: Path) -> str:
    result = json.loads((folder / "result.json").read_text())
    compared, models = result["comparison"], result["models"]
    share = compared["metric"] == "accuracy"
    scale, form = (100, ".2f") if share else (1, ".3f")

    def level(side: str) -> str:
        mean, (low, high) = compared[side]["mean"], compared[side]["ci95"]
        return f"{scale * mean:{form}} ± {scale * (high - low) / 2:{form}}"

    # The last of the teachers is the ensemble where there is one; born-again and mutual learning have none.
    teacher = next((m for m in reversed(models) if m["role"] == "teacher"), None)
    student = next(m for m in models if m["name"] == result["chosen"]["name"])
    low, high = compared["gain"]["ci95"]
    gain = f"{scale * compared['gain']['mean']:+{form}} [{scale * low:+{form}}, {scale * high:+{form}}]"
    weights = sum(m["cost"]["size_bytes"] for m in models if m["role"] == "teacher" and m["file"])
    size = f"{weights / student['cost']['size_bytes']:.1f}x" if teacher else "-"
    files = ", ".join(
        f"{m['format']} {scale * m['metrics'][compared['metric']]:{form}}, {m['cost']['size_bytes'] / 1000:.0f} kB, "
        f"{m['cost']['latency_ms']:.3f} ms"
        for m in models
        if m["role"] == "exported"
    )
    told = f"{scale * teacher['metrics'][compared['metric']]:{form}}" if teacher else "-"
    cells = [
        f"`{result['name']}`",
        result["data"]["name"],
        compared["student"]["n"],
        told,
        level("student"),
        level("distilled"),
    ]
    return "| " + " | ".join(map(str, [*cells, gain, compared["verdict"], size, files])) + " |"


if __name__ == "__main__":
    for name in sys.argv[1:]:
        print(row(Path(name)))
