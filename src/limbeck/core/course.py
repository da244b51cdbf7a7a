"""Where a run is, and how long it will go on at the pace it had so far."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

EXPECTED = "expected seconds"  # work that is given as the time it should take, and whose pace is therefore known
SOON = 10.0  # seconds after which a pace is believed, though not one unit of the work is done
SHARE = 0.2  # of a stage, from which on its own pace is believed rather than that of others like it


@dataclass(frozen=True, slots=True)
class Part:
    """A stage of a run as its user counts them: "stage 3 of 11".

    Attributes:
        name: of the stage.
        work: how much it is: epochs of a training, trials of a search, expected seconds; None where nobody knows.
        like: whose pace it goes at, the likeliest first: stages that name the same take as long for the same work.
    """

    name: str
    work: float | None
    like: tuple[str, ...] = ()


@dataclass(slots=True)
class _Present:
    """How far the present part is.

    Attributes:
        at: its place in the plan; -1 before the first.
        since: when it began.
        known: what its pace was taken to be then.
        done: how much of its work is done.
        worked: how much of that was done now, and not in an earlier run.
        mark: when the first work of it was done, and how much: a first step takes longer than others.
    """

    at: int = -1
    since: float = 0.0
    known: float | None = None
    done: float = 0.0
    worked: float = 0.0
    mark: tuple[float, float] | None = None


class Course:
    """Where a run is, and how long it will go on at the pace it had so far.

    Args:
        clock: gives seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._parts, self._over = clock, list[Part](), set[str]()
        self._paces = {EXPECTED: 1.0}  # seconds for one unit of work, by what it is like
        self._now = _Present()

    def plan(self, parts: Sequence[Part], over: Iterable[str] = ()) -> None:
        """Say what the run consists of, in its order, and what of it was done before."""
        self._parts, self._over, self._now = list(parts), set(over), _Present()

    def enter(self, stage: str) -> None:
        """A stage begins. One below another belongs to that one; what is not in the plan is passed over."""
        name = stage.partition("/")[0]
        found = next((at for at, part in enumerate(self._parts) if part.name == name), self._now.at)
        if found != self._now.at:
            self._now = _Present(found, self._clock(), self._known(self._parts[found]))

    def leave(self, stage: str, seconds: float = 0.0, work: float = 0.0) -> None:
        """A stage is done; where it was done before this run, that took some seconds for some work."""
        part = next((part for part in self._parts if part.name == stage), None)
        if part is None:
            return
        if part is self._part:
            seconds, work = self._clock() - self._now.since, self._now.worked
        if work:
            self._paces |= dict.fromkeys(part.like, seconds / work)
        self._over.add(stage)

    def reach(self, done: float) -> None:
        """So much of the work of the present part is done."""
        now, part = self._now, self._part
        now.worked += done - now.done
        now.done = done
        if now.mark is None:
            now.mark = self._clock(), now.worked
        spent, worked = self._clock() - now.mark[0], now.worked - now.mark[1]
        believed = worked >= 1 or (worked > 0 and spent >= SOON)
        if part and part.like and believed and (now.known is None or done >= SHARE * self.work):
            self._paces[part.like[0]] = spent / worked

    def skip(self, done: float) -> None:
        """So much need not be done any more, without having been done now: before this run, or an early stop."""
        self._now.done = done

    def excuse(self, seconds: float) -> None:
        """This time went to what the next part like this one need not do again."""
        now = self._now
        now.since += seconds
        if now.mark:
            now.mark = now.mark[0] + seconds, now.mark[1]

    @property
    def done(self) -> float:
        """How much of the present part's work is done."""
        return self._now.done

    @property
    def work(self) -> float:
        """How much work the present part is; 0 where nobody knows, and before the first."""
        return (self._part.work or 0.0) if self._part else 0.0

    @property
    def where(self) -> str:
        """The present part, as "stage 3 of 11"; empty before the first and without a plan."""
        return f"stage {self._now.at + 1} of {len(self._parts)}" if self._part else ""

    def left(self) -> float | None:
        """Seconds until the run is done; None while a part is ahead whose pace is not known."""
        if not self._parts:
            return None
        ahead = [part for part in self._parts[self._now.at + 1 :] if part.name not in self._over]
        parts = [self.left_here(), *(self._times(part, part.work) for part in ahead)]
        known = [part for part in parts if part is not None]
        return sum(known) if len(known) == len(parts) else None

    def left_here(self) -> float | None:
        """Seconds until the present part is done; None while its pace is not known."""
        part = self._part
        if part is None or part.name in self._over:
            return 0.0
        return self._times(part, None if part.work is None else max(0.0, part.work - self._now.done))

    @property
    def _part(self) -> Part | None:
        return self._parts[self._now.at] if self._now.at >= 0 else None

    def _times(self, part: Part, work: float | None) -> float | None:
        pace = self._known(part)
        if not work:
            return work
        return None if pace is None else work * pace

    def _known(self, part: Part) -> float | None:
        return next((self._paces[like] for like in part.like if like in self._paces), None)
