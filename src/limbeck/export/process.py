"""Processes of our own that work for this one: how they start, are spoken to, end, and are kept warm."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import selectors
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Hashable, Iterator, Mapping
from typing import IO, Any, Self

import numpy as np

from limbeck.export.interface import Rows

# No accelerator: files are made and run on the processor. OpenVINO and NNCF report to their makers when imported.
_ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "2", "KERAS_BACKEND": "torch",
}  # fmt: skip

Message = tuple[dict[str, Any], Rows | None]


class Child:
    """A process that answers messages, one at a time. Its end is found out at the next message.

    It ends when its pipe is closed, so also when this process ends, in whatever way.

    Args:
        call: Python that the process runs; it gets its messages from `listening`.
        words: its `sys.argv[1:]`.
        warnings: what it does with warnings, as `python -W` takes it.

    Attributes:
        lock: held by the thread that is speaking with it.
        process: as the system knows it.
    """

    def __init__(self, call: str, *words: str, warnings: str) -> None:
        self.lock = threading.Lock()
        self._said, self._words = tempfile.TemporaryFile(), ""  # noqa: SIM115 - it lives as long as the process
        pipe = subprocess.PIPE
        command = [*interpreter(warnings), "-c", call, *words]
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=self._said, env=environment())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def send(self, content: Mapping[str, Any], array: Rows | None = None) -> None:
        """Say something; whether it was heard shows in the answer."""
        assert self.process.stdin is not None
        with contextlib.suppress(OSError, ValueError):  # it has died, or was ended
            send(self.process.stdin, content, array)

    def receive(self) -> Message | None:
        """Wait for its answer; None where it has died."""
        assert self.process.stdout is not None
        with contextlib.suppress(ValueError):  # it was ended
            return receive(self.process.stdout)
        return None

    def answers_within(self, seconds: float) -> bool:
        """Wait for an answer or its death so long at most, and say whether there is one."""
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)  # type: ignore[arg-type]
            return bool(selector.select(seconds))

    def said(self) -> str:
        """What it has said on the side, on stdout and stderr."""
        if not self._said.closed:
            self._said.seek(0)
            self._words = self._said.read().decode(errors="replace")
        return self._words

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self.process.poll() is None

    def end(self) -> None:
        """End it at once: it holds nothing that could be lost."""
        self.process.kill()
        self.process.wait()
        self.said()
        for stream in (self.process.stdin, self.process.stdout, self._said):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()


def interpreter(warnings: str) -> list[str]:
    """How a child of this process is started; -P keeps this folder, where an onnx.py lies, off its path."""
    return [sys.executable, "-P", "-W", warnings]


def environment() -> dict[str, str]:
    """The environment of a child: it sees the modules that this process sees, whatever put them on the path."""
    return {**os.environ, **_ENVIRONMENT, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


def ending(code: int) -> str:
    """How a process ended, in words, from its exit code."""
    if code >= 0:
        return f"its process ended with {code} and gave no reason"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"its process was stopped by {name}" + (" (out of memory?)" if -code == signal.SIGKILL else "")


# --- kept warm -----------------------------------------------------------------------------------

_kept: dict[Hashable, Child] = {}
_blocks = 0
_abandoned = 0
_guard = threading.Lock()


@contextlib.contextmanager
def keeping() -> Iterator[None]:
    """Keep the processes that are started inside for whoever needs one like them, until the outermost block is left."""
    global _blocks
    with _guard:
        _blocks += 1
    try:
        yield
    finally:
        with _guard:
            _blocks -= 1
        if not _blocks:
            abandon()


def abandoned() -> int:
    """How many times work was given up: whoever loses a process meanwhile need not start another."""
    return _abandoned


def abandon() -> None:
    """End every process that is kept, whatever it does."""
    global _abandoned
    with _guard:
        _abandoned += 1
        ended = list(_kept.values())
        _kept.clear()
    for child in ended:
        child.end()


def prepare(key: Hashable, start: Callable[[], Child]) -> Child | None:
    """The process that is kept under `key`, started if there is none; None outside every `keeping` block."""
    with _guard:
        if not _blocks:
            return None
        known = _kept.get(key)
        if known is None or not known.alive:
            if known is not None:
                known.end()
            known = _kept[key] = start()
        return known


@contextlib.contextmanager
def borrowed(key: Hashable, start: Callable[[], Child]) -> Iterator[Child]:
    """A process to speak with: the one kept under `key`, or outside every `keeping` block one for this alone."""
    child = prepare(key, start)
    if child is None:
        with start() as own, own.lock:
            yield own
        return
    with child.lock:
        yield child


def _forget() -> None:
    # A fork must not speak with the processes of its parent. It holds on to them: a Popen that goes away would wait.
    global _guard, _blocks
    _guard, _blocks = threading.Lock(), 0
    _inherited.extend(_kept.values())
    _kept.clear()


_inherited: list[Child] = []
os.register_at_fork(after_in_child=_forget)


# --- several threads -----------------------------------------------------------------------------


class Turns:
    """One thread at a time works in this process; the others wait for processes that work for them."""

    def __init__(self) -> None:
        self._lock, self._own = threading.Lock(), threading.local()

    @contextlib.contextmanager
    def taken(self) -> Iterator[None]:
        """Work here, when it is this thread's turn."""
        with self._lock:
            self._own.holds = True
            try:
                yield
            finally:
                self._own.holds = False

    @contextlib.contextmanager
    def passed(self) -> Iterator[None]:
        """Let others work while this thread waits; nothing happens where it has no turn to pass."""
        if not getattr(self._own, "holds", False):
            yield
            return
        self._own.holds = False
        self._lock.release()
        try:
            yield
        finally:
            self._lock.acquire()
            self._own.holds = True


turns = Turns()


# --- messages ------------------------------------------------------------------------------------


def send(stream: IO[bytes], content: Mapping[str, Any], array: Rows | None = None) -> None:
    """One message: a line of JSON, and the bytes of the array that it announces."""
    shape = None if array is None else [array.dtype.str, list(array.shape)]
    stream.write(json.dumps({**content, "array": shape}).encode() + b"\n")
    if array is not None:
        stream.write(array.tobytes())
    stream.flush()


def receive(stream: IO[bytes]) -> Message | None:
    """One message, or None when the other side is gone."""
    line = stream.readline()
    if not line.endswith(b"\n"):
        return None
    content = json.loads(line)
    announced = content.pop("array")
    if announced is None:
        return content, None
    dtype, shape = np.dtype(announced[0]), tuple(announced[1])
    size = dtype.itemsize * int(np.prod(shape))
    data = stream.read(size)
    return (content, np.frombuffer(data, dtype).reshape(shape)) if len(data) == size else None


# --- inside a child ------------------------------------------------------------------------------


def listening() -> tuple[IO[bytes], Iterator[Message]]:
    """A child's side: where it answers, and the messages that it gets, until its pipe is closed.

    A thread of its own reads them, so that the process ends with its parent also in the middle of its work.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C is the parent's, which ends this process
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is no answer
    no_telemetry()
    heard: queue.SimpleQueue[Message] = queue.SimpleQueue()

    def listen() -> None:
        while (message := receive(sys.stdin.buffer)) is not None:
            heard.put(message)
        os._exit(0)

    threading.Thread(target=listen, daemon=True).start()
    return answers, iter(heard.get, None)


def no_telemetry() -> None:
    """Keep OpenVINO and NNCF from reporting to their makers: without this package they use a stub of it."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
