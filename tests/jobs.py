"""What test_export_elsewhere.py asks of other processes. They import this file, so it imports little."""

from __future__ import annotations

import os
import signal
import sys
import time
import warnings
from pathlib import Path

from limbeck.core.errors import UserError

hoard: list[bytes] = []


def add(first: int, second: int) -> dict[str, object]:
    print("added on stdout")
    os.write(2, b"added on descriptor 2\n")
    return {"sum": first + second, "process": os.getpid(), "telemetry": sys.modules.get("openvino_telemetry", "there")}


def fail(kind: str) -> None:
    if kind == "user":
        raise UserError("the operator 'frob' is unknown", hint="not carried")
    if kind == "exit":
        sys.exit("given up")
    try:
        raise KeyError("the first reason")
    except KeyError as error:
        error.add_note("in layer 'head'")
        raise RuntimeError("advice that nobody wants") from error


def die(number: int) -> None:
    os.write(2, b"about to die\n")
    os.kill(os.getpid(), number)


def no_json() -> object:
    return {1, 2}


def once_only(mark: str, how: str) -> int:
    """Fails in its own way the first time, and gives its process the second."""
    if not Path(mark).exists():
        Path(mark).touch()
        if how == "dies":
            os.kill(os.getpid(), signal.SIGSEGV)
        if how == "sleeps":
            time.sleep(600)
        while how == "works":
            time.sleep(0.01)
            sum(range(100_000))
        hoard.append(b"x" * 400_000_000)
        time.sleep(600)
    return os.getpid()


def keep(size: int) -> int:
    hoard.append(b"x" * size)
    return os.getpid()


def whose() -> int:
    warnings.warn("be careful", UserWarning, stacklevel=1)
    return os.getpid()


def name_of(path: str) -> str:
    return Path(path).read_text()


def wait(mark: str) -> None:
    Path(mark).write_text(str(os.getpid()))
    time.sleep(600)
