"""A look at data before it is used: counts, sizes, modes, duplicates, damage."""

from __future__ import annotations

import hashlib
import statistics
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from limbeck.core.errors import AbsentError
from limbeck.core.machine import cores
from limbeck.core.progress import Progress
from limbeck.core.readers.images import guarded, probe
from limbeck.core.readers.tables import read_table
from limbeck.data.sources.arrays import archive, read_array
from limbeck.data.sources.cifar import read_binary, read_python
from limbeck.data.sources.folder import File, Tree, files_below, scan
from limbeck.data.sources.idx import read_idx

SHOWN = 20


def inspect(path: Path, progress: Progress | None = None) -> dict[str, Any]:
    """What is at `path`, as JSON-like values; the key `kind` says what it was taken for.

    Args:
        path: a folder of images (split or not), .npz/.npy arrays, a CSV or Parquet table, IDX files or a folder of
            them, or CIFAR-10 batches.
        progress: where to show how far it is.

    Raises:
        UserError: there is nothing there, or nothing that Limbeck can read.
    """
    path = Path(path).expanduser()
    if not path.exists():
        raise AbsentError("there is no such file or folder", where=str(path))
    if not path.is_dir():
        return {"path": str(path), **_file(path)}
    inside = sorted(p for p in path.iterdir() if p.is_file())
    if idx := [p for p in inside if "-ubyte" in p.name]:
        return {"path": str(path), "kind": "idx", "files": {p.name: _array(read_idx(p)) for p in idx}}
    if batches := [p for p in inside if p.name.startswith(("data_batch_", "test_batch"))]:
        read = {p.name: (read_binary if p.suffix == ".bin" else read_python)(p)[1] for p in batches}
        return {"path": str(path), "kind": "cifar10", "files": {name: _array(labels) for name, labels in read.items()}}
    if arrays := [p for p in inside if p.suffix == ".npy"]:
        return {"path": str(path), "kind": "arrays", "arrays": {p.stem: _array(read_array(p)) for p in arrays}}
    return {"path": str(path), **_images(path, progress)}


def _file(path: Path) -> dict[str, Any]:
    if "-ubyte" in path.name:
        return {"kind": "idx", "files": {path.name: _array(read_idx(path))}}
    if path.suffix == ".npy":
        return {"kind": "arrays", "arrays": {path.stem: _array(read_array(path))}}
    if path.suffix == ".npz":
        return {"kind": "arrays", "arrays": _archive(path)}
    return _table(path)


def _archive(path: Path) -> dict[str, Any]:
    """Arrays of an .npz file; those of Python objects are named but not read."""
    found: dict[str, Any] = {}
    with archive(path) as opened:
        for name in opened.files:
            try:
                found[name] = _array(opened[name])
            except ValueError as error:
                found[name] = {"unreadable": str(error)}
    return found


def _array(values: NDArray[Any]) -> dict[str, Any]:
    about: dict[str, Any] = {"shape": list(values.shape), "type": str(values.dtype)}
    if values.dtype.kind in "biuf" and values.size:
        about |= {"min": values.min().item(), "max": values.max().item()}
        if values.dtype.kind == "f":
            about["not_finite"] = int((~np.isfinite(values)).sum())
    if values.ndim == 1 and values.dtype.kind in "biuUS" and values.size:
        known, counts = np.unique(values, return_counts=True)
        if len(known) <= 1000:
            about["counts"] = {str(k): int(c) for k, c in zip(known.tolist(), counts, strict=True)}
    return about


def _table(path: Path) -> dict[str, Any]:
    frame = read_table(path)
    columns = {
        str(name): {
            "type": str(frame[name].dtype),
            "missing": int(frame[name].isna().sum()),
            "distinct": int(frame[name].astype(str).nunique()),
        }
        for name in frame.columns
    }
    return {
        "kind": "table",
        "rows": len(frame),
        "columns": columns,
        "duplicate_rows": int(frame.astype(str).duplicated().sum()),
    }


def _images(root: Path, progress: Progress | None) -> dict[str, Any]:
    folders = any(p.is_dir() and not p.name.startswith((".", "__")) for p in root.iterdir())
    # Without class folders it can only be what `data.unlabelled` takes.
    tree = scan(root) if folders else Tree(files_below(root), [], [], [])
    formats: Counter[str] = Counter()
    modes: Counter[str] = Counter()
    sizes: list[tuple[int, int]] = []
    same: dict[str, list[File]] = defaultdict(list)
    unreadable: list[dict[str, str]] = []
    with (
        guarded(),
        ThreadPoolExecutor(cores()) as pool,
        progress.bar("read images", len(tree.files)) if progress else nullcontext() as advance,
    ):
        for first in range(0, len(tree.files), 512):
            block = tree.files[first : first + 512]
            for file, (found, digest) in zip(block, pool.map(_look, [f.path for f in block]), strict=True):
                if digest:
                    same[digest].append(file)
                if isinstance(found, str):
                    unreadable.append({"file": str(file.path.relative_to(root)), "reason": found})
                    continue
                formats[found[0]] += 1
                modes[found[1]] += 1
                sizes.append(found[2])
            if advance:
                advance(first + len(block), f"{len(unreadable)} unreadable")
    counted = Counter(f"{f.part}/{f.label}" if tree.parts else f.label for f in tree.files)
    return {
        "kind": "folder" if folders else "images without labels",
        "images": len(tree.files),
        "classes": dict(sorted(counted.items())) if folders else {},
        "empty_classes": tree.empty,
        "parts": list(tree.parts),
        "width": _range([w for w, _ in sizes]),
        "height": _range([h for _, h in sizes]),
        "formats": dict(formats.most_common()),
        "modes": dict(modes.most_common()),
        "duplicates": _duplicates([files for files in same.values() if len(files) > 1], root),
        "unreadable": unreadable,
        "not_images": [str(p.relative_to(root)) for p in tree.others],
        "outside_classes": [str(p.relative_to(root)) for p in tree.loose],
    }


def _look(path: Path) -> tuple[tuple[str, str, tuple[int, int]] | str, str | None]:
    try:
        content = path.read_bytes()
    except OSError as error:
        return str(error), None
    return probe(path), hashlib.sha256(content).hexdigest() if content else None


def _range(values: list[int]) -> dict[str, float] | None:
    return {"min": min(values), "median": statistics.median(values), "max": max(values)} if values else None


def _duplicates(groups: list[list[File]], root: Path) -> dict[str, Any]:
    """Files with the same bytes. Across classes one label is wrong; across parts the test split is not unseen."""
    return {
        "files": sum(len(g) - 1 for g in groups),
        "across_classes": sum(len({f.label for f in g}) > 1 for g in groups),
        "across_parts": sum(len({f.part for f in g}) > 1 for g in groups),
        "examples": [[str(f.path.relative_to(root)) for f in g] for g in groups[:SHOWN]],
    }
