"""How long commands take that compute next to nothing: help, `check`, `report`, `predict`, a fault found by `doctor`.

    python benchmarks/startup.py
    python benchmarks/startup.py --run runs/quickstart --json startup.json

What is counted is CPU time, of a command and the processes it starts, so that a busy machine does not matter; what is
printed are medians over the rounds, in which the commands take turns. Each is held to a budget: one that is over it is
marked, and the benchmark then ends with 1.

Python reads compiled modules where it has kept them, which is what pip prepares when it installs. The rows `nothing
kept` may read what is there and keep nothing: where an environment was made without compiled modules (uv makes none
unless told to), every library is compiled at every start. No budget is theirs.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pydantic.main
from PIL import Image
from turns import quartiles, ratio, table

from limbeck import recipe
from limbeck.core.files import write_json, write_text
from limbeck.core.machine import environment

BARE = "python -c pass"
KEPT, NOTHING_KEPT = "", ", nothing kept"
BROKEN = """
data: {source: table, path: rows.csv, target: prize}
teachers: [{model: mlp, train: {}}]
student: {model: mlp}
losses: {hard: 0.1, kd: 0.9}
"""


class Command(NamedTuple):
    """A command, how many CPU seconds it may take, and what it ends with."""

    words: Sequence[str]
    budget_s: float | None = None
    code: int = 0


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run = options.run.absolute() if options.run else made(folder / "run")
        commands = listed(folder, run, ["quickstart"] if options.quick else list(recipe.bundled()))
        seconds = in_rounds(commands, folder, options.rounds or (3 if options.quick else 15))
    medians = {command: statistics.median(found) for command, found in seconds.items()}
    bare = seconds[BARE]
    budgets = {name: command.budget_s for name, command in commands.items() if command.budget_s}
    over = [name for name, budget_s in budgets.items() if medians[name] > budget_s]
    result = {
        "cpu_s": medians,
        "over_bare_python": {command: ratio(found, bare) for command, found in seconds.items()},
        "budget_s": budgets,
        "over_budget": over,
        "rounds_s": seconds,
        "installed_compiled": Path(importlib.util.cache_from_source(pydantic.main.__file__)).exists(),
        "n": len(bare),
        "hardware": environment(),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": " ".join(["startup.py", *sys.argv[1:]]),
    }
    rows = [
        [
            command,
            f"{medians[command]:.3f}",
            "{:.1f} to {:.1f}".format(*quartiles(found, bare)),
            f"{budgets[command]} {'NO' if command in over else 'yes'}" if command in budgets else "",
        ]
        for command, found in seconds.items()
    ]
    print(table(["command", "CPU s", "times bare Python", "budget, s"], rows))
    how = "with" if result["installed_compiled"] else "without"
    print(f"medians of {len(bare)} rounds; this environment was installed {how} compiled modules")
    if options.json:
        write_json(options.json, result)
    if over:
        sys.exit(f"over their budget: {', '.join(over)}")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--run", type=Path, metavar="DIR", help="a finished run of quickstart  [default: a short one is made]"
    )
    parser.add_argument("--rounds", type=int, help="how often each command runs  [default: 15, 3 with --quick]")
    parser.add_argument("--quick", action="store_true", help="three rounds, and of the checks that of quickstart only")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where the result is written")
    return parser.parse_args(arguments)


def made(folder: Path) -> Path:
    """A finished run with a file for each of two runtimes, of networks that have hardly been trained."""
    short = ["seeds=1", "teachers.0.train.epochs=1", "student.train.epochs=1", "export=[onnx, litert]"]
    command = [sys.executable, "-m", "limbeck", "run", "quickstart", *short, "--out", str(folder), "--quiet"]
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    return folder


def listed(folder: Path, run: Path, names: Sequence[str]) -> dict[str, Command]:
    """The commands by what they are called; what they read is written to a folder."""
    image = np.arange(64, dtype=np.uint8).reshape(8, 8)
    Image.fromarray(image).save(folder / "image.png")
    write_text(folder / "rows.csv", "size,price\n1,2\n")
    write_text(folder / "broken.yaml", BROKEN)
    files = {path.suffix: str(path) for path in (run / "export").iterdir()}
    limbeck = [sys.executable, "-m", "limbeck"]
    return {
        BARE: Command([sys.executable, "-c", "pass"]),
        "limbeck --help": Command([*limbeck, "--help"], 0.1),
        **{f"limbeck check {name}": Command([*limbeck, "check", name], 0.3) for name in names},
        "limbeck doctor, a mistyped column": Command([*limbeck, "doctor", "broken.yaml"], 0.3, code=2),
        "limbeck report": Command([*limbeck, "report", str(run)], 1.0),
        "limbeck predict, ONNX": Command([*limbeck, "predict", files[".onnx"], "image.png"], 1.0),
        "limbeck predict, LiteRT": Command([*limbeck, "predict", files[".tflite"], "image.png"], 1.0),
    }


def in_rounds(commands: Mapping[str, Command], folder: Path, rounds: int) -> dict[str, list[float]]:
    """CPU seconds of every command in every round, after one that is not counted; who begins changes."""
    plain = {k: v for k, v in os.environ.items() if k not in ("PYTHONDONTWRITEBYTECODE", "PYTHONPYCACHEPREFIX")}
    ways = {
        KEPT: {"PYTHONPYCACHEPREFIX": str(folder / "kept")},
        NOTHING_KEPT: {"PYTHONDONTWRITEBYTECODE": "1"},
    }
    turns = [(name, way) for way in ways for name in commands if way == KEPT or not name.startswith("limbeck check")]
    turns += [(name, NOTHING_KEPT) for name in commands if name == "limbeck check quickstart"]
    found: dict[str, list[float]] = {f"{name}{way}": [] for name, way in turns}
    for number in range(rounds + 1):
        begin = number % len(turns)
        for name, way in turns[begin:] + turns[:begin]:
            taken = cpu_s(commands[name], plain | ways[way], folder)
            if number:
                found[f"{name}{way}"].append(taken)
    return found


def cpu_s(command: Command, env: Mapping[str, str], folder: Path) -> float:
    """CPU seconds of a command and all that it starts."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command.words, env=env, cwd=folder, capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode != command.code:
        sys.exit(f"{' '.join(command.words)} ended with {done.returncode}: {done.stderr}")
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    main()
