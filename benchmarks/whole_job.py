"""What a whole distillation costs: mnist-distiller's student, from its trained teacher to its last epoch.

    python benchmarks/whole_job.py                     about ten minutes: the common loop's three epochs take six
    python benchmarks/whole_job.py --no-peers --quick
    python benchmarks/whole_job.py --memory --json job.json

Limbeck asks the teacher about all 54,000 rows once and then trains for three epochs from what is stored; the common
loop (plain_loop.py) asks it in every step. Both validate after every epoch. Nothing is extrapolated for these two: they
run whole, epoch about epoch, on one thread of the same core, with an empty store. The peers' jobs are too long for
that: for them it is measured how long they take to start and what their steps cost, in blocks between the epochs, and
their whole job is the sum.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import mnist_distiller as job
import torch
from distill_step import write_rows
from peers.environments import PEERS, command
from turns import HERE, ONE_THREAD, WARM_UP, Contender, core_to_pin, table

from limbeck.core.files import write_json
from limbeck.core.machine import environment, keep_heap
from limbeck.core.progress import Progress


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    torch.set_num_threads(1)
    keep_heap()
    progress = Progress(quiet=options.quiet)
    rows, val = (640, 128) if options.quick else (None, None)
    data = job.load_data(rows, val)
    weights = job.trained_teacher(data, progress)
    epochs = options.epochs or (2 if options.quick else 3)
    steps = epochs * -(-len(data.train) // job.BATCH)
    core, missing = core_to_pin(), {}
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        limit = ["--train-rows", str(len(data.train)), "--val-rows", str(len(data.val)), "--epochs", str(epochs)]
        started: dict[str, Contender] = {}
        for who, what in (("limbeck", "cached"), ("plain-loop", "plain-loop")):
            progress.say(f"starting {who}")
            words = [sys.executable, HERE / "contenders.py", what, "--weights", weights, *limit]
            # A store of its own: nothing may have been labelled before.
            started[who] = Contender([*words, "--folder", folder / who], core=core, LIMBECK_CACHE=str(folder / "store"))
            stack.callback(started[who].close)
            started[who].warm()
        others: dict[str, Contender] = {}
        file = write_rows(data, folder / "rows.npz")
        for peer in PEERS:
            try:
                if options.no_peers:
                    raise RuntimeError("not asked for (--no-peers)")
                words = [*command(peer, progress.say), file]
                progress.say(f"starting {peer}")
                contender = Contender(words, core=core)
                stack.callback(contender.close)
                others[peer] = contender.warm()
            except RuntimeError as error:
                missing[peer] = str(error)
        answers, times = race(started, others, epochs, options.seconds or 3.0, progress)
        result = summary(answers, times, started, others, steps)
    result |= {"epochs": epochs, "rows": len(data.train), "steps": steps, "missing": missing}
    if options.memory:
        result["command_peak_bytes"] = peak_of_command(options.quick, progress)
    if options.json:
        write_json(options.json, result)
    print(show(result))


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything that was measured to FILE")
    parser.add_argument("--epochs", type=int, help="of the student (default 3, as the recipe says, or 2 with --quick)")
    parser.add_argument("--seconds", type=float, help="how long a peer's block after each epoch is (default 3)")
    parser.add_argument("--quick", action="store_true", help="640 rows only: a small job, which favours nobody's cache")
    parser.add_argument("--no-peers", action="store_true", help="install and run no other library")
    parser.add_argument(
        "--memory", action="store_true", help="also the peak memory of the whole command, teacher and all"
    )
    parser.add_argument("--quiet", action="store_true", help="print the table only")
    return parser.parse_args(arguments)


def race(
    started: dict[str, Contender], others: dict[str, Contender], epochs: int, seconds: float, progress: Progress
) -> tuple[dict[str, list[dict[str, Any]]], dict[str, list[float]]]:
    """Epoch about epoch, and a block of every peer's after each; peers give milliseconds per step."""
    answers: dict[str, list[dict[str, Any]]] = {name: [] for name in started}
    times: dict[str, list[float]] = {name: [] for name in others}
    for epoch in range(epochs):
        for name in list(started)[:: -1 if epoch % 2 else 1]:
            answers[name].append(started[name].block("epoch"))
            progress.say(f"{name}: epoch {epoch + 1} of {epochs}, {answers[name][-1]['busy_seconds']:.1f} s")
        for name, contender in others.items():
            tried = contender.block(3)
            found = contender.block(max(2, round(seconds * tried["steps"] / tried["seconds"])))
            times[name].append(1000 * found["seconds"] / found["steps"])
    return answers, times


