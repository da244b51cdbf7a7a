"""Contenders that take turns: each is a process of its own, pinned to the same core, and only one of them ever works.

A contender is an ordinary training loop that calls `Turns.step()` before every step. There it waits until it is given
a block of steps, and what it reports is the time that passed from one such call to the next: the whole step, with its
batch, its loop and its callbacks. Only the standard library is used, for peers run in environments of their own.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
WARM_UP = 3  # steps before the first block: compilation, first allocations
ONE_THREAD = {
    **{f"{name}_NUM_THREADS": "1" for name in ("OMP", "MKL", "OPENBLAS", "NUMEXPR")},
    "TF_NUM_INTRAOP_THREADS": "1",
    "TF_NUM_INTEROP_THREADS": "1",
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "CUDA_VISIBLE_DEVICES": "",
    "JAX_PLATFORMS": "cpu",
}


# --- in the contender's process ------------------------------------------------------------------


class Turns:
    """What a contender's loop calls. Ends the process, from within `step`, when nobody asks any more.

    Args:
        warm_up: steps taken before the first block.
        sync: waits until everything asked for so far is done, where steps are dispatched asynchronously.
    """

    def __init__(self, *, warm_up: int = WARM_UP, sync: Callable[[], object] | None = None) -> None:
        self.started = float(os.environ.get("TURNS_STARTED") or time.monotonic())
        self.left, self.sync, self.info = warm_up, sync, {}
        self.waited = 0.0
        self.until_epoch = False
        self.steps, self.seconds, self.busy_before = 0, 0.0, 0.0
        self.mark = time.monotonic()
        # Libraries may print; only what is written here is an answer.
        self.out = os.fdopen(os.dup(1), "w", buffering=1)
        os.dup2(2, 1)

    def busy(self) -> float:
        """Seconds since this process was started, without those spent waiting for a turn."""
        return time.monotonic() - self.started - self.waited

    def step(self, *, first: bool = False) -> None:
        """Called before every step; `first` says that it is the first of an epoch.

        The time before such a call is no step's: it holds the validation, too. It counts for the epoch only.
        """
        now = time.monotonic()
        if not first:
            self.steps, self.seconds, self.left = self.steps + 1, self.seconds + now - self.mark, self.left - 1
        over = (first and self.steps > 0) if self.until_epoch else self.left <= 0
        if over:
            if self.sync:
                self.sync()
                self.seconds += time.monotonic() - now
            self._wait()
        self.mark = time.monotonic()

    def finish(self) -> None:
        """Called after the last step of all."""
        self._wait()

    def _wait(self) -> None:
        """Say what was done, then wait for the next block."""
        import resource

        now, busy = time.monotonic(), self.busy()
        answer = {
            "steps": self.steps,
            "seconds": self.seconds,
            "busy_seconds": busy - self.busy_before,
            "total_busy_seconds": busy,
            "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        }
        self.out.write(json.dumps(answer | self.info) + "\n")
        asked = sys.stdin.readline().strip()
        self.waited += time.monotonic() - now
        if not asked:
            raise SystemExit(0)
        self.until_epoch = asked == "epoch"
        self.left = 0 if self.until_epoch else int(asked)
        self.steps, self.seconds, self.busy_before = 0, 0.0, busy


# --- in the benchmark's process ------------------------------------------------------------------


class Contender:
    """A contender's process, from the moment it is started.

    Attributes:
        ready: what it said when it was warmed up: `total_busy_seconds` is what it took from its start on.
    """

    ready: dict[str, Any]

    def __init__(self, command: Sequence[str | Path], *, core: int | None = None, **environment: str) -> None:
        paths = os.pathsep.join(filter(None, [str(HERE), os.environ.get("PYTHONPATH")]))
        env = {**os.environ, **ONE_THREAD, **environment, "PYTHONPATH": paths}
        env["TURNS_STARTED"] = repr(time.monotonic())
        self.log = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
        pin = (lambda: os.sched_setaffinity(0, {core})) if core is not None else None
        self.process = subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            env=env,
            text=True,
            bufsize=1,
            preexec_fn=pin,
        )

    def warm(self) -> Contender:
        """Wait until it has taken its first steps and waits itself.

        Raises:
            RuntimeError: it ended instead, with the last line it wrote.
        """
        self.ready = self._answer()
        return self

    def block(self, steps: int | str) -> dict[str, Any]:
        """Let it take that many steps, or those up to the end of its "epoch"."""
        assert self.process.stdin
        self.process.stdin.write(f"{steps}\n")
        return self._answer()

    def close(self) -> None:
        """Send it home."""
        if self.process.stdin:
            self.process.stdin.close()
        try:
            self.process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        if self.process.stdout:
            self.process.stdout.close()
        self.log.close()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout
        line = self.process.stdout.readline()
        if line:
            return dict(json.loads(line))
        self.process.wait()
        self.log.seek(0)
        said = self.log.read().decode(errors="replace").strip().splitlines()
        self.close()
        raise RuntimeError(said[-1] if said else f"it ended with {self.process.returncode}")


def core_to_pin() -> int | None:
    """The core that every contender is pinned to, or None where that cannot be done."""
    return max(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None


def in_rounds(
    contenders: Mapping[str, Contender], rounds: int, seconds: float, say: Callable[[str], None]
) -> dict[str, list[float]]:
    """Milliseconds per step of every contender in every round.

    Each round every contender gets one block of about `seconds`; who begins moves on by one from round to round.
    """
    steps = {}
    for name, contender in contenders.items():
        tried = contender.block(3)
        steps[name] = max(2, round(seconds * tried["steps"] / tried["seconds"]))
    found: dict[str, list[float]] = {name: [] for name in contenders}
    names = list(contenders)
    for number in range(rounds):
        begin = number % len(names)
        for name in names[begin:] + names[:begin]:
            answer = contenders[name].block(steps[name])
            found[name].append(1000 * answer["seconds"] / answer["steps"])
        say(f"round {number + 1} of {rounds}")
    return found


def ratio(above: Sequence[float], below: Sequence[float]) -> float:
    """The median of the rounds' ratios: what disturbs a round disturbs both sides of it."""
    return statistics.median(a / b for a, b in zip(above, below, strict=True))


def quartiles(above: Sequence[float], below: Sequence[float]) -> list[float]:
    """Between which two numbers the middle half of the rounds' ratios lies."""
    ratios = [a / b for a, b in zip(above, below, strict=True)]
    if len(ratios) < 2:
        return [ratios[0], ratios[0]]
    low, _, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return [low, high]


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns under their heads, the first to the left and the others to the right."""
    lines = [heads, *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(heads))]
    return "\n".join(
        "  ".join(
            cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    )
