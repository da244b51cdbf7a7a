"""Which stores there are, how much room they take, and how it is got back."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from limbeck.core.errors import UserError, did_you_mean
from limbeck.core.files import cache_dir
from limbeck.distill.cache.store.layout import ELSEWHERE, DamagedError, Journal, read_header, sound

RESERVE = 2**30  # bytes of the disk that are never taken, or a twentieth of a small disk


@dataclass(frozen=True, slots=True)
class Entry:
    """One store, as `limbeck cache ls` shows it.

    Attributes:
        key: its folder's name.
        folder: where it is.
        bytes: room it takes or has reserved.
        used: when it was last opened, in seconds since the epoch.
        in_use: whether a process has it open.
        label: what people call it; empty where the header is damaged.
        identity: what its numbers depend on; empty where the header is damaged.
        rows: rows of a view.
        views: views asked for so far.
        complete: whether every shard of those is finished.
        created: when, in UTC.
        damage: what is wrong with the header, "" where nothing is.
    """

    key: str
    folder: Path
    bytes: int
    used: float
    in_use: bool
    label: Mapping[str, str] = field(default_factory=dict)
    identity: Mapping[str, Any] = field(default_factory=dict)
    rows: int = 0
    views: int = 0
    complete: bool = False
    created: str = ""
    damage: str = ""


def outputs_dir() -> Path:
    """Where stores lie unless another place is given."""
    return cache_dir() / "outputs"


def entries(root: Path | None = None) -> list[Entry]:
    """Every store, the last used first."""
    root = root or outputs_dir()
    if not root.is_dir():
        return []
    with exclusive(root):
        return listed(root)


def listed(root: Path) -> list[Entry]:
    """`entries`, for who holds the folder of all stores already."""
    folders = [path for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")]
    return sorted((_entry(folder) for folder in folders), key=lambda e: (-e.used, e.key))


def _entry(folder: Path) -> Entry:
    key, in_use = folder.name, _in_use(folder)
    size, used = taken(folder), folder.stat().st_mtime
    with contextlib.suppress(OSError):
        used = (folder / "header.json").stat().st_mtime
    try:
        header = read_header(folder)
        if header is None:
            raise DamagedError("there is none")
    except DamagedError as error:
        return Entry(key, folder, size, used, in_use, damage=f"header.json is damaged: {error}")
    first = header.arrays[0]
    with _opened(folder / f"{first.name}.bin") as data, _opened(folder / "shards.jsonl") as handle:
        length = 0 if data is None else os.fstat(data).st_size
        views = length // (first.row_bytes * header.rows)
        done = 0
        if handle is not None:
            journal = Journal(handle)
            journal.refresh()
            done = sum(view < views for view, _ in journal.sums)
    complete = views > 0 and done == views * header.shards
    return Entry(
        *(key, folder, size, used, in_use, header.label, header.identity, header.rows),
        views=views,
        complete=complete,
        created=header.created,
    )


def verify(entry: Entry) -> list[str]:
    """What is wrong with a store, a sentence each; empty where every finished shard is what was written."""
    try:
        header = read_header(entry.folder)
    except DamagedError as error:
        return [f"header.json is damaged: {error}"]
    if header is None:
        return ["header.json is gone"]
    found = []
    with contextlib.ExitStack() as stack:
        handle = stack.enter_context(_opened(entry.folder / "shards.jsonl"))
        files = {a.name: stack.enter_context(_opened(entry.folder / f"{a.name}.bin")) for a in header.arrays}
        found += [f"{name}.bin is gone" for name, opened in files.items() if opened is None]
        if handle is None or found:
            return found
        journal = Journal(handle)
        journal.refresh()
        for shard, sums in sorted(journal.sums.items()):
            if not sound(header, {name: opened or 0 for name, opened in files.items()}, shard, sums):
                block = header.block(shard[1])
                found.append(f"view {shard[0]}, rows {block.start:,} to {block.stop - 1:,}: not what was written")
    return found


def prune(
    keys: Sequence[str] | None = None,
    *,
    older_than_days: float | None = None,
    to_bytes: int | None = None,
    incomplete: bool = False,
    dry_run: bool = False,
    root: Path | None = None,
    say: Callable[[str], object] | None = None,
) -> list[Entry]:
    """Remove stores; without any choice all of them. Those in use stay.

    Args:
        keys: these, by the beginning of their names.
        older_than_days: those not opened for so long.
        to_bytes: the least recently used, until what is left takes no more than this.
        incomplete: those unfinished or damaged.
        dry_run: only tell.
        root: where the stores lie.
        say: told of what is in use and kept.

    Returns:
        What was removed (or would be), the least recently used first.

    Raises:
        UserError: no store has one of the keys.
    """
    root = root or outputs_dir()
    if not root.is_dir():
        return []
    moved = []
    with exclusive(root):
        known = listed(root)[::-1]
        for key in keys or ():
            if not any(entry.key.startswith(key) for entry in known):
                raise UserError(f"nothing is stored as '{key}'", hint=did_you_mean(key, [e.key for e in known]))
        everything = keys is None and older_than_days is None and to_bytes is None and not incomplete
        left, chosen = sum(entry.bytes for entry in known), []
        for entry in known:
            wanted = (
                everything
                or any(entry.key.startswith(key) for key in keys or ())
                or (older_than_days is not None and time.time() - entry.used > older_than_days * 86400)
                or (to_bytes is not None and left > to_bytes)
                or (incomplete and not entry.complete)
            )
            if wanted and entry.in_use:
                if say:
                    say(f"{entry.key}: in use, kept")
            elif wanted:
                chosen.append(entry)
                left -= entry.bytes
        if not dry_run:
            moved = [set_aside(entry.folder) for entry in chosen]
            moved += [path for path in root.glob(".gone-*") if path not in moved]  # of a prune that was killed
    for path in moved:
        shutil.rmtree(path, ignore_errors=True)
    return chosen


def room(limit_bytes: int | None = None, root: Path | None = None) -> int:
    """Bytes that may still be stored: what the limit leaves, or the disk without its reserve where that is less."""
    root = root or outputs_dir()
    free = free_bytes(root)
    used = sum(taken(path) for path in root.iterdir() if path.is_dir()) if root.is_dir() else 0
    return max(0, free if limit_bytes is None else min(limit_bytes - used, free))


def free_bytes(root: Path) -> int:
    """What may still be taken of the disk on which a folder lies or will lie."""
    while not root.exists():
        root = root.parent
    usage = shutil.disk_usage(root)
    return max(0, usage.free - min(RESERVE, usage.total // 20))


def taken(folder: Path) -> int:
    """Bytes that the files in a folder take, or will take when they are filled."""
    with contextlib.suppress(FileNotFoundError):  # removed meanwhile
        return sum(path.stat().st_size for path in folder.iterdir())
    return 0


def set_aside(folder: Path) -> Path:
    """Move a store out of the way, in one step. Who has it open keeps what is open."""
    away = folder.with_name(f".gone-{folder.name}-{os.getpid()}-{time.monotonic_ns()}")
    folder.rename(away)
    return away


@contextlib.contextmanager
def exclusive(root: Path) -> Iterator[None]:
    """Hold the folder of all stores for the moment in which one is made, opened or removed.

    Raises:
        UserError: it cannot be written.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
        handle = os.open(root / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise UserError(f"cannot be written ({error.strerror})", where=str(root), hint=ELSEWHERE) from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def lease(folder: Path) -> int:
    """Say that a store is in use, until the handle that this gives is closed."""
    handle = os.open(folder / "in-use", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    fcntl.flock(handle, fcntl.LOCK_SH)
    return handle


def _in_use(folder: Path) -> bool:
    with _opened(folder / "in-use") as handle:
        try:
            if handle is not None:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
    return False


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int | None]:
    """A handle to read a file by, None where it is absent."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        yield None
        return
    try:
        yield handle
    finally:
        os.close(handle)
