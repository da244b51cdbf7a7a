"""A folder of images, one sub-folder a class: found, grouped, decoded once, kept memory-mapped."""

from __future__ import annotations

import os
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from limbeck.core.errors import AbsentError, UserError, did_you_mean
from limbeck.core.files import cache_dir, read_json, write_atomic, write_json
from limbeck.core.hashing import fingerprint
from limbeck.core.machine import cores
from limbeck.core.progress import Progress
from limbeck.core.readers.images import SUFFIXES, decode, guarded
from limbeck.core.seeding import derive_seed
from limbeck.data.dataset import Keys
from limbeck.data.prepare import Raw, share_limit
from limbeck.data.split import subset

if TYPE_CHECKING:
    from limbeck import recipe

PARTS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
BLOCK = 512  # files decoded between two writes; bounds memory and how long Ctrl-C takes
FORMAT = 1  # raise it when decoding changes, so that what was stored before is not used


@dataclass(frozen=True)
class File:
    """An image file: where it is, its path below the root (or below train, val, test), its class and its part."""

    path: Path
    below: str
    label: str
    part: str = "train"


@dataclass(frozen=True)
class Tree:
    """What a folder holds: images by class, classes without any, files that are no images, images outside any class."""

    files: list[File]
    empty: list[str]
    others: list[Path]
    loose: list[Path]
    parts: tuple[str, ...] = ()


# --- finding -------------------------------------------------------------------------------------


def scan(root: Path) -> Tree:
    """List a folder of images without opening any.

    Raises:
        AbsentError: there is no such folder.
        UserError: there is no sub-folder in it.
    """
    if not root.is_dir():
        raise AbsentError("is no folder" if root.exists() else "there is no such folder", where=str(root))
    if not os.access(root, os.R_OK | os.X_OK):
        raise UserError("may not be read by this user", where=str(root))
    top = _folders(root)
    names = {PARTS.get(folder.name.lower()) for folder in top}
    presplit = None not in names and "train" in names and len(names) == len(top) > 1
    if not presplit:
        return Tree(*_classes(root, "train"), _loose(root))
    found: list[File] = []
    empties: list[str] = []
    others: list[Path] = []
    loose = _loose(root)
    for folder in top:
        files, empty, more = _classes(folder, PARTS[folder.name.lower()])
        found, empties, others = found + files, empties + [f"{folder.name}/{e}" for e in empty], others + more
        loose += _loose(folder)
    return Tree(found, empties, others, loose, tuple(p for p in ("train", "val", "test") if p in names))


def _folders(root: Path) -> list[Path]:
    return sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith((".", "__")))


def _loose(root: Path) -> list[Path]:
    return sorted(p for p in root.iterdir() if p.is_file() and p.suffix.lower() in SUFFIXES)


def _classes(root: Path, part: str) -> tuple[list[File], list[str], list[Path]]:
    files, empty, others = [], [], []
    folders = _folders(root)
    if not folders:
        raise UserError("has no sub-folders; one sub-folder a class is expected", where=str(root))
    for folder in folders:
        mine = sorted(_walk(folder))
        images = [p for p in mine if p.suffix.lower() in SUFFIXES]
        files += [File(p, p.relative_to(root).as_posix(), _shown(folder.name), part) for p in images]
        others += [p for p in mine if p.suffix.lower() not in SUFFIXES]
        if not images:
            empty.append(_shown(folder.name))
    return files, empty, others


def _shown(name: str) -> str:
    """A name of the file system as text that can be printed and stored, also where its bytes are not UTF-8."""
    return os.fsencode(name).decode("utf-8", "replace")


def _walk(folder: Path) -> Iterable[Path]:
    """Every file below, hidden ones left out; links to folders are followed once."""
    seen = set()
    for place, folders, files in os.walk(folder, followlinks=True):
        seen.add(os.path.realpath(place))
        folders[:] = [
            f for f in folders
            if not f.startswith((".", "__")) and os.path.realpath(Path(place, f)) not in seen
        ]  # fmt: skip
        yield from (Path(place, f) for f in files if not f.startswith(".") and f != "Thumbs.db")