def summary(
    answers: dict[str, list[dict[str, Any]]],
    times: dict[str, list[float]],
    started: dict[str, Contender],
    others: dict[str, Contender],
    steps: int,
) -> dict[str, Any]:
    """What is written as JSON."""
    last = {name: said[-1] for name, said in answers.items()}
    stage = {name: said["total_busy_seconds"] - said["before_stage_seconds"] for name, said in last.items()}
    of_epochs = {name: [1000 * a["seconds"] / a["steps"] for a in said] for name, said in answers.items()}
    pairs = zip(of_epochs["plain-loop"], of_epochs["limbeck"], strict=True)
    ms = {name: statistics.median(values) for name, values in (of_epochs | times).items()}
    start = {name: contender.ready["total_busy_seconds"] for name, contender in others.items()}
    whole = {name: said["total_busy_seconds"] for name, said in last.items()}
    whole |= {name: start[name] + (steps - WARM_UP) * ms[name] / 1000 for name in others}
    return {
        "whole_job_speedup": stage["plain-loop"] / stage["limbeck"],
        "per_step_speedup": statistics.median(plain / own for plain, own in pairs),
        "process_speedup": {name: whole[name] / whole["limbeck"] for name in whole if name != "limbeck"},
        "stage_seconds": stage,
        "label_seconds": last["limbeck"]["label_seconds"],
        "epoch_seconds": {name: [a["busy_seconds"] for a in said] for name, said in answers.items()},
        "process_seconds": whole,
        "extrapolated": {name: {"start_seconds": start[name], "ms_per_step": ms[name]} for name in others},
        "ms_per_step": ms,
        "val_accuracy": {name: said["val_accuracy"] for name, said in last.items()},
        "teacher_dtype": last["limbeck"]["teacher_dtype"],
        "peak_bytes": {name: said["peak_bytes"] for name, said in last.items()},
        "n": 1,
        "threads": 1,
        "hardware": environment(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def peak_of_command(quick: bool, progress: Progress) -> int:
    """Peak resident memory, in bytes, of `limbeck run mnist-distiller` with one seed and epochs of one each.

    It does not depend on how many epochs and seeds there are.
    """
    progress.say("limbeck run mnist-distiller, for its memory")
    with tempfile.TemporaryDirectory() as name:
        words = ["run", "mnist-distiller", "data.source=fashion-mnist", "seeds=1", "run.threads=1", "export=[]"]
        words += ["teachers.0.train.epochs=1", "student.train.epochs=1", *(["data.limit=2000"] if quick else [])]
        process = subprocess.Popen(
            [sys.executable, "-m", "limbeck", *words, "--out", str(Path(name, "run"))],
            env={**os.environ, **ONE_THREAD, "LIMBECK_CACHE": name},
            stdout=subprocess.DEVNULL,
        )
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"limbeck run failed with {process.returncode}")
    return used.ru_maxrss * 1024


def show(result: dict[str, Any]) -> str:
    """The table, and the targets below it."""
    own = result["process_seconds"]["limbeck"]
    lines = []
    for name, seconds in result["process_seconds"].items():
        stage = result["stage_seconds"].get(name)
        cells = [f"{result['ms_per_step'][name]:.2f}", f"{stage:.1f}" if stage else "", f"{seconds:.1f}"]
        lines.append([name, *cells, f"{seconds / own:.2f}", "" if stage else "extrapolated"])
    lines.sort(key=lambda line: float(line[3]))
    ran = f"{result['epochs']} epochs of {result['rows']:,} rows, {result['steps']:,} steps, run once"
    text = [table(["", "ms a step", "stage s", "process s", "/ limbeck", ""], lines), ""]
    for name, least in (("whole_job_speedup", 5.0), ("per_step_speedup", 10.0)):
        value = result[name]
        text.append(f"{name:20} {value:6.2f}   target >= {least:.0f}: {'met' if value >= least else 'MISSED'}")
    label = (
        f"{result['label_seconds']:.1f} s of limbeck's stage are the asking of the teacher ({result['teacher_dtype']})"
    )
    accuracy = ", ".join(f"{name} {value:.4f}" for name, value in result["val_accuracy"].items())
    peak = {"limbeck": result["peak_bytes"]["limbeck"], "the whole command": result.get("command_peak_bytes")}
    text += [label, f"validation accuracy: {accuracy}"]
    text += [f"peak memory, {name}: {value / 1e9:.2f} GB, target < 1.5" for name, value in peak.items() if value]
    text += [f"{name}: not measured, {reason}" for name, reason in result["missing"].items()]
    return "\n".join([*text, f"{ran}, one thread, {result['hardware']['processor']}, {result['date']}"])


if __name__ == "__main__":
    main()
