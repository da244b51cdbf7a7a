"""How long the command line takes to answer: `--help`, and `check` of every bundled recipe.

    python benchmarks/startup.py
    python benchmarks/startup.py --json startup.json

The commands take turns, and who begins changes from round to round; what is printed are medians over the rounds, in
milliseconds from the start of the process to its end. Python reads compiled modules where it has kept them, which is
what pip prepares when it installs. The rows `as installed` may read what is there and keep nothing: where an
environment was made without compiled modules (uv makes none unless told to), every library is compiled at every start.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import pydantic.main
from turns import quartiles, ratio, table

from limbeck import recipe
from limbeck.runtime import environment, write_json

LIMIT_MS = 300  # of --help and of every check


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    names = ["quickstart"] if options.quick else list(recipe.bundled())
    limbeck = [sys.executable, "-m", "limbeck"]
    commands = {
        "python -c pass": [sys.executable, "-c", "pass"],
        "limbeck --help": [*limbeck, "--help"],
        **{f"limbeck check {name}": [*limbeck, "check", name] for name in names},
    }
    installed = {f"{name}, as installed": commands[name] for name in ("limbeck --help", "limbeck check quickstart")}
    with tempfile.TemporaryDirectory() as kept:
        where = {name: {"PYTHONPYCACHEPREFIX": kept} for name in commands}
        where |= {name: {"PYTHONDONTWRITEBYTECODE": "1"} for name in installed}
        times = in_rounds(commands | installed, where, options.rounds or (3 if options.quick else 15))
    medians = {name: statistics.median(found) for name, found in times.items()}
    bare = times["python -c pass"]
    result = {
        "ms": medians,
        "over_bare_python": {name: ratio(found, bare) for name, found in times.items()},
        "within_limit": {name: median < LIMIT_MS for name, median in medians.items()},
        "limit_ms": LIMIT_MS,
        "rounds_ms": times,
        "installed_compiled": Path(importlib.util.cache_from_source(pydantic.main.__file__)).exists(),
        "n": len(bare),
        "hardware": environment(),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": " ".join(["startup.py", *sys.argv[1:]]),
    }
    rows = [
        [
            name,
            f"{medians[name]:.0f}",
            "{:.1f} to {:.1f}".format(*quartiles(found, bare)),
            "" if name == "python -c pass" else "yes" if medians[name] < LIMIT_MS else "NO",
        ]
        for name, found in times.items()
    ]
    print(table(["command", "ms", "times bare Python", f"< {LIMIT_MS} ms"], rows))
    installed_how = "with" if result["installed_compiled"] else "without"
    print(f"medians of {len(bare)} rounds; this environment was installed {installed_how} compiled modules")
    if options.json:
        write_json(options.json, result)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, help="how often each command runs  [default: 15, 3 with --quick]")
    parser.add_argument("--quick", action="store_true", help="three rounds, and of the checks that of quickstart only")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where the result is written")
    return parser.parse_args(arguments)


def in_rounds(
    commands: Mapping[str, Sequence[str]], where: Mapping[str, Mapping[str, str]], rounds: int
) -> dict[str, list[float]]:
    """Milliseconds of every command in every round, after one that is not counted."""
    plain = {k: v for k, v in os.environ.items() if k not in ("PYTHONDONTWRITEBYTECODE", "PYTHONPYCACHEPREFIX")}
    found: dict[str, list[float]] = {name: [] for name in commands}
    names = list(commands)
    for number in range(rounds + 1):
        begin = number % len(names)
        for name in names[begin:] + names[:begin]:
            started = time.monotonic()
            subprocess.run(commands[name], env=plain | where[name], stdout=subprocess.DEVNULL, check=True)
            taken_ms = 1000 * (time.monotonic() - started)
            if number:
                found[name].append(taken_ms)
    return found


if __name__ == "__main__":
    main()