def files_below(folder: Path) -> list[File]:
    """All images below a folder, whatever its sub-folders are called, without labels.

    Raises:
        UserError: there are none.
    """
    found = sorted(p for p in _walk(folder) if p.suffix.lower() in SUFFIXES)
    if not found:
        raise UserError("has no PNG, JPEG, WebP or BMP images", where=str(folder))
    return [File(p, p.relative_to(folder).as_posix(), "") for p in found]


def choose(tree: Tree, wanted: int | Sequence[str] | None, where: str) -> tuple[list[File], tuple[str, ...]]:
    """Files of the wanted classes (the N largest, or those named; all by default), and the class names in order.

    Raises:
        UserError: unknown or too few classes, or one without images.
    """
    sizes = Counter(file.label for file in tree.files)
    known = sorted({*sizes, *(e.rpartition("/")[2] for e in tree.empty)})
    if isinstance(wanted, int):
        if wanted > len(sizes):
            raise UserError(f"`classes` asks for {wanted}, and {len(sizes)} have images", where=where)
        names = tuple(sorted(sorted(sizes, key=lambda n: (-sizes[n], n))[:wanted]))
    else:
        names = tuple(wanted) if wanted is not None else tuple(known)
        for name in names:
            if name not in known:
                raise UserError(f"there is no class '{name}'", where=where, hint=did_you_mean(name, known))
        if len(set(names)) < len(names):
            raise UserError("`classes` names a class twice", where=where)
    if not sizes:
        raise UserError("has no PNG, JPEG, WebP or BMP images in its sub-folders", where=where)
    bare = [e for e in tree.empty if e.rpartition("/")[2] in names] if not isinstance(wanted, int) else []
    if bare:
        raise UserError(
            f"class '{bare[0]}' has no images" + (f", nor have {len(bare) - 1} others" if bare[1:] else ""),
            where=where, hint="remove the folder, or name the classes to use in `classes`",
        )  # fmt: skip
    if len(names) < 2:
        raise UserError(f"has only one class, '{names[0]}'; at least two are needed", where=where)
    wanted_names = set(names)
    return [f for f in tree.files if f.label in wanted_names], names


def group_keys(files: Iterable[File], group: str) -> NDArray[np.str_]:
    """The group of each file: near-duplicates that must stay on one side of a split.

    Args:
        files: the files.
        group: the word `stem` (class and file stem up to the first of `- + ~ (`, digits dropped), or a regular
            expression on the path below the root, whose groups (or whole match) make the key.

    Raises:
        UserError: the expression is not valid, or finds nothing in some path.
    """
    if group == "stem":
        return np.array([f"{f.label}/{re.sub(r'[0-9]', '', re.split(r'[-+~(]', f.path.stem)[0])}" for f in files])
    try:
        pattern = re.compile(group)
    except re.error as error:
        raise UserError(f"'{group}' is no regular expression ({error})", where="data.split.group") from error
    keys = []
    for file in files:
        if not (match := pattern.search(file.below)):
            raise UserError(f"'{group}' finds nothing in '{file.below}'", where="data.split.group")
        keys.append("\0".join(g or "" for g in match.groups()) if pattern.groups else match[0])
    return np.array(keys)


# --- decoding ------------------------------------------------------------------------------------


def decoded(
    files: Sequence[File], size: int, channels: int, background: str, progress: Progress | None
) -> tuple[NDArray[np.uint8], dict[int, str], str]:
    """All files as one memory-mapped uint8 array [N, channels, size, size], made once and found again the next time.

    Returns:
        The array, without the unreadable files; those as position -> reason; and the key it is stored under, which
        depends on the files' paths, sizes and times and on the preparation.
    """
    key = fingerprint([_identity(file) for file in files], size, channels, background, FORMAT)
    array_path, record_path = (cache_dir() / "decoded" / f"{key}{end}" for end in (".npy", ".json"))
    if (found := _stored(array_path, record_path)) is None:
        _check_room(array_path, len(files) * channels * size * size)
        unreadable: dict[int, str] = {}

        def write(part: Path) -> None:
            _decode_to(part, files, (channels, size, size), background, unreadable, progress)

        try:
            write_atomic(array_path, write)
            write_json(record_path, {"files": len(files), "unreadable": unreadable})
        except UserError as error:
            raise UserError(error.what, where=error.where, hint="set LIMBECK_CACHE to a place with room") from error
        found = _stored(array_path, record_path)
    if found is None:
        raise UserError("what was just written cannot be read again", where=str(array_path))
    return *found, key


