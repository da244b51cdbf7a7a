"""A file run by its runtime in another process, in which nothing but the runtime is loaded."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from limbeck.core.errors import UserError
from limbeck.core.formats import file_format
from limbeck.export.interface import LARGEST_BATCH, Rows
from limbeck.export.process import Child, ending, prepare, turns


class Served:
    """A file in its runtime in another process, for the length of a `with` block.

    Inside a `warm` block (see `limbeck.export.warm`) the files of one runtime share a process, which stays.

    Args:
        path: the file.
        name: its format, with or without a precision: `litert`, `litert-int8`.
        threads: how many threads one call may use.
        alone: let it have a process of its own, as `peak_mb` wants it.

    Attributes:
        dtype: of the input.
        shape: of one row.
    """

    def __init__(self, path: Path, name: str, *, threads: int = 1, alone: bool = False) -> None:
        self.path, self._form = Path(path), file_format(name).form
        if isinstance(threads, bool) or threads < 1:
            raise UserError(f"{threads} threads cannot compute anything", where=str(path), hint="at least 1")
        self._threads, self._alone = threads, alone
        self._child: Child | None = None
        self._own = False  # whether the process is this file's alone
        self._number = 0
        self.dtype, self.shape = "", tuple[int, ...]()

    def __enter__(self) -> Self:
        start = partial(_start, self._form, self._threads)
        shared = None if self._alone else prepare(("runtime", self._form, self._threads), start)
        self._own = shared is None
        self._child = shared or start()
        try:
            answer, _ = self._ask({"do": "load", "path": str(self.path.absolute())})
        except BaseException:
            self._leave(loaded=False)
            raise
        self._number, self.dtype, self.shape = answer["file"], answer["dtype"], tuple(answer["shape"])
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave(loaded=True)

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

        Raises:
            UserError: the process is not the file's own.
        """
        if not self._own:
            raise UserError("its memory is not measured beside other files", where=str(self.path), hint="alone=True")
        answer, _ = self._ask({"do": "peak"})
        return None if answer["bytes"] is None else float(answer["bytes"]) / 1e6

    def _array(self, do: str, x: Rows, **options: Any) -> Rows:
        _, array = self._ask({"do": do, **options}, np.ascontiguousarray(x))
        assert array is not None
        return array

    def _ask(self, asked: Mapping[str, Any], array: Rows | None = None) -> tuple[dict[str, Any], Rows | None]:
        child = self._child
        if child is None:
            raise UserError("is not being served", where=str(self.path), hint="use it inside its `with` block")
        with turns.passed(), child.lock:
            child.send({**asked, "file": self._number}, array)
            received = child.receive()
        if received is None:
            how = ending(child.process.wait())
            said = child.said().strip().splitlines()[-3:]
            raise UserError("\n    ".join([f"its runtime died: {how}", *said]), where=str(self.path))
        answer, array = received
        if "failed" in answer:
            raise UserError(answer["failed"], where=str(self.path), hint=answer["hint"])
        return answer, array

    def _leave(self, *, loaded: bool) -> None:
        child = self._child
        if child is not None and self._own:
            child.end()
        elif loaded:
            with contextlib.suppress(UserError):  # it has died: the next one who asks gets another
                self._ask({"do": "leave"})
        self._child = None


def _start(form: str, threads: int) -> Child:
    return Child("from limbeck.export.runtime import serve; serve()", form, str(threads), warnings="ignore")


def run(path: Path, name: str, x: Rows, *, threads: int = 1) -> Rows:
    """What a file gives for every row in its own runtime, in another process: [N, ...] -> [N, width].

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
