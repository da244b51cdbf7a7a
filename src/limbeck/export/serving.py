"""A file run by its runtime in a process of its own, in which nothing else is loaded."""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import numpy as np

from limbeck.errors import UserError
from limbeck.export.elsewhere import ending, environment, interpreter, no_telemetry
from limbeck.export.executorch import session_executorch
from limbeck.export.interface import LARGEST_BATCH, Rows
from limbeck.export.keras import session_keras
from limbeck.export.litert import session_litert
from limbeck.export.onnx import session_onnx
from limbeck.export.openvino import session_openvino
from limbeck.export.places import form_of
from limbeck.export.session import Session

SESSIONS: Mapping[str, Callable[[Path, int], Session]] = {
    "onnx": session_onnx,
    "litert": session_litert,
    "executorch": session_executorch,
    "openvino": session_openvino,
    "keras": session_keras,
}
_RUNTIMES = {
    "onnx": ("onnxruntime",),
    "litert": ("ai_edge_litert.interpreter",),
    "executorch": ("torch", "executorch.extension.pybindings._C"),
    "openvino": ("openvino",),
    "keras": ("torch", "h5py", "keras"),
}


class Served:
    """A file in its runtime in a fresh process, for the length of a `with` block.

    Args:
        path: the file.
        name: its format, with or without a precision: `litert`, `litert-int8`.
        threads: how many threads one call may use.

    Attributes:
        dtype: of the input.
        shape: of one row.
    """

    def __init__(self, path: Path, name: str, *, threads: int = 1) -> None:
        self.path, self._form = Path(path), form_of(name)
        if isinstance(threads, bool) or threads < 1:
            raise UserError(f"{threads} threads cannot compute anything", where=str(path), hint="at least 1")
        self._threads = threads
        self._process: subprocess.Popen[bytes] | None = None
        self.dtype, self.shape = "", tuple[int, ...]()

    def __enter__(self) -> Self:
        self._said = tempfile.TemporaryFile()  # closed when the block is left
        call = f"from {__name__} import serve; serve()"
        command = [*interpreter("ignore"), "-c", call, str(self.path), self._form, str(self._threads)]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=self._said, env=environment())
        try:
            told, _ = self._answer()
        except BaseException:
            self._end()
            raise
        self.dtype, self.shape = told["dtype"], tuple(told["shape"])
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def predict(self, x: Rows) -> Rows:
        """What the file gives for every row: [N, ...] -> [N, width]. Rows go to it in batches of 64.

        Raises:
            UserError: the rows do not fit the file, or its runtime fails or dies.
        """
        starts = range(0, max(len(x), 1), LARGEST_BATCH)
        return np.concatenate([self._array("predict", x[start : start + LARGEST_BATCH]) for start in starts])

    def time(self, x: Rows, calls: int = 1) -> list[float]:
        """How long each of some calls takes, one after the other, in milliseconds, measured inside the process.

        The first of them finds cold caches, for the process has slept; ask for several and leave it out where that
        matters.

        Args:
            x: the rows of every call, at most 64.
            calls: how many.

        Raises:
            UserError: the rows do not fit the file, or its runtime fails or dies.
        """
        if not 1 <= len(x) <= LARGEST_BATCH or calls < 1:
            raise UserError(f"{calls} calls of {len(x)} rows cannot be timed", where=str(self.path))
        return [float(ms) for ms in self._array("time", x, calls=calls)]

    @property
    def peak_mb(self) -> float | None:
        """What the process has taken at its peak, above the runtime with nothing loaded, in MB (10^6 bytes).

        None where the system does not tell.
        """
        told, _ = self._ask({"do": "peak"})
        return None if told["bytes"] is None else float(told["bytes"]) / 1e6

    def _array(self, do: str, x: Rows, **options: Any) -> Rows:
        _, array = self._ask({"do": do, **options}, np.ascontiguousarray(x))
        assert array is not None
        return array

    def _ask(self, asked: Mapping[str, Any], array: Rows | None = None) -> tuple[dict[str, Any], Rows | None]:
        if self._process is None or self._process.stdin is None:
            raise UserError("is not being served", where=str(self.path), hint="use it inside its `with` block")
        with contextlib.suppress(OSError):  # it has died; the answer says how
            _send(self._process.stdin, asked, array)
        return self._answer()

    def _answer(self) -> tuple[dict[str, Any], Rows | None]:
        assert self._process is not None
        assert self._process.stdout is not None
        received = _receive(self._process.stdout)
        if received is None:
            how = ending(self._process.wait())
            self._said.seek(0)
            said = self._said.read().decode(errors="replace").strip().splitlines()[-3:]
            raise UserError("\n    ".join([f"its runtime died: {how}", *said]), where=str(self.path))
        told, array = received
        if "failed" in told:
            raise UserError(told["failed"], where=str(self.path), hint=told["hint"])
        return told, array

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()  # it holds nothing that could be lost
        process.wait()
        for stream in (process.stdin, process.stdout, self._said):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()


def run(path: Path, name: str, x: Rows, *, threads: int = 1) -> Rows:
    """What a file gives for every row in its own runtime, in a fresh process: [N, ...] -> [N, width].

    Args:
        path: the file.
        name: its format, with or without a precision.
        x: rows as the file takes them.
        threads: how many threads one call may use.

    Raises:
        UserError: the file cannot be loaded, or the rows do not fit it.
    """
    with Served(path, name, threads=threads) as served:
        return served.predict(x)


# --- between the processes -----------------------------------------------------------------------


def _send(stream: IO[bytes], told: Mapping[str, Any], array: Rows | None = None) -> None:
    """One message: a line of JSON, and the bytes of the array that it announces."""
    shape = None if array is None else [array.dtype.str, list(array.shape)]
    stream.write(json.dumps({**told, "array": shape}).encode() + b"\n")
    if array is not None:
        stream.write(array.tobytes())
    stream.flush()


def _receive(stream: IO[bytes]) -> tuple[dict[str, Any], Rows | None] | None:
    """One message, or None when the other side is gone."""
    line = stream.readline()
    if not line.endswith(b"\n"):
        return None
    told = json.loads(line)
    announced = told.pop("array")
    if announced is None:
        return told, None
    dtype, shape = np.dtype(announced[0]), tuple(announced[1])
    size = dtype.itemsize * int(np.prod(shape))
    content = stream.read(size)
    return (told, np.frombuffer(content, dtype).reshape(shape)) if len(content) == size else None


# --- inside the process --------------------------------------------------------------------------


def serve() -> None:
    """The child's side of `Served`: loads the file, then answers until the pipe is closed."""
    path, form, threads = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C is the parent's, which ends this process
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a runtime prints is no answer
    asked = sys.stdin.buffer
    no_telemetry()
    with contextlib.suppress(ImportError):  # the session says it better
        for module in _RUNTIMES[form]:
            importlib.import_module(module)
    empty = _peak_bytes(reset=True)
    try:
        session = SESSIONS[form](path, threads)
        _send(answers, {"dtype": session.dtype, "shape": session.shape})
    except Exception as error:
        _send(answers, _failure(error))
        return
    gc.disable()
    while (received := _receive(asked)) is not None:
        told, rows = received
        try:
            if rows is None:
                peak = _peak_bytes()
                _send(answers, {"bytes": None if peak is None or empty is None else peak - empty})
            elif told["do"] == "time":
                _send(answers, {}, _timed(session, rows, told["calls"]))
            else:
                _send(answers, {}, session(rows))
        except Exception as error:
            _send(answers, _failure(error))


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
