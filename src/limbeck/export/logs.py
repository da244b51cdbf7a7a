"""A quiet place to convert in: what libraries say goes to a log, and what fails is told in one sentence."""

from __future__ import annotations

import contextlib
import functools
import io
import os
import sys
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from limbeck.core.errors import UserError
from limbeck.core.files import write_text

_STDOUT, _STDERR = 1, 2


def log_path(path: Path) -> Path:
    """Where the converter's chatter about the file `path` goes."""
    return path.with_name(path.name + ".log")


def drop_empty(log: Path) -> None:
    """Remove a log in which nothing was said."""
    if not log.stat().st_size:
        log.unlink()


@contextlib.contextmanager
def converting(target: str, path: Path) -> Iterator[Path]:
    """Give a log beside `path`, and make every failure inside a `UserError` that names it.

    Args:
        target: name of the format, for the message.
        path: the file being made.

    Yields:
        The path of the log.

    Raises:
        UserError: what is done inside failed; the message names the format, the cause and the log.
    """
    log = log_path(path)
    write_text(log, "")  # finds out now, not after the conversion, that the place cannot be written
    try:
        yield log
        drop_empty(log)
    except UserError:
        raise
    except Exception as error:
        with log.open("a", encoding="utf-8", errors="replace") as stream:
            traceback.print_exception(error, file=stream)
        raise refusal(target, path, cause(error)) from error


@contextlib.contextmanager
def heard(log: Path) -> Iterator[None]:
    """Make everything that this process says inside go to a log. It has one voice: one thread at a time may do so."""
    with log.open("a", encoding="utf-8", errors="replace") as stream, captured(stream):
        yield


def refusal(target: str, path: Path, reason: str) -> UserError:
    """The error for a model that cannot be converted."""
    return UserError(
        f"the model cannot be exported to {target}: {reason}",
        where=str(path),
        hint=f"everything the converter said is in {log_path(path)}",
    )


def cause(error: BaseException, lines: int = 3) -> str:
    """The first lines of the error that started a chain of errors.

    Converters wrap what went wrong in several layers of advice; the reason is in the innermost. Notes added to any of
    them follow it.
    """
    notes = list(getattr(error, "__notes__", ()))
    while error.__cause__ is not None:
        error = error.__cause__
        notes += getattr(error, "__notes__", ())
    text = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = [f"{type(error).__name__}: {text[0]}" if text else type(error).__name__, *text[1:lines], *notes]
    return "\n    ".join(said)


@contextlib.contextmanager
def captured(stream: IO[str]) -> Iterator[None]:
    """Send stdout, stderr and warnings to the file `stream`, also those of C++ code, which knows only descriptors."""
    with contextlib.ExitStack() as stack:
        for fd in (_STDOUT, _STDERR):
            with contextlib.suppress(OSError):  # a daemon may have closed it
                _point(stack, fd, stream.fileno())
        stack.enter_context(contextlib.redirect_stdout(_writer(_STDOUT)))
        stack.enter_context(contextlib.redirect_stderr(_writer(_STDERR)))
        caught = stack.enter_context(warnings.catch_warnings(record=True))
        warnings.simplefilter("default")
        try:
            yield
        finally:
            for warning in caught:
                text = warnings.formatwarning(warning.message, warning.category, warning.filename, warning.lineno)
                _writer(_STDERR).write(text)


def _point(stack: contextlib.ExitStack, fd: int, target: int) -> None:
    """Let descriptor `fd` mean `target` until `stack` is left."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    saved = os.dup(fd)
    stack.callback(os.close, saved)
    os.dup2(target, fd)
    stack.callback(os.dup2, saved, fd)


@functools.cache
def _writer(fd: int) -> IO[str]:
    # Libraries imported while we capture keep sys.stderr in their log handlers for good. A writer on the descriptor
    # itself stays valid: afterwards it leads to the terminal again.
    raw = io.FileIO(fd, "w", closefd=False)
    return io.TextIOWrapper(raw, encoding="utf-8", errors="replace", write_through=True)
