"""What one training step costs: the student alone, taught from the cache, taught live, the common loop, and the peers.

    python benchmarks/distill_step.py                    all of it, about five minutes and 4 GB of disk for the peers
    python benchmarks/distill_step.py --no-peers --quick
    python benchmarks/distill_step.py --json step.json

The job is the bundled recipe mnist-distiller on Fashion-MNIST: batches of 64, a teacher of 1,433,610 parameters and a
student of 20,490. Every contender is a process of its own, on one thread, pinned to the same core, and they take turns:
in each round everyone trains for a block of steps, and who begins changes from round to round. What is printed are
medians over the rounds; a ratio is the median of the rounds' ratios. Limbeck's contenders train with
`limbeck.fit`; the peers run from their own packages, in environments made below limbeck's cache directory.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import sys
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import mnist_distiller as job
import numpy as np
import torch
from contenders import STUDENTS, TEACHERS
from peers.environments import PEERS, command
from turns import HERE, Contender, core_to_pin, in_rounds, quartiles, ratio, table

from limbeck import evaluate
from limbeck.core.files import write_json
from limbeck.core.machine import environment, keep_heap
from limbeck.core.progress import Progress
from limbeck.data import Data

# Ratio -> (the most it should be) or (the least it should be).
AT_MOST = {"cached_over_student": 1.05, "live_over_bound": 1.05}
AT_LEAST = {"teacher_speedup": 3.0}


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    torch.set_num_threads(1)
    keep_heap()
    progress = Progress(quiet=options.quiet)
    # A short run has a teacher and a data set of its own: a teacher trained for an epoch takes minutes.
    rows, val = (640, 128) if options.quick else (None, None)
    data = job.load_data(rows, val)
    weights = job.trained_teacher(data, progress)
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        started, missing = start(options, data, weights, folder, stack, progress)
        seconds = options.seconds or (0.02 if options.quick else 0.5)
        times = in_rounds(started, options.rounds or (3 if options.quick else 15), seconds, progress.say)
        told = {name: np.load(folder / f"{name}.npy") for name in times if name.startswith("teacher-")}
        ready = {name: contender.ready for name, contender in started.items()}
    result = summary(times, told, ready, data) | {
        "missing": missing,
        "command": " ".join(["distill_step.py", *sys.argv[1:]]),
    }
    if options.json:
        write_json(options.json, result)
    print(show(result))


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything that was measured to FILE")
    parser.add_argument("--rounds", type=int, help="how many rounds (default 15, or 3 with --quick)")
    parser.add_argument("--seconds", type=float, help="how long a block is, about (default 0.5)")
    parser.add_argument("--quick", action="store_true", help="a few steps on a few rows: shows that it works")
    parser.add_argument("--no-peers", action="store_true", help="install and run no other library")
    parser.add_argument("--compile", action="store_true", help="also time the teacher through torch.compile")
    parser.add_argument("--quiet", action="store_true", help="print the table only")
    return parser.parse_args(arguments)


def start(
    options: argparse.Namespace,
    data: Data,
    weights: Path,
    folder: Path,
    stack: contextlib.ExitStack,
    progress: Progress,
) -> tuple[dict[str, Contender], dict[str, str]]:
    """Everybody, warmed up and waiting, and who cannot take part, with the reason."""
    own = [sys.executable, HERE / "contenders.py"]
    limit = ["--train-rows", str(len(data.train)), "--val-rows", str(len(data.val)), "--weights", weights]
    teachers = (*TEACHERS, "teacher-compiled") if options.compile else TEACHERS
    commands = {name: [*own, name, *limit] for name in STUDENTS}
    commands |= {name: [*own, name, *limit, "--answers", folder / f"{name}.npy"] for name in teachers}
    missing = {}
    rows = write_rows(data, folder / "rows.npz")
    for name in PEERS:
        try:
            if options.no_peers:
                raise RuntimeError("not asked for (--no-peers)")
            commands[name] = [*command(name, progress.say), rows]
        except RuntimeError as error:
            missing[name] = str(error)
    started: dict[str, Contender] = {}
    for name, words in commands.items():
        progress.say(f"starting {name}")
        contender = Contender(words, core=None if options.quick else core_to_pin())
        stack.callback(contender.close)
        started[name] = contender
        if not options.quick:  # a short run starts them all at once
            _warm(name, started, missing)
    for name in list(started) if options.quick else ():
        _warm(name, started, missing)
    return started, missing


def _warm(name: str, started: dict[str, Contender], missing: dict[str, str]) -> None:
    """Wait for a contender. The table can do without other libraries and compilers."""
    try:
        started[name].warm()
    except RuntimeError as error:
        if name not in (*PEERS, "teacher-compiled"):
            raise
        missing[name] = str(error)
        del started[name]


def write_rows(data: Data, path: Path) -> Path:
    """The training rows for those who cannot load them with limbeck."""
    pixels, labels = data.x[data.train].numpy(), data.y[data.train].numpy()
    np.savez(path, x=pixels, y=labels, mean=data.inputs.mean.item(), std=data.inputs.std.item())
    return path


def summary(
    times: dict[str, list[float]], told: dict[str, np.ndarray], ready: dict[str, dict[str, Any]], data: Data
) -> dict[str, Any]:
    """What is written as JSON."""
    plain = torch.from_numpy(told["teacher-plain"])
    soft = {
        name.removeprefix("teacher-"): evaluate.agreement(data.task, torch.from_numpy(logits), plain)
        for name, logits in told.items()
        if name not in ("teacher-plain", "teacher-contiguous")
    }
    # The best teacher is the fastest of those whose soft targets are as good as limbeck asks for.
    good = ["contiguous", *(name for name, found in soft.items() if found["agreement"] >= 0.99 and found["kl"] < 1e-3)]
    best = min((f"teacher-{name}" for name in good), key=lambda name: statistics.median(times[name]))
    bound = [a + b for a, b in zip(times["student"], times[best], strict=True)]
    compared = {
        "cached_over_student": (times["cached"], times["student"]),
        "live_over_bound": (times["live"], bound),
        **{
            f"{key}.{name}": (times[f"teacher-{of}"], times[f"teacher-{name}"])
            for key, of in (("teacher_speedup", "contiguous"), ("teacher_speedup_default_heap", "plain"))
            for name in soft
        },
        **{f"{name}_over_cached": (times[name], times["cached"]) for name in ("plain-loop", *PEERS) if name in times},
    }
    ratios = {name: ratio(*pair) for name, pair in compared.items()}
    return {
        "cached_over_student": ratios["cached_over_student"],
        "live_over_bound": ratios["live_over_bound"],
        "best_teacher": best.removeprefix("teacher-"),
        # Against the harder of the two: eager contiguous float32 in a process that keeps its heap, too.
        **{
            key: {name: ratios[f"{key}.{name}"] for name in soft}
            for key in ("teacher_speedup", "teacher_speedup_default_heap")
        },
        "soft_targets": {name: found | {"rows": len(plain)} for name, found in soft.items()},
        "peers_over_cached": {name: ratios.get(f"{name}_over_cached") for name in (*PEERS, "plain-loop")},
        "quartiles": {name: quartiles(*pair) for name, pair in compared.items()},
        "ms_per_step": {name: statistics.median(values) for name, values in times.items()},
        "ms_per_step_of_rounds": times,
        "start_seconds": {name: said["total_busy_seconds"] for name, said in ready.items()},
        "teacher_dtype": ready["live"]["teacher_dtype"],
        "batch_size": job.BATCH,
        "threads": 1,
        "n": len(times["student"]),
        "rows": len(data.train),
        "hardware": environment(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def show(result: dict[str, Any]) -> str:
    """The table, and the targets below it."""
    ms, cached = result["ms_per_step"], result["ms_per_step"]["cached"]
    lines = [
        [name, f"{value:.2f}", f"{1000 * result['batch_size'] / value:,.0f}", f"{value / cached:.2f}"]
        for name, value in ms.items()
    ]
    text = [table(["", "ms a step", "images/s", "/ cached"], lines), ""]
    fastest = max(result["teacher_speedup"].values())
    found = {name: result[name] for name in AT_MOST} | {"teacher_speedup": fastest}
    for name, value in found.items():
        limit = AT_MOST.get(name, AT_LEAST.get(name))
        met = value <= AT_MOST[name] if name in AT_MOST else value >= AT_LEAST[name]
        sign = "<=" if name in AT_MOST else ">="
        text.append(f"{name:20} {value:6.2f}   target {sign} {limit:.2f}: {'met' if met else 'MISSED'}")
    for name, found in result["soft_targets"].items():
        text.append(
            f"soft targets, {name}: {100 * found['agreement']:.2f} % of {found['rows']:,} rows keep their class, "
            f"mean KL {found['kl']:.1e} nats"
        )
    text += [f"{name}: not measured, {reason}" for name, reason in result["missing"].items()]
    return "\n".join([*text, f"{result['n']} rounds, one thread, {result['hardware']['processor']}, {result['date']}"])


if __name__ == "__main__":
    main()
