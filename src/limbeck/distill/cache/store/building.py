"""Make what is missing in a store, together with whoever else is at it, and read it."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import mmap
import os
import shutil
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from limbeck.core.errors import UserError
from limbeck.core.progress import Progress
from limbeck.distill.cache.store.keeping import exclusive, free_bytes, lease, listed, outputs_dir, set_aside
from limbeck.distill.cache.store.layout import (
    ELSEWHERE,
    Array,
    DamagedError,
    Header,
    Journal,
    Shard,
    as_json,
    checksum,
    in_words,
    key_of,
    make_header,
    read_header,
    sound,
    write_at,
    write_header,
)

SHARD_ROWS = 1024
Make = Callable[[int, slice], Mapping[str, NDArray[Any]]]  # (view, rows as positions) -> array name -> [rows, *shape]

# Closing any handle of a file drops all record locks that the process has on it, so one thread at a time builds.
_BUILDING = threading.RLock()


def open_store(
    identity: Mapping[str, Any],
    label: Mapping[str, str],
    rows: int,
    views: int,
    arrays: Callable[[], Sequence[Array]],
    *,
    root: Path | None = None,
    strict: bool = False,
    limit_bytes: int | None = None,
    shard_rows: int = SHARD_ROWS,
    progress: Progress | None = None,
) -> Store:
    """The store of what `identity` describes, with room for so many views; call its `build` before reading.

    Args:
        identity: everything the numbers depend on, JSON-like. The number of views is no part of it.
        label: human names; "what" is used in messages.
        rows: rows of a view.
        views: how many views will be read.
        arrays: called when the store is new: what is stored of every (view, row).
        root: where the stores lie.
        strict: refuse a damaged header rather than begin anew, and refuse to begin one whose label is known already.
        limit_bytes: how much all stores together may take.
        shard_rows: rows of a shard, at most.
        progress: where it is said that something was damaged.

    Raises:
        UserError: not enough room, a place that cannot be written, or what `strict` refuses.
    """
    root, identity = root or outputs_dir(), as_json(identity)
    folder = root / key_of(identity)
    if rows < 1 or views < 1:
        raise ValueError(f"nothing to store: {rows} rows, {views} views")
    described: Sequence[Array] = ()
    with exclusive(root):
        header, damage = _look(folder)
        if strict and header is None:
            _refuse(root, folder, identity, label, damage)
    if header is None:
        described = arrays()  # this may take long, so nobody is kept waiting for it
    with exclusive(root), contextlib.ExitStack() as afterwards:
        header, damage = _look(folder)
        if header is None:
            if damage:
                (progress or Progress(quiet=True)).say(f"{folder}: header.json is damaged ({damage}); begun anew")
            if folder.exists():
                afterwards.callback(shutil.rmtree, set_aside(folder), ignore_errors=True)
            header = make_header(identity, label, described or arrays(), rows, shard_rows)
        elif header.rows != rows:
            raise ValueError(f"{rows} rows where {header.rows} are stored: the rows must be a part of the identity")
        _refuse_full(root, folder, header, views, limit_bytes)
        if not (folder / "header.json").exists():
            write_header(folder, header)
        with contextlib.suppress(OSError):
            os.utime(folder / "header.json")  # the time of the last use
        return Store(folder, header, views)


class Store:
    """An open store. Nobody prunes it while it is open; it closes itself when it is dropped.

    Attributes:
        folder: where it lies.
        header: what it says of itself.
        views: how many views are read.
        rows_asked: rows (counted once a view) that this process has made since it was opened.
        rows_found: rows that were there, or that others made meanwhile.
        seconds: time spent in making them.
    """

    def __init__(self, folder: Path, header: Header, views: int) -> None:
        self.folder, self.header, self.views = folder, header, views
        self.rows_asked, self.rows_found, self.seconds = 0, 0, 0.0
        self._files: dict[str, int] = {}
        handles: list[int] = []
        self.close = weakref.finalize(self, _close, handles)
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        try:
            handles.append(lease(folder))
            for array in header.arrays:
                self._files[array.name] = handle = os.open(folder / f"{array.name}.bin", flags, 0o666)
                handles.append(handle)
                if os.fstat(handle).st_size < views * header.rows * array.row_bytes:
                    os.ftruncate(handle, views * header.rows * array.row_bytes)
            handles.append(os.open(folder / "shards.jsonl", flags | os.O_APPEND, 0o666))
        except OSError as error:
            self.close()
            raise _disk_error(error, folder, "") from error
        self._journal = Journal(handles[-1])

    @property
    def view_bytes(self) -> int:
        """Bytes of one view."""
        return self.header.view_bytes

    def build(
        self, make: Make, *, strict: bool = False, rank: int = 0, world: int = 1, progress: Progress | None = None
    ) -> None:
        """Make every shard that is missing or damaged, sharing the work with other processes that are at it.

        Args:
            make: gives the arrays of some rows of a view; `rows` are positions from 0 on.
            strict: refuse damaged shards rather than make them anew.
            rank: where among `world` processes this one begins, so that they rarely want the same shard.
            world: number of processes that were started together.
            progress: told how big it will be, and how far it is.

        Raises:
            UserError: the disk is full (what is finished stays), or damaged shards and `strict`.
        """
        progress, header = progress or Progress(quiet=True), self.header
        self._journal.refresh()
        wanted = [(view, number) for view in range(self.views) for number in range(header.shards)]
        missing = [shard for shard in wanted if not self._is_sound(shard)]
        self.rows_asked, self.rows_found = 0, self.views * header.rows
        what = header.label.get("what", header.key)
        if damaged := [shard for shard in missing if shard in self._journal.sums]:
            damage = f"{what}: {len(damaged)} of {len(wanted)} stored shards are damaged"
            if strict:
                hint = "drop `cache.strict` to make those again"
                raise UserError(damage, where=str(self.folder), hint=hint)
            progress.say(f"{damage}, and made again")
        if not missing:
            return
        views = "1 view" if self.views == 1 else f"{self.views} views"
        size = in_words(self.views * self.view_bytes)
        to_make = sum(self._length(shard) for shard in missing)
        rest = "" if len(missing) == len(wanted) else f"; {to_make:,} rows of them are missing"
        progress.say(f"{what}: {header.rows:,} rows x {views}, {size}{rest}")
        start = len(missing) * rank // world
        with _BUILDING, self._claims() as claims, progress.bar(what, to_make) as advance:
            self._build(missing[start:] + missing[:start], make, claims, lambda done: advance(done, ""))
        self.rows_found -= self.rows_asked

    def _build(self, missing: Sequence[Shard], make: Make, claims: int, advance: Callable[[int], object]) -> None:
        left, done = list(missing), 0
        for patient in (False, True):
            # First everything that nobody else is making; then wait for the others, and do what they have left undone.
            for shard in tuple(left):
                with _claim(claims, shard[0] * self.header.shards + shard[1], patient) as mine:
                    if not mine:
                        continue
                    if not self._is_finished(shard):
                        self._make(shard, make)
                    left.remove(shard)
                    done += self._length(shard)
                    advance(done)

    def _make(self, shard: Shard, make: Make) -> None:
        header, sums = self.header, []
        started = time.monotonic()
        content = make(shard[0], header.block(shard[1]))
        self.seconds += time.monotonic() - started
        try:
            for array in header.arrays:
                block = np.ascontiguousarray(content[array.name])
                if block.dtype != array.dtype or block.shape != (self._length(shard), *array.shape):
                    raise ValueError(f"{array.name}: {block.dtype} {block.shape} where {array} is stored")
                start, _ = header.place(array, shard)
                write_at(self._files[array.name], block.data, start)
                sums.append(checksum(header, array, shard, block.data))
            for handle in self._files.values():
                os.fsync(handle)
            self._journal.append(shard, sums)
        except OSError as error:
            raise _disk_error(error, self.folder, "; what was stored before is still there") from error
        self.rows_asked += self._length(shard)

    def _length(self, shard: Shard) -> int:
        block = self.header.block(shard[1])
        return int(block.stop - block.start)

    def _is_sound(self, shard: Shard) -> bool:
        sums = self._journal.sums.get(shard)
        return sums is not None and sound(self.header, self._files, shard, sums)

    def _is_finished(self, shard: Shard) -> bool:
        """Whether another process has made it since."""
        self._journal.refresh()
        return self._is_sound(shard)

    @contextlib.contextmanager
    def _claims(self) -> Iterator[int]:
        try:
            handle = os.open(self.folder / "shards.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise _disk_error(error, self.folder, "") from error
        try:
            yield handle
        finally:
            os.close(handle)

    def array(self, name: str) -> NDArray[Any]:
        """One array, [views, rows, *shape], memory-mapped and not writable. The store must have been built."""
        (array,) = (a for a in self.header.arrays if a.name == name)
        length = self.views * self.header.rows * array.row_bytes
        # Shared and not writable: pages of the file, which the system may drop at any time, and no memory of ours.
        mapped = mmap.mmap(self._files[name], length, flags=mmap.MAP_SHARED, prot=mmap.PROT_READ)
        return np.frombuffer(mapped, array.dtype).reshape(self.views, self.header.rows, *array.shape)


@contextlib.contextmanager
def _claim(handle: int, number: int, patient: bool) -> Iterator[bool]:
    """Hold byte `number` of the lock file; gives False where another process has it and we do not wait for it."""
    try:
        fcntl.lockf(handle, fcntl.LOCK_EX | (0 if patient else fcntl.LOCK_NB), 1, number)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EAGAIN):
            raise
        yield False
        return
    try:
        yield True
    finally:
        fcntl.lockf(handle, fcntl.LOCK_UN, 1, number)


def _close(handles: Sequence[int]) -> None:
    for handle in handles:
        os.close(handle)


def _look(folder: Path) -> tuple[Header | None, str]:
    """The header in a folder, or what is wrong with it ("" where there is no store yet)."""
    try:
        return read_header(folder), ""
    except DamagedError as error:
        return None, str(error)


def _refuse(root: Path, folder: Path, identity: Mapping[str, Any], label: Mapping[str, str], damage: str) -> None:
    """Whatever `strict` refuses about a store that cannot be used as it is."""
    if damage:
        raise UserError(
            f"header.json is damaged ({damage})",
            where=str(folder),
            hint=f"`limbeck cache prune {folder.name}`, or drop `cache.strict`",
        )
    alike = [entry for entry in listed(root) if entry.label == dict(label)]
    if not alike:
        return
    wanted = flat(identity)
    differences = [_differences(flat(entry.identity), wanted) for entry in alike]
    least = min(differences, key=len)
    raise UserError(
        f"{label.get('what', 'this')}: stored before, for something else:\n    " + "\n    ".join(least),
        where=str(root),
        hint="drop `cache.strict` to ask and store again",
    )


def flat(value: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """A nested mapping as dotted name -> value."""
    found: dict[str, Any] = {}
    for name, inner in value.items():
        found |= flat(inner, f"{above}{name}.") if isinstance(inner, Mapping) else {above + name: inner}
    return found


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    names = [name for name in dict.fromkeys((*before, *now)) if before.get(name) != now.get(name)]
    return [f"{name}: {_short(before.get(name))} -> {_short(now.get(name))}" for name in names]


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _refuse_full(root: Path, folder: Path, header: Header, views: int, limit_bytes: int | None) -> None:
    """Refuse to begin what will not fit."""
    here = {entry.key: entry for entry in listed(root)}
    own = here.pop(header.key, None)
    stored = own.views if own else 0
    planned = max(views, stored) * header.view_bytes
    handle = -1
    missing = views * header.view_bytes
    with contextlib.suppress(FileNotFoundError):
        handle = os.open(folder / "shards.jsonl", os.O_RDONLY | os.O_CLOEXEC)
    if handle >= 0:
        try:
            journal = Journal(handle)
            journal.refresh()
        finally:
            os.close(handle)
        row = header.view_bytes // header.rows
        blocks = (header.block(number) for view, number in journal.sums if view < views and number < header.shards)
        missing -= sum((block.stop - block.start) * row for block in blocks)
    if missing <= 0:
        return
    used = sum(entry.bytes for entry in here.values())
    what, free = header.label.get("what", header.key), free_bytes(root)
    hint = "free some with `limbeck cache prune`, or lower `views`"
    if limit_bytes is not None and used + planned > limit_bytes:
        raise UserError(
            f"{what}: {in_words(planned)} are needed, and {in_words(used)} of the {in_words(limit_bytes)} "
            "for what is stored are taken",
            where=str(root),
            hint=f"{hint}, or raise `cache.limit_gb`",
        )
    if missing > free:
        raise UserError(
            f"{what}: {in_words(missing)} more are needed, and {in_words(free)} of the disk may be taken",
            where=str(root),
            hint=f"{hint}, or {ELSEWHERE}",
        )


def _disk_error(error: OSError, folder: Path, kept: str) -> UserError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return UserError(
            f"the disk is full{kept}",
            where=str(folder),
            hint="free some space (`limbeck cache prune`), then give the same command again to go on",
        )
    return UserError(f"cannot be written ({error.strerror})", where=str(folder), hint=ELSEWHERE)
