"""Whether storing a teacher's outputs, and learning from them, costs twice as much for twice as many images.

    python benchmarks/scaling.py --json scaling.json        (about 4 minutes; --quick: a tenth of the images)

The networks of the bundled recipe `mnist-distiller` on 10,000, 20,000 and 40,000 images of Fashion-MNIST, one thread.
The sizes take turns, each turn with an empty cache; medians of the turns. The teacher is not trained, which changes
neither time nor size. Each size runs in a process of its own, so that its memory can be told from the others'.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from mnist_distiller import BATCH, distilling, load_data, network, recipe, student

from limbeck.core.machine import environment, keep_heap
from limbeck.core.types import Teacher
from limbeck.data import fetcher
from limbeck.distill import cache
from limbeck.distill.teachers import Frozen
from limbeck.distill.train import fit
from limbeck.recipe import Plan

FACTORS = (1, 2, 4)
MEASURES = ("store_seconds", "epoch_seconds", "stored_bytes")


def once(count: int) -> dict[str, float]:
    """Store the teacher's outputs for `count` images, learn from them for one epoch, and say what both cost."""
    keep_heap()
    torch.set_num_threads(1)
    data = load_data()
    data = replace(data, train=data.train[:count], val=data.val[:BATCH])
    teacher, fetch = Frozen(network(recipe().teachers[0], data)), fetcher(data)
    with tempfile.TemporaryDirectory() as place:

        def store(rows: torch.Tensor, folder: str) -> cache.Stored:
            return cache.outputs(
                teacher, fetch, rows, identity={}, label={}, views=1, kind="classification", root=Path(place, folder)
            )

        def learn(rows: torch.Tensor, teacher: Teacher, folder: str) -> float:
            plan, some = Plan(epochs=1, batch_size=BATCH, lr=1e-3), replace(data, train=rows)
            history = fit(student(data), distilling(), teacher, some, plan, folder=Path(place, folder))
            return float(history.epochs[0]["seconds"])

        learn(data.train[:BATCH], store(data.train[:BATCH], "warm-up"), "first run")  # all is imported then
        started = time.perf_counter()
        stored = store(data.train, "outputs")
        asked = time.perf_counter()
        files = sum(f.stat().st_size for f in Path(place, "outputs").rglob("*.bin"))
        learnt = learn(data.train, stored, "run")
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {
        "images": count,
        "store_seconds": asked - started,
        "epoch_seconds": learnt,
        "stored_bytes": files,
        "anonymous_MB": int(status["RssAnon"].split()[0]) / 1000,
    }


def growth(images: list[int], values: list[float]) -> float:
    """The power of the number of images that values grow by, from the smallest to the largest: 1 is linear."""
    return round(math.log(values[-1] / values[0]) / math.log(images[-1] / images[0]), 3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the result there")
    parser.add_argument("--quick", action="store_true", help="a tenth of the images")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--once", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.once:
        print(json.dumps(once(options.once)))
        return
    images = [factor * (1_000 if options.quick else 10_000) for factor in FACTORS]
    found: dict[int, list[dict[str, float]]] = {count: [] for count in images}
    for _ in range(options.turns):
        for count in images:
            command = [sys.executable, __file__, "--once", str(count)]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            found[count].append(json.loads(done.stdout.splitlines()[-1]))
    rows = [{key: statistics.median(turn[key] for turn in found[count]) for key in found[count][0]} for count in images]
    result: dict[str, Any] = {
        "turns": options.turns,
        "sizes": rows,
        "growth": {name: growth(images, [row[name] for row in rows]) for name in MEASURES},
        "hardware": environment(),
    }
    print(f"{'images':>8}{'store, s':>12}{'epoch, s':>12}{'stored, MB':>12}{'memory, MB':>12}")
    for row in rows:
        print(
            f"{row['images']:8,.0f}{row['store_seconds']:12.2f}{row['epoch_seconds']:12.2f}"
            f"{row['stored_bytes'] / 1e6:12.3f}{row['anonymous_MB']:12.0f}"
        )
    print("grows as images to the power of:", ", ".join(f"{name} {power}" for name, power in result["growth"].items()))
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
