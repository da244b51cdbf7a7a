"""Converters in processes of their own, one for each family of libraries: they clash, stay in memory and print.

A process takes seconds to import such a family, so inside a `warm` block it stays and does one job after another.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import sys
import time
import traceback
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from limbeck.core.errors import UserError
from limbeck.core.formats import FORMATS, file_format
from limbeck.export.logs import cause
from limbeck.export.process import Child, abandoned, borrowed, ending, keeping, listening, prepare, send, turns


@dataclass(frozen=True, slots=True)
class Limits:
    """When a converter is taken to have lost its way.

    Attributes:
        idle_seconds: how long it may do nothing at all.
        seconds: how long one job may take.
        share: of the machine's memory that it may take.
        grown_bytes: what a process may have more after a job than before its first; it is replaced then.
    """

    idle_seconds: float = 300.0
    seconds: float = 7200.0
    share: float = 0.8
    grown_bytes: int = 2_000_000_000


LIMITS = Limits()


@contextlib.contextmanager
def warm(names: Iterable[str] = ()) -> Iterator[None]:
    """Keep converters and runtimes in memory from one file to the next, until the block is left.

    Args:
        names: of formats, with or without a precision (`litert-int8`), whose libraries are imported in the background
            from now on; those of others when they are first needed. Each is a process of up to 1.5 GB.
    """
    wanted: dict[str, list[str]] = {}
    for name in names:
        form = file_format(name).form
        if FORMATS[form].imports:
            modules = wanted.setdefault(form, list(FORMATS[form].imports))
            modules += [] if name == form else [tool for tool in FORMATS[form].quantizer_imports if tool not in modules]
    with keeping():
        for family, modules in wanted.items():
            prepare(("converter", family), partial(_start, modules))
        yield


def elsewhere(
    task: str,
    arguments: Mapping[str, Any],
    *,
    family: str,
    log: Path,
    doing: str,
    where: str,
    limits: Limits | None = None,
) -> Any:
    """Call `module:function` with keyword arguments in the process of a family, and give back what it gives.

    A process that dies, hangs or takes too much memory is replaced, and the job is tried once more in a new one.

    Args:
        task: dotted module and function, as `limbeck.export.formats.onnx.convert:lower`.
        arguments: what JSON can hold; data goes by the paths of files.
        family: of the libraries that it uses: a format, whose process does all such jobs inside a `warm` block.
        log: gets everything the process says of it, after what already stands in it.
        doing: what cannot be done if this fails, for the message: "the model cannot be exported to ONNX".
        where: what it was done for, for the message: the path of the file being made.
        limits: when to give a process up.

    Returns:
        What the function gives, by way of JSON.

    Raises:
        UserError: it failed; the message says why, or which signal ended it, and where the log is.
    """
    order = {"task": task, "arguments": dict(arguments), "log": str(log.absolute()), "folder": _here()}
    start = partial(_start, ())  # a job imports what it needs, which for some is little
    answer: dict[str, Any] = {}
    before = abandoned()
    with turns.passed():
        for last in (False, True):
            with borrowed(("converter", family), start) as child:
                answer = _answer(child, order, limits or LIMITS)
                if "lost" not in answer or abandoned() != before:
                    break
                _note(log, child.said(), answer["lost"], last=last)
    failed = answer.get("lost") or answer.get("failed")
    if failed:
        raise UserError(f"{doing}: {failed}", where=where, hint=f"everything the converter said is in {log}")
    return answer["gives"]


def _start(modules: Iterable[str]) -> Child:
    return Child(f"from {__name__} import work; work()", *modules, warnings="default")


def _here() -> str | None:
    with contextlib.suppress(OSError):  # somebody removed it
        return str(Path.cwd())
    return None


def _answer(child: Child, order: Mapping[str, Any], limits: Limits) -> dict[str, Any]:
    """What a process gives; `lost` says how it was lost, in words. One that is lost or has grown is ended."""
    child.send(order)
    if lost := _lost(child, limits):
        child.end()
        return {"lost": lost}
    message = child.receive()
    if message is None:
        return {"lost": ending(child.process.wait())}
    answer = message[0]
    if answer["bytes"] - answer["born"] > limits.grown_bytes:
        child.end()
    return answer


def _lost(child: Child, limits: Limits) -> str | None:
    """Wait for an answer, or for a reason to give the process up."""
    import psutil

    begun = busy = time.monotonic()
    spent, most = 0.0, limits.share * psutil.virtual_memory().total
    while not child.answers_within(0.5):
        now = time.monotonic()
        with contextlib.suppress(psutil.Error):
            family = [psutil.Process(child.process.pid)]
            family += family[0].children(recursive=True)
            used = sum(sum(one.cpu_times()[:2]) for one in family)
            spent, busy = (used, now) if abs(used - spent) > 0.01 else (spent, busy)
            if (taken := sum(one.memory_info().rss for one in family)) > most:
                return f"its process took {taken / 1e9:.1f} GB of this machine's memory and was stopped"
        if now - busy > limits.idle_seconds:
            return f"its process did nothing for {limits.idle_seconds:g} s and was stopped"
        if now - begun > limits.seconds:
            return f"its process was not done after {limits.seconds:g} s and was stopped"
    return None


def _note(log: Path, said: str, lost: str, *, last: bool) -> None:
    with log.open("a", encoding="utf-8") as stream:
        stream.write(said + f"\nlimbeck: {lost}{'' if last else '; trying once more in a new one'}\n")


# --- inside the process --------------------------------------------------------------------------


def work() -> None:
    """The child's side of `elsewhere`: imports what it will need, and does what the orders say."""
    import psutil

    answers, orders = listening()
    for module in sys.argv[1:]:
        with contextlib.suppress(Exception):  # the job that needs it says it better
            importlib.import_module(module)
    own, born = psutil.Process(), 0
    for order, _ in orders:
        answer = _done(order)
        gc.collect()
        now = own.memory_info().rss
        born = born or now  # with what its first job imported
        about = {"born": born, "bytes": now}
        try:
            send(answers, {**answer, **about})
        except (TypeError, ValueError) as error:  # JSON cannot hold what the function gives
            send(answers, {"failed": cause(error), **about})


def _done(order: Mapping[str, Any]) -> dict[str, Any]:
    with contextlib.suppress(OSError, TypeError):
        os.chdir(order["folder"])
    module, _, function = order["task"].partition(":")
    with _logged(order["log"]):
        try:
            return {"gives": getattr(importlib.import_module(module), function)(**order["arguments"])}
        except (Exception, SystemExit) as error:
            traceback.print_exc()
            return {"failed": error.what if isinstance(error, UserError) else cause(error)}


@contextlib.contextmanager
def _logged(log: str) -> Iterator[None]:
    """Let all that this process says go to a job's own log; every job is warned anew."""
    with Path(log).open("ab") as stream, warnings.catch_warnings():
        before = os.dup(2)
        for fd in (1, 2):
            os.dup2(stream.fileno(), fd)
        try:
            yield
        finally:
            for python in (sys.stdout, sys.stderr):
                python.flush()
            for fd in (1, 2):
                os.dup2(before, fd)
            os.close(before)
