"""Progress on stderr: what is going on, and how far it is."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import TaskID


class Progress:
    """Progress on stderr: bars in a terminal, lines elsewhere, nothing when quiet.

    Args:
        quiet: say nothing.
        every: outside a terminal, seconds after which long work says how far it is.
    """

    def __init__(self, *, quiet: bool = False, every: float = 60.0) -> None:
        from rich.console import Console

        self.quiet, self.every = quiet, every
        self.console = Console(stderr=True, quiet=quiet, highlight=False)
        self.live = self.console.is_terminal and not quiet

    def say(self, text: str) -> None:
        """Print one line."""
        self.console.print(text, soft_wrap=True, markup=False)

    @contextlib.contextmanager
    def bar(self, label: str, total: int) -> Iterator[Callable[[int, str], None]]:
        """A bar of `total` steps; call what it gives with (steps done, a short note)."""
        started = said = time.monotonic()
        last = ""
        if not self.live:

            def note(done: int, text: str) -> None:
                nonlocal last, said
                last = text
                if done < total and time.monotonic() - said >= self.every:
                    said = time.monotonic()
                    self.say(f"{label}: {done} of {total}  {text}")

            yield note
            self.say(f"{label}: {time.monotonic() - started:.1f} s{'  ' + last if last else ''}")
            return

        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bars

        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", markup=False),
        )
        # A few refreshes a second: redrawing at every step would cost a small student a good part of its time.
        with Bars(*columns, console=self.console, refresh_per_second=4, transient=True) as bars:
            task: TaskID = bars.add_task(label, total=total, note="")

            def advance(done: int, text: str) -> None:
                nonlocal last
                last = text
                bars.update(task, completed=done, note=text)

            yield advance
        self.say(f"{label}: {time.monotonic() - started:.1f} s{'  ' + last if last else ''}")
