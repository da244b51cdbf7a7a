"""A folder of images cut into a train/val[/test] tree."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections import Counter
from contextlib import nullcontext
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from limbeck.core.errors import UserError, did_you_mean
from limbeck.core.progress import Progress
from limbeck.core.seeding import derive_seed
from limbeck.data.sources.folder import choose, group_keys, scan
from limbeck.data.split import draw

How = Literal["copy", "hardlink", "symlink"]


def split_folder(
    source: Path,
    target: Path,
    *,
    val: float,
    test: float = 0.0,
    seed: int,
    how: How = "copy",
    group: str | None = None,
    progress: Progress | None = None,
) -> dict[str, dict[str, int]]:
    """Write target/train/<class>/..., target/val/<class>/... (and test), stratified; all of it or nothing.

    Args:
        source: a folder with one sub-folder a class.
        target: where to write; absent or empty.
        val: share of the images that are not test images.
        test: share of all images; 0 for no test folder.
        seed: of the shuffle.
        how: copy files, or link to them.
        group: as `data.split.group` of a recipe: near-duplicates that stay on one side.
        progress: where to show how far it is.

    Returns:
        Number of files: part -> class -> count.

    Raises:
        UserError: a share out of range, nothing to split, or a target that cannot be written to.
    """
    source, target = Path(source).expanduser(), Path(target).expanduser()
    if how not in get_args(How):
        raise UserError(f"'{how}' is no way to place files", where="how", hint=did_you_mean(how, get_args(How)))
    if not 0 < val < 1 or not 0 <= test < 1:
        raise UserError(f"val ({val}) and test ({test}) are shares between 0 and 1", where="val, test")
    tree = scan(source)
    if tree.parts:
        raise UserError(f"is split already ({'/'.join(tree.parts)})", where=str(source))
    _check_target(source, target)
    files, names = choose(tree, None, str(source))
    place = {name: i for i, name in enumerate(names)}
    labels = np.array([place[f.label] for f in files])
    keys = np.unique(group_keys(files, group), return_inverse=True)[1].ravel() if group else None
    rows = np.arange(len(files))
    part = np.full(len(files), "train")
    for label, name in enumerate(names):
        mine = labels == label
        count = mine.sum() if keys is None else len(np.unique(keys[mine]))
        if count < (needed := 3 if test else 2):
            what = "images" if keys is None else "groups"
            raise UserError(f"class '{name}' has {count} {what}, too few for {needed} splits", where=str(source))
    if test:
        part[draw(rows, labels, keys, test, derive_seed("test", seed), keep=2)] = "test"
    part[draw(rows[part == "train"], labels, keys, val, derive_seed("val", seed))] = "val"

    places = [Path(p, f.below) for p, f in zip(part.tolist(), files, strict=True)]
    try:
        _place([f.path for f in files], places, target, how, progress)
    except OSError as error:
        hint = "use copy: links cannot cross file systems" if error.errno == errno.EXDEV else None
        raise UserError(f"cannot be written ({error.strerror or error})", where=str(target), hint=hint) from error
    return {
        name: {label: counts[label] for label in names}
        for name in ("train", "val", *(["test"] if test else []))
        for counts in [Counter(f.label for f, p in zip(files, part.tolist(), strict=True) if p == name)]
    }


def _check_target(source: Path, target: Path) -> None:
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UserError("is there already and not an empty folder", where=str(target), hint="choose a new place")
    if target.resolve().is_relative_to(source.resolve()):
        raise UserError("lies inside the source", where=str(target), hint="choose a place outside of it")


def _place(files: list[Path], places: list[Path], target: Path, how: How, progress: Progress | None) -> None:
    """Build the tree beside `target`, then put it in place in one step."""
    target.parent.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}.", suffix=".part"))
    try:
        with progress.bar(f"{how} images", len(files)) if progress else nullcontext() as advance:
            for done, (file, place) in enumerate(zip(files, places, strict=True), 1):
                new = building / place
                new.parent.mkdir(parents=True, exist_ok=True)
                if how == "copy":
                    shutil.copy2(file, new)
                elif how == "hardlink":
                    os.link(file.resolve(), new)
                else:
                    new.symlink_to(file.resolve())
                if advance:
                    advance(done, f"{done} files")
        umask = os.umask(0)  # mkdtemp makes private folders
        os.umask(umask)
        building.chmod(0o777 & ~umask)
        building.rename(target)
    finally:
        shutil.rmtree(building, ignore_errors=True)
