"""Images beside masks: a folder `images` and a folder `masks`, in which a mask has its image's name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from limbeck.core.errors import AbsentError, UserError
from limbeck.core.machine import cores
from limbeck.core.progress import Progress
from limbeck.core.readers.images import guarded, image_size, reason
from limbeck.core.seeding import derive_seed
from limbeck.core.types import IGNORED, VOID
from limbeck.data.dataset import Keys
from limbeck.data.prepare import Raw, share_limit
from limbeck.data.sources.folder import (
    PARTS,
    File,
    decoded,
    files_below,
    first_few,
    group_keys,
    published_parts,
    unlabelled_files,
)
from limbeck.recipe.sources import has_masks

if TYPE_CHECKING:
    from limbeck import recipe

NUMBERS = ("1", "L", "P", "I", "I;16")  # of Pillow's modes, those whose pixels are whole numbers
MOST = 2**15  # classes that int16 can count


@dataclass(frozen=True)
class Pair:
    """An image, and its mask."""

    file: File
    mask: Path


def load_masks(spec: recipe.Data, progress: Progress | None) -> Raw:
    """Load images and masks, pre-split (train/val[/test], each with `images` and `masks`) or not.

    A mask is a PNG whose pixels are class numbers, grey or palette. Images are resized bilinearly, masks to the nearest
    pixel. The names of the classes are those of the recipe, or the lines of `classes.txt` beside the folders, or the
    numbers that occur. Pixels of `ignore` do not count: 255 where the recipe does not say and it is no class.

    Raises:
        AbsentError: there is no such folder.
        UserError: an image without a mask, a mask of another size than its image, that is no mask, or with a number
            that is no class; or an unreadable file with `strict`.
    """
    root, size = Path(spec.path or "").expanduser(), spec.size or 224
    pairs, parts = find_pairs(root)
    found, notes = pairs, []
    if spec.limit is not None and spec.limit < len(pairs):
        notes.append(f"limited to {spec.limit} of {len(pairs)} images")
        pairs = _limited(pairs, spec.limit, spec.split.seed)
    masks, bad = _read_masks(pairs, size, progress)
    pairs = [pair for pair, mask in zip(pairs, masks, strict=True) if mask is not None]
    y, names, said = _classes(spec, root, pairs, [mask for mask in masks if mask is not None])
    extra = unlabelled_files(spec, root)
    files = [pair.file for pair in pairs]
    x, unreadable, key = decoded([*files, *extra], size, spec.channels or 3, spec.background, progress)
    bad += [f"{[*files, *extra][i].below} ({why})" for i, why in unreadable.items()]
    if bad and spec.strict:
        what = f"{len(bad)} files cannot be read: {first_few(bad)}"
        raise UserError(what, where=str(root), hint="remove `strict: true` to skip them")
    if bad:
        notes.append(f"skipped {len(bad)} files that cannot be read: {first_few(bad)}")
    kept = [i for i in range(len(files)) if i not in unreadable]
    files = [files[i] for i in kept]
    val, test, split_notes = published_parts(parts, np.array([f.part for f in files]), spec.split)
    own, known = (
        np.array([f.path.relative_to(root).as_posix() for f in some]) for some in (files, [p.file for p in found])
    )
    return Raw(
        name=f"masks {root.resolve().name}",
        x=torch.from_numpy(x),
        y=torch.from_numpy(y[kept]),
        names=names,
        notes=(*notes, *said, *split_notes),
        groups=group_keys(files, spec.split.group) if spec.split.group else None,
        published_val=val,
        published_test=test,
        unlabelled=len(x) - len(files),
        identity=key,
        keys=Keys(own, known),
    )


def find_pairs(root: Path) -> tuple[list[Pair], tuple[str, ...]]:
    """Images with their masks, and the parts that there are; nothing is opened.

    Raises:
        AbsentError: there is no such folder.
        UserError: the folders are not there, or an image has no mask.
    """
    if not root.is_dir():
        raise AbsentError("is no folder" if root.exists() else "there is no such folder", where=str(root))
    if not has_masks(root):
        hint = "expected are the folders images and masks, or these in train, val and test"
        raise UserError("has no folders images and masks", where=str(root), hint=hint)
    if (root / "images").is_dir():
        return _pairs_in(root, "train"), ()
    pairs, seen = list[Pair](), set[str]()
    for folder in sorted(p for p in root.iterdir() if p.is_dir() and p.name.lower() in PARTS):
        part = PARTS[folder.name.lower()]
        seen.add(part)
        pairs += _pairs_in(folder, part)
    return pairs, tuple(part for part in ("train", "val", "test") if part in seen)


def _pairs_in(folder: Path, part: str) -> list[Pair]:
    pairs, missing = [], []
    for file in files_below(folder / "images"):
        mask = (folder / "masks" / file.below).with_suffix(".png")
        if not mask.is_file():
            missing.append(file.below)
        pairs.append(Pair(File(file.path, file.below, "", part), mask))
    if missing:
        what = f"{len(missing)} images have no mask: {first_few(missing)}"
        hint = f"each has a PNG of its name in {folder / 'masks'}; move those without one, for `data.unlabelled`"
        raise UserError(what, where=str(folder / "images"), hint=hint)
    return pairs


def _limited(pairs: list[Pair], limit: int, seed: int) -> list[Pair]:
    """A seeded subset, chosen before anything is decoded; parts keep their shares."""
    by_part = [[p for p in pairs if p.file.part == name] for name in ("train", "val", "test")]
    by_part = [part for part in by_part if part]
    kept: list[Pair] = []
    for part, wanted in zip(by_part, share_limit(limit, [len(p) for p in by_part]), strict=True):
        order = np.random.default_rng(derive_seed("masks", seed)).permutation(len(part))
        kept += [part[i] for i in sorted(order[:wanted])]
    return kept


# --- masks ---------------------------------------------------------------------------------------


def _read_masks(
    pairs: Sequence[Pair], size: int, progress: Progress | None
) -> tuple[list[NDArray[np.int32] | None], list[str]]:
    """Each mask [size, size], None for one that cannot be read; and why it cannot."""
    found: list[NDArray[np.int32] | None] = []
    bad: list[str] = []
    no_bar: nullcontext[Callable[[int, str], None]] = nullcontext(lambda done, note: None)
    with (
        guarded(),
        ThreadPoolExecutor(cores()) as pool,
        progress.bar("read masks", len(pairs)) if progress else no_bar as advance,
    ):
        for done, (pair, mask) in enumerate(zip(pairs, pool.map(lambda p: _read(p, size), pairs), strict=True), 1):
            if isinstance(mask, str):
                bad.append(f"{pair.file.below} ({mask})")
            found.append(None if isinstance(mask, str) else mask)
            if done % 64 == 0 or done == len(pairs):
                advance(done, f"{done} masks")
    if not any(mask is not None for mask in found):
        raise UserError(f"no mask can be read: {first_few(bad)}", where=str(pairs[0].mask.parent))
    return found, bad


def _read(pair: Pair, size: int) -> NDArray[np.int32] | str:
    """A mask as class numbers, or why it or its image cannot be read.

    Raises:
        UserError: it is no mask, or not of its image.
    """
    try:
        wanted = image_size(pair.file.path)
        with Image.open(pair.mask, formats=("PNG",)) as opened:
            opened.load()
            mask = opened.copy()
    except Exception as error:  # damaged files make decoders raise nearly anything
        return reason(pair.mask, error)
    if mask.mode not in NUMBERS:
        raise UserError(
            f"is a picture ({mask.mode}), not a mask: its pixels are colours",
            where=str(pair.mask),
            hint="write class numbers as a grey or palette PNG",
        )
    if mask.size != wanted:
        what = f"is {mask.size[0]} x {mask.size[1]} pixels, and its image {wanted[0]} x {wanted[1]}"
        raise UserError(what, where=str(pair.mask))
    values = np.asarray(mask).astype(np.int32)
    # The pixel in whose middle the middle of the smaller one lies.
    rows, columns = (((np.arange(size) + 0.5) * length / size).astype(np.int64) for length in values.shape)
    resized: NDArray[np.int32] = values[rows[:, None], columns]
    return resized


def _classes(
    spec: recipe.Data, root: Path, pairs: Sequence[Pair], masks: Sequence[NDArray[np.int32]]
) -> tuple[NDArray[np.int16], tuple[str, ...], list[str]]:
    """Masks as class indices [N, H, W], `IGNORED` where a pixel does not count; names; and what was guessed."""
    values = np.stack(masks)
    occurring, counts = np.unique(values, return_counts=True)
    names, notes = _names(spec, root), []
    ignore = spec.ignore
    if ignore is None and VOID in occurring and (names is None or len(names) <= VOID):
        ignore = VOID
        notes.append(f"{VOID} in masks is taken for pixels that do not count (see `data.ignore`)")
    classes = [int(value) for value in occurring if value != ignore]
    if names is None:
        if not classes or max(classes) >= MOST:
            raise UserError(
                f"masks hold numbers up to {max(classes, default=0)}", where=str(root), hint="give `classes`"
            )
        names = tuple(str(n) for n in range(max(2, max(classes) + 1)))
        notes.append(f"classes have no names: 0 to {len(names) - 1} (see `data.classes`)")
    if wrong := [value for value in classes if not 0 <= value < len(names)]:
        n, row, column = (int(i[0]) for i in np.nonzero(values == wrong[0]))
        what = f"holds {wrong[0]}, and classes are 0 to {len(names) - 1}; first in row {row}, column {column}"
        hint = f"write `ignore: {wrong[0]}` if such pixels do not count, or name more `classes`"
        raise UserError(f"{what} at {values.shape[1]} x {values.shape[2]}", where=str(pairs[n].mask), hint=hint)
    if len(classes) < 2:
        raise UserError("all masks hold one class; there is nothing to tell apart", where=str(root))
    if absent := [name for n, name in enumerate(names) if n not in classes]:
        notes.append(f"no mask has a pixel of: {first_few(absent)}")
    share = dict(zip(occurring.tolist(), (counts / counts.sum()).tolist(), strict=True))
    notes.append("share of the pixels: " + ", ".join(f"{names[value]} {share[value]:.1%}" for value in classes))
    return np.where(values == ignore, IGNORED, values).astype(np.int16), names, notes


def _names(spec: recipe.Data, root: Path) -> tuple[str, ...] | None:
    if isinstance(spec.classes, int):
        return tuple(str(n) for n in range(spec.classes))
    listed: Any = spec.classes
    if listed is None and (root / "classes.txt").is_file():
        listed = [
            line.strip() for line in (root / "classes.txt").read_text(encoding="utf-8").splitlines() if line.strip()
        ]
    if listed is not None and len(set(listed)) < len(listed):
        raise UserError("a class is named twice", where="data.classes" if spec.classes else str(root / "classes.txt"))
    return tuple(listed) if listed is not None else None
