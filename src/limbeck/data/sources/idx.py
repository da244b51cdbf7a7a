"""MNIST and Fashion-MNIST: IDX files, compressed or not.

torchvision's reader takes no compressed file and asserts where a file is damaged; here the message names it.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from limbeck.core.errors import UserError
from limbeck.core.readers.published import PARTS, find_idx
from limbeck.data.prepare import Raw, check_labels

FASHION = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
NAMES = {"mnist": tuple("0123456789"), "fashion-mnist": FASHION}


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