def _stored(array_path: Path, record_path: Path) -> tuple[NDArray[np.uint8], dict[int, str]] | None:
    """The images decoded before and the unreadable ones; None where there are none, or they are damaged."""
    try:
        unreadable = {int(k): v for k, v in read_json(record_path)["unreadable"].items()}
        # Copy-on-write: torch wants writable memory, and the stored file must never change.
        return np.load(array_path, mmap_mode="c", allow_pickle=False), unreadable
    except (OSError, ValueError, TypeError, KeyError, AttributeError, EOFError, UserError):
        return None


def _identity(file: File) -> tuple[str | int, ...]:
    try:
        about = file.path.stat()
    except OSError:  # a link to nowhere: counted as unreadable when it is decoded
        return file.part, file.below, -1, -1
    return file.part, file.below, about.st_size, about.st_mtime_ns


def _check_room(path: Path, needed: int) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(path.parent).free
    except OSError as error:
        raise UserError(f"cannot be written ({error})", where=str(path.parent), hint="set LIMBECK_CACHE") from error
    if needed > free:
        raise UserError(
            f"decoded images need {needed / 1e6:,.1f} MB and {free / 1e6:,.1f} MB are free", where=str(path.parent),
            hint="free some space, set LIMBECK_CACHE to another place, or choose a smaller `size`",
        )  # fmt: skip


def _decode_to(
    part: Path, files: Sequence[File], shape: tuple[int, ...], background: str,
    unreadable: dict[int, str], progress: Progress | None,
) -> None:  # fmt: skip
    """Fill an .npy file. Written in order, not mapped: a full disk is then an error rather than a crash.

    Threads, because Pillow lets go of the interpreter while it decodes and resizes.
    """
    header = {"descr": "|u1", "fortran_order": False, "shape": (len(files), *shape)}
    no_bar: nullcontext[Callable[[int, str], None]] = nullcontext(lambda done, note: None)
    with (
        part.open("wb") as stream,
        guarded(),
        ThreadPoolExecutor(cores()) as pool,
        progress.bar("decode images", len(files)) if progress else no_bar as advance,
    ):
        np.lib.format.write_array_header_1_0(stream, header)
        start = stream.tell()
        for first in range(0, len(files), BLOCK):
            block = [f.path for f in files[first : first + BLOCK]]
            images = pool.map(lambda path: decode(path, shape[1], shape[0], background), block)
            for position, image in enumerate(images, first):
                if isinstance(image, str):
                    unreadable[position] = image
                else:
                    stream.write(image.tobytes())
            advance(first + len(block), f"{len(files)} files, {len(unreadable)} unreadable")
        stream.seek(0)
        header["shape"] = (len(files) - len(unreadable), *shape)
        np.lib.format.write_array_header_1_0(stream, header)
        if stream.tell() != start:
            raise RuntimeError("the header of a shorter array has another length")


# --- loading -------------------------------------------------------------------------------------


