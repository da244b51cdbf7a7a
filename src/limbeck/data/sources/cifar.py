"""CIFAR-10 in its python and binary layouts, read without running what a pickle may ask for."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from limbeck.core.errors import UserError
from limbeck.core.readers.published import find_cifar10
from limbeck.data.prepare import Raw, check_labels

NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
PIXELS = 3 * 32 * 32


def load_cifar10(path: str | None) -> Raw:
    """Load CIFAR-10; the published test batch is marked as such.

    Raises:
        AbsentError: no folder with the batches, with the places looked in.
        UserError: a batch is damaged, or is a pickle with code in it.
    """
    folder, end = find_cifar10(path)
    batches = [b for k in range(1, 6) if (b := folder / f"data_batch_{k}{end}").is_file()]
    read = read_binary if end else read_python
    parts = [read(b) for b in [*batches, folder / f"test_batch{end}"]]
    x = torch.from_numpy(np.concatenate([images for images, _ in parts])).reshape(-1, 3, 32, 32)
    y = torch.from_numpy(np.concatenate([labels for _, labels in parts]))
    names = _names(folder, end)
    check_labels(y, names, str(folder))
    tested = len(parts[-1][1])
    notes = () if len(batches) == 5 else (f"only {len(batches)} of the 5 training batches are in {folder}",)
    return Raw("cifar10", x, y, names, notes=notes, published_test=np.arange(len(y) - tested, len(y)))


def _names(folder: Path, end: str) -> tuple[str, ...]:
    meta = folder / ("batches.meta.txt" if end else "batches.meta")
    if not meta.is_file():
        return NAMES
    if end:
        lines = meta.read_text(encoding="utf-8", errors="replace").splitlines()
        found = [line.strip() for line in lines if line.strip()]  # a name may have spaces in it
    else:
        found = [_text(name) for name in _load(meta).get("label_names", ())]
    if len(found) < 2:
        raise UserError("names fewer than two classes", where=str(meta))
    return tuple(found)


def read_binary(path: Path) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Images [n, 3072] and labels [n] of a binary batch: one label byte before every image."""
    content = np.fromfile(path, dtype=np.uint8)
    if not len(content) or len(content) % (PIXELS + 1):
        raise UserError(f"has {len(content)} bytes, not a multiple of {PIXELS + 1}", where=str(path))
    rows = content.reshape(-1, PIXELS + 1)
    return rows[:, 1:].copy(), rows[:, 0].astype(np.int64)


def read_python(path: Path) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Images [n, 3072] and labels [n] of a python batch."""
    batch, where = _load(path), str(path)
    try:
        images = batch["data"].array()
        labels = batch["labels"]
        labels = np.asarray(labels.array() if isinstance(labels, _Array) else labels)
    except (KeyError, AttributeError, ValueError, TypeError) as error:
        raise UserError(f"is no CIFAR-10 batch ({type(error).__name__}: {error})", where=where) from error
    if images.dtype != np.uint8 or images.ndim != 2 or images.shape[1] != PIXELS:
        raise UserError(f"holds images as {images.dtype} {images.shape}, not uint8 (n, {PIXELS})", where=where)
    if labels.dtype.kind not in "iu" or labels.shape != images.shape[:1]:
        raise UserError(f"has {len(images)} images, but labels {labels.dtype} {labels.shape}", where=where)
    return images, labels.astype(np.int64)


# --- a pickle reader that builds nothing but plain values and arrays -----------------------------


class RefusedError(pickle.UnpicklingError):
    """A pickle wants something that CIFAR-10's files have no need of."""


class _Dtype:
    """Stands for numpy.dtype in a pickle: remembers the code, runs nothing."""

    def __init__(self, code: Any, *_: Any) -> None:
        self.code = _text(code).lstrip("|<=")

    def __setstate__(self, state: Any) -> None:
        if state[1] not in (None, "|", "<", "=", b"|", b"<", b"="):
            raise ValueError("big-endian array")


class _Array:
    """Stands for numpy.ndarray in a pickle: keeps shape, type and bytes until they are asked for."""

    shape: Any = ()
    dtype: Any = None
    raw: Any = b""
    by_column: Any = False

    def __setstate__(self, state: Any) -> None:
        _, self.shape, self.dtype, self.by_column, self.raw = state

    def array(self) -> NDArray[Any]:
        if not isinstance(self.dtype, _Dtype) or self.dtype.code not in ("u1", "i4", "i8"):
            raise ValueError("an array of another type than bytes or integers")
        flat = np.frombuffer(bytes(self.raw), dtype=f"<{self.dtype.code}")
        return flat.reshape(self.shape, order="F" if self.by_column else "C")


def _reconstruct(*_: Any) -> _Array:
    return _Array()


def _frombuffer(raw: Any, dtype: Any, shape: Any, order: Any) -> _Array:
    found = _Array()
    found.shape, found.dtype, found.raw, found.by_column = shape, dtype, raw, _text(order) == "F"
    return found


def _encode(text: str, encoding: str = "latin1") -> bytes:
    if _text(encoding) not in ("latin1", "latin-1"):
        raise RefusedError(f"it asks for the encoding {encoding!r}")
    return text.encode("latin1")


PERMITTED = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): _encode,
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _reconstruct for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _frombuffer for core in ("core", "_core")},
}


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in PERMITTED:
            raise RefusedError(f"it asks for {module}.{name}")
        return PERMITTED[module, name]


def _load(path: Path) -> dict[str, Any]:
    try:
        found = _Reader(io.BytesIO(path.read_bytes()), encoding="bytes").load()
    except RefusedError as error:
        raise UserError(
            f"this pickle is refused: {error}", where=str(path),
            hint="it may run code; CIFAR-10's own files hold nothing but arrays and lists",
        ) from error  # fmt: skip
    except Exception as error:  # a damaged pickle can raise nearly anything
        raise UserError(
            f"cannot be read as a CIFAR-10 batch ({type(error).__name__}: {error})", where=str(path)
        ) from error
    if not isinstance(found, dict):
        raise UserError("is no CIFAR-10 batch (not a dict)", where=str(path))
    return {_text(key): value for key, value in found.items()}


def _text(value: Any) -> str:
    return value.decode("latin1") if isinstance(value, bytes) else str(value)
