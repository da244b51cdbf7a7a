"""Errors meant for the user: what is wrong, where, and what would be right."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import ModuleType


class UserError(Exception):
    """Something the user can put right.

    The command line prints it as one message without a traceback and exits with 2.

    Args:
        what: what is wrong, in one sentence.
        where: the file, recipe field or argument it was found in.
        hint: what would be right.
    """

    def __init__(self, what: str, *, where: str | None = None, hint: str | None = None) -> None:
        self.what, self.where, self.hint = what, where, hint
        super().__init__("".join((f"{where}: " if where else "", what, f"\n  hint: {hint}" if hint else "")))


class DivergedError(UserError):
    """A training whose loss became NaN or infinite."""


class AbsentError(UserError):
    """The data is not on this machine; a fallback may stand in."""


@contextmanager
def within(place: str) -> Iterator[None]:
    """Say where an error arose, before what it says of its place itself."""
    try:
        yield
    except UserError as error:
        where = f"{place}, {error.where}" if error.where else place
        raise UserError(error.what, where=where, hint=error.hint) from error


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A guess for a mistyped `word`, or the list of what is known."""
    known = sorted(known)
    near = difflib.get_close_matches(word, known, n=3, cutoff=0.6)
    if near:
        return "did you mean " + " or ".join(repr(n) for n in near) + "?"
    shown = ", ".join(known[:30]) + (", ..." if len(known) > 30 else "")
    return f"known: {shown}" if known else "nothing is known here"


def require(module: str, *, extra: str, purpose: str) -> ModuleType:
    """Import an optional library, or say which extra brings it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        if isinstance(error.__cause__, KeyboardInterrupt):  # extension modules make a failed import of a Ctrl-C
            raise KeyboardInterrupt from error
        raise UserError(f'{purpose} needs: pip install "limbeck[{extra}]" ({error})') from error