def load_folder(spec: recipe.Data, progress: Progress | None) -> Raw:
    """Load a folder of images, pre-split (train/val[/test]) or not.

    Raises:
        AbsentError: there is no such folder.
        UserError: nothing to learn from in it, or an unreadable file with `strict`.
    """
    root = Path(spec.path or "").expanduser()
    tree = scan(root)
    files, names = choose(tree, spec.classes, str(root))
    notes = []
    if spec.limit is not None and spec.limit < len(files):
        notes.append(f"limited to {spec.limit} of {len(files)} images")
        files = _limited(files, spec.limit, spec.split.seed)
    extra = unlabelled_files(spec, root)
    x, unreadable, key = decoded([*files, *extra], spec.size or 224, spec.channels or 3, spec.background, progress)
    bad = [f"{[*files, *extra][i].below} ({why})" for i, why in unreadable.items()]
    bad += [f"{p.relative_to(root)} (not an image)" for p in tree.others]
    if bad and spec.strict:
        raise UserError(
            f"{len(bad)} files cannot be read: {first_few(bad)}",
            where=str(root),
            hint="remove `strict: true` to skip them",
        )
    if bad:
        notes.append(f"skipped {len(bad)} files that cannot be read: {first_few(bad)}")
    if tree.loose:
        outside = [str(p.relative_to(root)) for p in tree.loose]
        notes.append(f"not used, because they stand outside the class folders: {first_few(outside)}")
    unlabelled = len(extra) - sum(i >= len(files) for i in unreadable)
    files = [f for i, f in enumerate(files) if i not in unreadable]
    place = {name: i for i, name in enumerate(names)}
    labels = np.array([place[f.label] for f in files], dtype=np.int64)
    counts = np.bincount(labels, minlength=len(names))
    if (counts == 0).any():
        raise UserError(f"class '{names[int(np.argmin(counts))]}' has no readable image", where=str(root))
    own, known = (
        np.array([_shown(file.path.relative_to(root).as_posix()) for file in some]) for some in (files, tree.files)
    )
    val, test, said = published_parts(tree.parts, np.array([f.part for f in files]), spec.split)
    return Raw(
        name=f"folder {_shown(root.resolve().name)}",
        x=torch.from_numpy(x),
        y=torch.from_numpy(labels),
        names=names,
        notes=(*notes, *said),
        groups=group_keys(files, spec.split.group) if spec.split.group else None,
        published_val=val,
        published_test=test,
        unlabelled=unlabelled,
        identity=key,
        keys=Keys(own, known),
    )


def unlabelled_files(spec: recipe.Data, root: Path) -> list[File]:
    """Images without a label in a folder, decoded in one file with the others."""
    path = Path(spec.unlabelled or "").expanduser()
    if not spec.unlabelled or not path.is_dir():
        return []
    if path.resolve().is_relative_to(root.resolve()):
        what = f"lies inside {root}, where every folder is a class"
        raise UserError(what, where=f"data.unlabelled: {path}", hint="move it out")
    return files_below(path)


def _limited(files: list[File], limit: int, seed: int) -> list[File]:
    """A stratified subset, chosen before anything is decoded; parts keep their shares."""
    parts = [[f for f in files if f.part == name] for name in ("train", "val", "test")]
    parts = [part for part in parts if part]
    kept: list[File] = []
    for part, wanted in zip(parts, share_limit(limit, [len(p) for p in parts]), strict=True):
        labels = np.array([f.label for f in part])
        kept += [part[i] for i in subset(labels, wanted, derive_seed("folder", seed))]
    return kept


def published_parts(
    parts: tuple[str, ...], part: NDArray[np.str_], split: recipe.Split
) -> tuple[NDArray[np.int64] | None, NDArray[np.int64] | None, list[str]]:
    """Validation rows and test rows of a tree that is split already, and what to say about them."""
    if not parts:
        return None, None, []
    shown = "/".join(parts)
    if split.test is not None:
        return None, None, [f"the folder's own split ({shown}) is set aside, because `split.test` is given"]
    rows = {name: np.flatnonzero(part == name) for name in parts}
    if "test" not in parts:
        return None, rows["val"], ["no test folder: val is the test split, and validation rows are drawn from train"]
    if "val" not in parts:
        return None, rows["test"], ["no val folder: validation rows are drawn from train"]
    noted = [f"the folder's own split ({shown}) is used"]
    if split.model_fields_set & {"val", "seed", "stratify"}:
        noted[0] += "; `split` has no effect"
    return rows["val"], rows["test"], noted


def first_few(items: Sequence[str]) -> str:
    """The first of some names, for a message."""
    return _shown(", ".join(items[:5])) + (", ..." if len(items) > 5 else "")
