"""Splits: seeded, stratified by class, and with groups kept whole.

scikit-learn's splitters of groups do not promise every class on each side, nor say when it is missing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from limbeck.core.errors import UserError
from limbeck.core.seeding import derive_seed

Rows = NDArray[np.int64]
DEFAULT_TEST = 0.2


@dataclass(frozen=True, eq=False)
class Splits:
    """Row numbers of the three splits, ascending, and what is to be said about them."""

    train: Rows
    val: Rows
    test: Rows
    notes: tuple[str, ...] = ()


def three_way(
    labels: NDArray[Any] | None,
    count: int,
    *,
    names: Sequence[str] = (),
    groups: NDArray[Any] | None = None,
    val: float = 0.15,
    test: float | None = None,
    seed: int = 0,
    stratify: bool = True,
    published_val: Rows | None = None,
    published_test: Rows | None = None,
) -> Splits:
    """Cut `count` rows into training, validation and test rows.

    Args:
        labels: class index (or any other stratum) of every row, or None for regression.
        count: number of rows.
        names: class names, for messages; without them labels are strata of which a split may lack one.
        groups: a key for every row; rows with one key stay on one side.
        val: share of the rows that are not test rows.
        test: share of all rows. None keeps the published test rows, or takes 0.2 where there are none.
        seed: of the shuffle.
        stratify: keep the classes' shares the same in every split.
        published_val: validation rows that came with the data; used if the published test rows are.
        published_test: test rows that came with the data.

    Raises:
        UserError: a class, or the whole set, is too small for this.
    """
    everything = np.arange(count)
    by_class = labels if stratify and labels is not None else np.zeros(count, dtype=np.int64)
    keys = np.unique(groups, return_inverse=True)[1].ravel() if groups is not None else None
    keep = published_test is not None and test is None
    test_rows = published_test if keep else None
    val_rows = published_val if keep else None
    _check_sizes(
        by_class, keys, everything if test_rows is None else np.setdiff1d(everything, test_rows),
        names if stratify and labels is not None else (), parts=1 + (test_rows is None) + (val_rows is None),
    )  # fmt: skip
    if test_rows is None:
        share = DEFAULT_TEST if test is None else test
        test_rows = draw(everything, by_class, keys, share, derive_seed("test", seed), keep=2)
    rest = np.setdiff1d(everything, test_rows)
    if val_rows is None:
        val_rows = draw(rest, by_class, keys, val, derive_seed("val", seed))
    train_rows = np.setdiff1d(rest, val_rows)
    splits = Splits(train_rows, np.sort(val_rows), np.sort(test_rows))
    notes = (*_class_notes(splits, labels, names), *_group_notes(splits, keys))
    return Splits(splits.train, splits.val, splits.test, notes)


def draw(
    rows: Rows, labels: NDArray[Any], keys: NDArray[Any] | None, share: float, seed: int, *, keep: int = 1
) -> Rows:
    """A share of `rows`, ascending: from each class alike, and with whole groups if there are `keys`.

    Args:
        rows: the rows to draw from.
        labels: class index of every row of the data set.
        keys: group number of every row of the data set, or None.
        share: how much to draw, in (0, 1).
        seed: of the shuffle.
        keep: how many rows (or groups) of each class are to be left, at least, where it has enough.
    """
    random = np.random.default_rng(seed)
    _, local = np.unique(labels[rows], return_inverse=True)
    if keys is not None:
        return np.sort(rows[_draw_groups(local, keys[rows], share, random, keep)])
    counts = np.bincount(local)
    wanted = max(round(share * len(rows)), len(counts))
    return np.sort(rows[_pick(local, allocate(counts, wanted, keep=keep), random)])


def subset(labels: NDArray[Any], wanted: int, seed: int) -> Rows:
    """A stratified subset of `wanted` rows (all, if there are no more), ascending."""
    if wanted >= len(labels):
        return np.arange(len(labels))
    _, local = np.unique(labels, return_inverse=True)
    counts = np.bincount(local)
    quota = allocate(counts, max(wanted, len(counts)), keep=0)
    return np.sort(_pick(local, quota, np.random.default_rng(derive_seed("limit", seed))))


def allocate(counts: Rows, wanted: int, *, keep: int) -> Rows:
    """Share `wanted` places among classes in proportion to their `counts`, by largest remainder.

    Every class gets at least one place and, if it has more than `keep` rows, is left with that many.
    """
    exact = counts * (wanted / counts.sum())
    most = np.maximum(counts - keep, 1)
    quota: Rows = np.clip(np.floor(exact).astype(np.int64), 1, most)
    while quota.sum() < wanted and (quota < most).any():
        quota[np.argmax(np.where(quota < most, exact - quota, -np.inf))] += 1
    while quota.sum() > wanted and (quota > 1).any():
        quota[np.argmin(np.where(quota > 1, exact - quota, np.inf))] -= 1
    return quota


def _pick(labels: Rows, quota: Rows, random: np.random.Generator) -> Rows:
    """Positions of `quota[c]` random rows of each class c."""
    shuffled = random.permutation(len(labels))
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    starts = np.concatenate([[0], np.cumsum(np.bincount(labels, minlength=len(quota)))[:-1]])
    place_in_class = np.arange(len(labels)) - starts[labels[by_class]]
    picked: Rows = by_class[place_in_class < quota[labels[by_class]]]
    return picked


def _draw_groups(
    labels: Rows, keys: NDArray[Any], share: float, random: np.random.Generator, keep: int
) -> NDArray[np.bool_]:
    """Whole groups that come nearest to `share` of every class: the best of a few greedy passes in random order."""
    _, group = np.unique(keys, return_inverse=True)
    table = np.zeros((group.max() + 1, labels.max() + 1))
    np.add.at(table, (group, labels), 1)
    weights = table / table.sum(axis=0)  # of each class, the part that a group holds
    best, best_miss = np.zeros(len(table), dtype=bool), np.inf
    for _ in range(8 if len(table) < 4000 else 1):
        taken, left = np.zeros(len(table), dtype=bool), np.full(weights.shape[1], share)
        for candidate in random.permutation(len(table)):
            after = left - weights[candidate]
            if after @ after < left @ left:
                taken[candidate], left = True, after
        taken = _each_class_on_both_sides(weights, taken, keep)
        miss = float(np.square(share - weights[taken].sum(axis=0)).sum())
        if miss < best_miss:
            best, best_miss = taken, miss
    return best[group]


def _each_class_on_both_sides(weights: NDArray[np.float64], taken: NDArray[np.bool_], keep: int) -> NDArray[np.bool_]:
    """Move the smallest groups of a class that is not drawn from, or of which fewer than `keep` groups are left."""
    for label in range(weights.shape[1]):
        members = np.flatnonzero(weights[:, label])
        members = members[np.argsort(weights[members].sum(axis=1), kind="stable")]
        if not taken[members].any() and len(members) > keep:
            taken[members[0]] = True
        for member in members[taken[members]][: max(0, min(keep, len(members) - 1) - int((~taken[members]).sum()))]:
            taken[member] = False
    return taken


def _check_sizes(labels: NDArray[Any], keys: NDArray[Any] | None, rows: Rows, names: Sequence[str], parts: int) -> None:
    """Every class (or the whole set) needs at least one row, or group, for each part that is drawn from `rows`."""
    pairs = labels[rows][:, None] if keys is None else np.unique(np.stack([labels[rows], keys[rows]], axis=1), axis=0)
    counts = np.bincount(pairs[:, 0], minlength=len(names) or 1)
    for label in np.flatnonzero(counts < parts).tolist():
        whose = f"class '{names[label]}' has" if names else "there are"
        raise UserError(
            f"{whose} only {counts[label]} {'rows' if keys is None else 'groups'} to divide into {parts} splits",
            where="data.split",
            hint="leave the class out, add samples (or raise `limit`), or set `stratify: false`"
            if names
            else "add samples (or raise `limit`)",
        )


def _class_notes(splits: Splits, labels: NDArray[Any] | None, names: Sequence[str]) -> list[str]:
    if labels is None or not names:
        return []
    notes = []
    for part, rows in (("training", splits.train), ("validation", splits.val), ("test", splits.test)):
        present = np.bincount(labels[rows], minlength=len(names)) > 0
        missing = [name for name, here in zip(names, present, strict=True) if not here]
        if missing and part == "training":
            raise UserError(f"no training row of class '{missing[0]}' is left", where="data.split")
        if missing:
            notes.append(f"the {part} split has no row of: {', '.join(missing[:10])}")
    return notes


def _group_notes(splits: Splits, keys: NDArray[Any] | None) -> list[str]:
    if keys is None:
        return []
    total = len(keys)
    shares = ", ".join(f"{n} {len(r) / total:.0%}" for n, r in (("val", splits.val), ("test", splits.test)))
    notes = [f"split by group: {len(np.unique(keys))} groups stay whole ({shares} of all rows)"]
    sides = (splits.train, splits.val, splits.test)
    straddling = sum(len(np.intersect1d(keys[a], keys[b])) for a, b in ((sides[0], sides[2]), (sides[1], sides[2])))
    if straddling:
        notes.append(f"the test split that came with the data shares {straddling} groups with the other splits")
    return notes
