"""What lies in the folder of a store: the header, the journal, and where each shard has its place."""

from __future__ import annotations

import contextlib
import json
import os
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from math import ceil, prod
from pathlib import Path
from typing import Any

import numpy as np

from limbeck import __version__
from limbeck.core.errors import UserError
from limbeck.core.files import write_json
from limbeck.core.hashing import fingerprint

FORMAT = 1
Shard = tuple[int, int]  # view, block of rows


class DamagedError(ValueError):
    """What lies in a folder cannot be what was written there."""


@dataclass(frozen=True, slots=True)
class Array:
    """One array of a store.

    Attributes:
        name: its file's name.
        dtype: NumPy's name of its type.
        shape: of one row.
        below: what whole numbers in it are smaller than; 0 where nobody says.
    """

    name: str
    dtype: str
    shape: tuple[int, ...] = ()
    below: int = 0

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return prod(self.shape) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True, slots=True)
class Header:
    """What a store says of itself.

    Attributes:
        identity: everything the numbers depend on, JSON-like; the folder is named after its fingerprint.
        label: what people call it; no part of the identity.
        arrays: what is stored of every (view, row).
        rows: rows N of a view.
        shards: into how many nearly equal blocks of rows a view is cut.
        created: when, in UTC.
        limbeck: the version that made it.
    """

    identity: Mapping[str, Any]
    label: Mapping[str, str]
    arrays: tuple[Array, ...]
    rows: int
    shards: int
    created: str
    limbeck: str = __version__

    @property
    def key(self) -> str:
        """The folder's name."""
        return key_of(self.identity)

    @property
    def view_bytes(self) -> int:
        """Bytes of one view."""
        return self.rows * sum(array.row_bytes for array in self.arrays)

    def block(self, shard: int) -> slice:
        """The rows of a block. No block is much shorter than the others: some kernels compute few rows differently."""
        return slice(shard * self.rows // self.shards, (shard + 1) * self.rows // self.shards)

    def place(self, array: Array, shard: Shard) -> tuple[int, int]:
        """Where a shard begins in the file of an array, and how many bytes it has."""
        view, number = shard
        block = self.block(number)
        return (view * self.rows + block.start) * array.row_bytes, (block.stop - block.start) * array.row_bytes


def key_of(identity: Mapping[str, Any]) -> str:
    """The name of the folder for what the numbers depend on."""
    return fingerprint("store", FORMAT, identity)


def as_json(value: Mapping[str, Any]) -> dict[str, Any]:
    """A mapping as it comes back from a JSON file."""
    return dict(json.loads(json.dumps(value, default=str)))


def make_header(
    identity: Mapping[str, Any], label: Mapping[str, str], arrays: Sequence[Array], rows: int, shard_rows: int
) -> Header:
    """The header of a new store; shards hold up to `shard_rows` rows, fewer where rows are large."""
    row_bytes = sum(array.row_bytes for array in arrays)
    most = min(shard_rows, max(1, 2**26 // max(row_bytes, 1)))  # a shard is held in memory while it is made
    created = datetime.now(UTC).isoformat(timespec="seconds")
    return Header(as_json(identity), dict(label), tuple(arrays), rows, ceil(rows / most), created)


def write_header(folder: Path, header: Header) -> None:
    """Write header.json atomically.

    Raises:
        UserError: the place cannot be written, or the disk is full.
    """
    content = {"format": FORMAT, **asdict(header)}
    try:
        write_json(folder / "header.json", {**content, "check": fingerprint(as_json(content))})
    except UserError as error:
        raise UserError(error.what, where=error.where, hint=ELSEWHERE) from error


def read_header(folder: Path) -> Header | None:
    """The header in a folder; None where there is none.

    Raises:
        DamagedError: it cannot be read, is not what was written, or belongs to another folder.
    """
    try:
        content = json.loads((folder / "header.json").read_bytes())
        check = content.pop("check")
        if content.pop("format") != FORMAT or fingerprint({"format": FORMAT, **content}) != check:
            raise DamagedError("its content is not what was written")
        arrays = tuple(Array(a["name"], a["dtype"], tuple(a["shape"]), a["below"]) for a in content.pop("arrays"))
        header = Header(arrays=arrays, **content)
    except FileNotFoundError:
        if (folder / "shards.jsonl").exists():
            raise DamagedError("it is gone") from None
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedError(str(error)) from error
    if header.key != folder.name:
        raise DamagedError("it describes something else than its folder")
    return header


class Journal:
    """The finished shards of a store, with a checksum for each array. The last line about a shard counts."""

    def __init__(self, handle: int) -> None:
        self._handle, self._read = handle, 0
        self.sums: dict[Shard, list[int]] = {}

    def refresh(self) -> None:
        """Read what was added since, by whomever."""
        size = os.fstat(self._handle).st_size
        added = os.pread(self._handle, max(0, size - self._read), self._read)
        whole = added.rfind(b"\n") + 1
        self._read += whole
        for line in added[:whole].splitlines():
            with contextlib.suppress(ValueError, KeyError, TypeError):  # a line torn by a kill
                entry = json.loads(line)
                self.sums[int(entry["view"]), int(entry["shard"])] = [int(s) for s in entry["sums"]]

    def append(self, shard: Shard, sums: Sequence[int]) -> None:
        """Add the line of a shard in a single write. It begins with a newline, too: the last line may be torn."""
        line = json.dumps({"view": shard[0], "shard": shard[1], "sums": list(sums)})
        write_at(self._handle, f"\n{line}\n".encode(), None)


def checksum(header: Header, array: Array, shard: Shard, content: bytes | memoryview) -> int:
    """Of a shard and of the place where it belongs, so that one that lies elsewhere is damaged, too."""
    return zlib.crc32(content, zlib.crc32(f"{header.key} {array.name} {shard}".encode()))


def sound(header: Header, files: Mapping[str, int], shard: Shard, sums: Sequence[int]) -> bool:
    """Whether what lies in the files of a store is what the journal says was written."""
    if len(sums) != len(header.arrays) or not 0 <= shard[1] < header.shards:
        return False
    for array, wanted in zip(header.arrays, sums, strict=True):
        start, length = header.place(array, shard)
        if checksum(header, array, shard, os.pread(files[array.name], length, start)) != wanted:
            return False
    return True


def write_at(handle: int, content: bytes | memoryview, start: int | None) -> None:
    """Write all of it at a place, or at the end of a file opened for appending.

    Not through a memory map, where a full disk would be a SIGBUS.
    """
    rest = memoryview(content).cast("B")
    while rest:
        done = os.write(handle, rest) if start is None else os.pwrite(handle, rest, start)
        rest, start = rest[done:], None if start is None else start + done


ELSEWHERE = "set LIMBECK_CACHE to a folder that can be written and has room"


def in_words(size: int) -> str:
    """A size in bytes for people: 1.1 MB."""
    value = float(size)
    for unit in ("bytes", "kB", "MB", "GB"):
        if value < 999.95 or unit == "GB":
            return f"{value:.0f} {unit}" if unit == "bytes" else f"{value:,.1f} {unit}"
        value /= 1000
    raise AssertionError
