"""MNIST and Fashion-MNIST: IDX files, compressed or not."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from limbeck.data.raw import Raw, check_labels
from limbeck.errors import AbsentError, UserError
from limbeck.runtime import cache_dir

FASHION = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
NAMES = {"mnist": tuple("0123456789"), "fashion-mnist": FASHION}
TORCHVISION = {"mnist": "MNIST", "fashion-mnist": "FashionMNIST"}
PARTS = ("train-images", "train-labels", "t10k-images", "t10k-labels")
HOW = {
    "mnist": "put the four IDX files in one of these places or give `data.path`, or set `data.fallback: fashion-mnist`",
    "fashion-mnist": "install the Debian package dataset-fashion-mnist, or give `data.path`",
}


def load_idx(source: str, path: str | None) -> Raw:
    """Load `mnist` or `fashion-mnist`; the published 10,000 test rows are marked as such.

    Raises:
        AbsentError: no folder with all four files, with the places looked in.
        UserError: a file is not what its header says.
    """
    files = find_idx(source, path)
    x_train, y_train, x_test, y_test = (read_idx(files[part]) for part in PARTS)
    for images, labels, part in ((x_train, y_train, "train"), (x_test, y_test, "t10k")):
        where = str(files[f"{part}-images"])
        if images.ndim != 3 or labels.ndim != 1:
            raise UserError("images and labels are mixed up (the wrong number of dimensions)", where=where)
        if len(images) != len(labels):
            raise UserError(f"has {len(images)} images, but there are {len(labels)} labels", where=where)
    if x_train.shape[1:] != x_test.shape[1:]:
        raise UserError(
            f"test images are {x_test.shape[1:]}, training images {x_train.shape[1:]}", where=str(files["t10k-images"])
        )
    y = torch.from_numpy(np.concatenate([y_train, y_test]).astype(np.int64))
    check_labels(y, NAMES[source], str(files["train-labels"].parent))
    x = torch.from_numpy(np.concatenate([x_train, x_test]))[:, None]
    return Raw(source, x, y, NAMES[source], published_test=np.arange(len(y_train), len(y)))


def find_idx(source: str, path: str | None) -> dict[str, Path]:
    """The four files of a set: part -> path."""
    places = _places(source, path)
    for place in places:
        found = {part: file for part in PARTS if (file := _file(place, part))}
        if len(found) == len(PARTS):
            return found
    looked = "\n".join(f"    {place}" for place in places)
    raise AbsentError(f"{source} is not on this machine; looked in\n{looked}", where="data.source", hint=HOW[source])


def _places(source: str, path: str | None) -> list[Path]:
    below = Path(TORCHVISION[source], "raw")
    if path is not None:
        root = Path(path).expanduser()
        return [root, root / "raw", root / below, root / source]
    roots = [Path("data"), Path.home() / "data", Path.home() / ".cache", Path.home() / ".cache/torchvision"]
    return [
        Path("/usr/share/datasets") / source,
        cache_dir() / source,
        Path.home() / ".cache" / source,
        *(root / below for root in roots),
    ]


def _file(place: Path, part: str) -> Path | None:
    dims = "idx3" if part.endswith("images") else "idx1"
    names = [f"{part}{dot}{dims}-ubyte{end}" for dot in "-." for end in ("", ".gz")]
    return next((place / name for name in names if (place / name).is_file()), None)


def read_idx(path: Path) -> NDArray[np.uint8]:
    """One IDX file of unsigned bytes, checked against its header.

    Raises:
        UserError: it cannot be read, is no IDX file, or has another length than its header says.
    """
    where = str(path)
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"cannot be read ({error})", where=where, hint="fetch the file again") from error
    if len(content) < 4 or content[:3] != b"\0\0\x08" or not 1 <= content[3] <= 4:
        raise UserError(f"is no IDX file of unsigned bytes (it begins with {content[:4].hex(' ')})", where=where)
    header = 4 + 4 * content[3]
    if len(content) < header:
        raise UserError("ends within its header", where=where, hint="fetch the file again")
    shape = struct.unpack(f">{content[3]}I", content[4:header])
    if len(content) != header + math.prod(shape):
        raise UserError(
            f"promises {math.prod(shape)} bytes as {shape}, but holds {len(content) - header}",
            where=where, hint="fetch the file again",
        )  # fmt: skip
    return np.frombuffer(content, dtype=np.uint8, offset=header).reshape(shape)
