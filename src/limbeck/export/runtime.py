"""The process that holds a runtime and its files; `Served` is what speaks with it."""

from __future__ import annotations

import contextlib
import gc
import importlib
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from limbeck.core.errors import UserError
from limbeck.core.formats import FORMATS
from limbeck.export.formats import converter
from limbeck.export.interface import Rows
from limbeck.export.process import listening, send
from limbeck.export.session import Session


def session(form: str, path: Path, threads: int) -> Session:
    """A file that is run in this process; see `Served` for one of its own.

    Raises:
        UserError: its runtime is missing, or cannot load it.
    """
    opened: Session = getattr(converter(form), f"session_{form}")(path, threads)
    return opened


def serve() -> None:
    """Load files and answer for them: the form and the threads are the words this process was started with."""
    form, threads = sys.argv[1], int(sys.argv[2])
    answers, messages = listening()
    with contextlib.suppress(ImportError):  # the session says it better
        for module in FORMATS[form].runs:
            importlib.import_module(module)
    empty = _peak_bytes(reset=True)
    files: dict[int, Session] = {}
    for count, (message, rows) in enumerate(messages):
        try:
            if message["do"] == "load":
                gc.enable()
                gc.collect()
                files[count] = session(form, Path(message["path"]), threads)
                gc.disable()  # it would be timed
                send(answers, {"file": count, "dtype": files[count].dtype, "shape": files[count].shape})
            elif message["do"] == "leave":
                del files[message["file"]]
                send(answers, {})
            elif message["do"] == "peak":
                peak = _peak_bytes()
                send(answers, {"bytes": None if peak is None or empty is None else peak - empty})
            else:
                send(answers, {}, _given(files[message["file"]], message, rows))
        except Exception as error:
            send(answers, _failure(error))


def _given(session: Session, message: Mapping[str, Any], rows: Rows | None) -> Rows:
    assert rows is not None
    return _timed(session, rows, message["calls"]) if message["do"] == "time" else session(rows)


def _timed(session: Session, rows: Rows, calls: int) -> Rows:
    taken = []
    for _ in range(calls):
        begun = time.perf_counter_ns()
        session(rows)
        taken.append((time.perf_counter_ns() - begun) / 1e6)
    return np.array(taken)


def _failure(error: Exception) -> dict[str, Any]:
    if isinstance(error, UserError):
        return {"failed": error.what, "hint": error.hint}
    return {"failed": f"its runtime fails ({type(error).__name__}: {error})", "hint": None}


def _peak_bytes(*, reset: bool = False) -> int | None:
    """The most memory this process has had at once, since the last reset; None where the system does not tell."""
    # Not getrusage, which begins with what the parent had when it started this process.
    try:
        if reset:
            with contextlib.suppress(OSError):
                Path("/proc/self/clear_refs").write_text("5")
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), None)
