"""What is going on: shown on stderr, kept in a plain log, and how long it will go on."""

from __future__ import annotations

import contextlib
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

from limbeck.core.course import Course
from limbeck.core.errors import UserError

if TYPE_CHECKING:
    from rich.console import Group

LOG = "run.log"


class Progress:
    """Progress on stderr: bars in a terminal, lines elsewhere, nothing when quiet.

    Args:
        quiet: show nothing; a log is kept all the same.
        every: outside a terminal and in the log, seconds after which long work says how far it is.

    Attributes:
        course: where a run is; told by the run.
    """

    def __init__(self, *, quiet: bool = False, every: float = 60.0) -> None:
        from rich.console import Console

        self.quiet, self.every = quiet, every
        self.console = Console(stderr=True, quiet=quiet, highlight=False)
        self.live = self.console.is_terminal and not self.console.is_dumb_terminal and not quiet
        self.course = Course()
        self._log: IO[bytes] | None = None
        self._told = threading.Lock()  # files are made side by side, and each tells when it is done

    def say(self, text: str) -> None:
        """Print one line."""
        self.console.print(text, soft_wrap=True, markup=False)
        self._keep(text)

    @contextlib.contextmanager
    def kept(self, log: Path, title: str) -> Iterator[None]:
        """Keep what is shown within the block in a file, after what stands there already, and how the block ends.

        Every line is given to the system at once, so that it outlives this process.

        Raises:
            UserError: the file cannot be written.
        """
        started = time.monotonic()
        try:
            stream = log.open("ab", buffering=0)
        except OSError as error:
            raise UserError(f"cannot be written ({error})", where=str(log)) from error
        with stream:
            self._log = stream
            self._keep(f"--- {title} ---")
            try:
                yield
                self._keep(f"finished in {time.monotonic() - started:.1f} s")
            except UserError as error:
                self._keep(f"failed: {error}")
                raise
            except KeyboardInterrupt:
                self._keep("stopped by Ctrl-C")
                raise
            except BaseException:
                self._keep(f"failed: {traceback.format_exc()}")
                raise
            finally:
                self._log = None

    @contextlib.contextmanager
    def bar(self, label: str, total: int, *, start: int = 0, work: float = 0.0) -> Iterator[Callable[[int, str], None]]:
        """A bar of `total` steps; call what it gives with (steps done, a short note).

        Args:
            label: what is being done.
            total: how many steps.
            start: how many of them were done before.
            work: how much of the present stage's work all steps are; 0 for what is done once for several stages.
        """
        begun = said = time.monotonic()
        before, course, now = self.course.done, self.course, _Bar(label, start, total)
        if work:
            course.skip(before + work * start / total)

        def advance(done: int, note: str) -> None:
            nonlocal said
            with self._told:
                now.done, now.note = done, note
                if work:
                    course.reach(before + work * done / total)
                if done < total and time.monotonic() - said >= self.every:
                    said = time.monotonic()
                    self._line(f"{label}: {done / total:.0%}", note, shown=not self.live)

        with self._drawn(now) if self.live else contextlib.nullcontext():
            yield advance
        if work:
            course.skip(before + work)
        else:
            course.excuse(time.monotonic() - begun)
        self._line(f"{label}: {time.monotonic() - begun:.1f} s", now.note)

    def _line(self, what: str, note: str, *, shown: bool = True) -> None:
        where = self.course.where
        text = "  ".join(filter(None, (f"{where}, {what}" if where else what, note, self._left())))
        if shown:
            self.say(text)
        else:
            self._keep(text)

    def _left(self) -> str:
        whole = self.course.left()
        if whole is not None:
            return _roughly(whole)
        here = _roughly(self.course.left_here() or 0.0)
        return f"{here} of this stage" if here else ""

    def _keep(self, text: str) -> None:
        if self._log is None:
            return
        stamp = time.strftime("%Y-%m-%d %H:%M:%S")
        lines = "\n".join(f"{stamp}  {line}" for line in text.rstrip().splitlines() or [""])
        with contextlib.suppress(OSError):  # a full disk is told by what needs it
            self._log.write(f"{lines}\n".encode(errors="replace"))

    @contextlib.contextmanager
    def _drawn(self, now: _Bar) -> Iterator[None]:
        from rich.live import Live

        # A few refreshes a second: redrawing at every step would cost a small student a good part of its time.
        draw = Live(
            get_renderable=lambda: self._picture(now), console=self.console, refresh_per_second=4, transient=True
        )
        with draw:
            yield

    def _picture(self, now: _Bar) -> Group:
        """Two lines, for one would be too long for many a terminal."""
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        first, words = Table.grid(padding=(0, 2, 0, 0)), [word for word in (self.course.where, now.label) if word]
        for _ in words:
            first.add_column(no_wrap=True)
        first.add_column(max_width=24)  # gives way to words where there is little room
        first.add_column(no_wrap=True)
        first.add_row(*map(Text, words), ProgressBar(now.total, now.done), Text(self._left()))
        return Group(first, Text(now.note, no_wrap=True, overflow="ellipsis"))


@dataclass(slots=True)
class _Bar:
    """What a bar shows."""

    label: str
    done: int
    total: int
    note: str = ""


def _roughly(seconds: float) -> str:
    """The time left, no finer than it is known; empty where it is as good as none."""
    if seconds < 2.5:
        return ""
    if seconds < 97.5:
        return f"about {round(seconds / 5) * 5} s left"
    minutes = round(seconds / 60)
    if minutes < 100:
        return f"about {minutes} min left"
    hours, minutes = divmod(round(minutes / 10) * 10, 60)
    return f"about {hours} h {minutes:02d} min left" if hours < 48 else f"about {round(hours / 24)} days left"
