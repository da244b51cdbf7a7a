"""What a source gives, and how it becomes `Data`: limit, split, flatten, measure, fingerprint."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from limbeck.core.errors import UserError
from limbeck.core.files import cache_dir, read_json, write_json
from limbeck.core.hashing import fingerprint, fingerprint_tensors
from limbeck.core.scaling import Scaling
from limbeck.core.types import UNLABELLED, Column, Kind, Task
from limbeck.data.dataset import Data, Keys, digests, measure, measure_log
from limbeck.data.multilabel import missing, strata
from limbeck.data.split import Rows, Splits, subset, three_way
from limbeck.tasks import rules


@dataclass(frozen=True, eq=False)
class Raw:
    """Rows of a source before they are split.

    Attributes:
        name: what was loaded.
        x: as in `Data`.
        y: as in `Data`.
        names: class names, or names of the labels or regression targets.
        columns: column names of a table, one for each input.
        table: columns of a table as the user has them.
        notes: what the user must be told.
        groups: a key for every row.
        published_val: validation rows that came with the data.
        published_test: test rows that came with the data.
        splits: the splits, where the source had to make them itself.
        unlabelled: how many rows at the end of `x` have no label, and no place in `y`, `groups` and the splits.
        identity: stands for the contents of `x` where those are too large to hash.
        keys: what the source calls the rows, where these are not all of its rows in its own order.
    """

    name: str
    x: Tensor
    y: Tensor
    names: tuple[str, ...]
    columns: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    groups: NDArray[Any] | None = None
    published_val: Rows | None = None
    published_test: Rows | None = None
    splits: Splits | None = None
    unlabelled: int = 0
    identity: str | None = None
    table: tuple[Column, ...] = ()
    keys: Keys | None = None


def finish(
    raw: Raw,
    kind: Kind,
    *,
    val: float,
    test: float | None,
    seed: int,
    stratify: bool,
    limit: int | None = None,
    flat: bool = False,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    log_target: bool = False,
) -> Data:
    """Split, prepare and measure what a source gave.

    Raises:
        UserError: too few rows, `flat` without images, `mean` and `std` of the wrong length, or `log_target` and a
            target that has no logarithm.
    """
    raw = replace(raw, keys=raw.keys or Keys.numbered(len(raw.y)))
    if limit is not None:
        raw = _limited(raw, kind, limit, seed)
    splits = raw.splits or divided(
        raw.y, kind, raw.names, groups=raw.groups, val=val, test=test, seed=seed, stratify=stratify,
        published_val=raw.published_val, published_test=raw.published_test,
    )  # fmt: skip
    train, val_rows, test_rows = (torch.from_numpy(r.astype(np.int64)) for r in (splits.train, splits.val, splits.test))
    x, columns, identity = raw.x, raw.columns, raw.identity
    y, unlabelled, left_out = _unlabelled(raw, torch.cat([val_rows, test_rows]))
    if flat:
        if x.ndim != 4:
            raise UserError("the rows are a table already: `flat` has no effect", where="data.flat")
        x = x.reshape(len(x), -1)  # bytes stay bytes, and a mapped file stays one
        columns, identity = tuple(f"pixel_{i}" for i in range(x.shape[1])), identity and f"{identity}-flat"
    inputs = _measured(x, train, identity) if mean is None or std is None else _given(mean, std, x)
    scales = (measure_log if log_target else measure)(raw.y, train) if rules(kind).predicts == "values" else None
    rows = {"y": y, "train": train, "val": val_rows, "test": test_rows, "mean": inputs.mean, "std": inputs.std}
    rows |= {"unlabelled": unlabelled} if len(unlabelled) else {}
    contents = fingerprint_tensors(rows if identity else {**rows, "x": x})
    return Data(
        name=raw.name,
        task=Task(kind, raw.names),
        x=x,
        y=y,
        train=train,
        val=val_rows,
        test=test_rows,
        unlabelled=unlabelled,
        inputs=inputs,
        targets=scales,
        notes=(*raw.notes, *splits.notes, *left_out),
        fingerprint=fingerprint(
            contents, identity, kind, raw.names, columns, list(x.shape), *(["log"] if log_target else [])
        ),
        columns=columns,
        table=raw.table or (tuple(Column(name) for name in columns) if x.ndim == 2 and not flat else ()),
        keys=raw.keys,
        groups=None if raw.groups is None else np.unique(raw.groups, return_inverse=True)[1].ravel(),
    )


def _unlabelled(raw: Raw, held_out: Tensor) -> tuple[Tensor, Tensor, list[str]]:
    """Targets of all rows, the rows without a label to learn from, and what is to be said of them.

    A row that is one of the validation or test split over again is left out: these would no longer be unseen.
    """
    count = raw.unlabelled
    if not count:
        return raw.y, torch.empty(0, dtype=torch.int64), []
    nobody = torch.nan if raw.y.is_floating_point() else UNLABELLED
    y = torch.cat([raw.y, raw.y.new_full((count, *raw.y.shape[1:]), nobody)])
    seen = set(digests(raw.x, held_out))
    rows = torch.arange(len(raw.y), len(raw.x))
    kept = rows[torch.tensor([digest not in seen for digest in digests(raw.x, rows)])]
    if not len(kept):
        what = "all rows without a label are rows of the validation or test split"
        raise UserError(what, where="data.unlabelled", hint="give others: these are what students are judged by")
    left_out = count - len(kept)
    notes = [f"{left_out} of {count} rows without a label are left out: the validation or test split has the same"]
    return y, kept, notes if left_out else []


def divided(
    y: Tensor,
    kind: Kind,
    names: Sequence[str],
    *,
    groups: NDArray[Any] | None = None,
    published_test: Rows | None = None,
    **how: Any,
) -> Splits:
    """The three splits of rows with these targets, as `three_way` makes them of strata.

    Args:
        y: as in `Data`.
        kind: of the task.
        names: of classes, labels or values.
        groups: as in `three_way`. Sets of labels are then no strata: there are too few groups of each.
        published_test: as in `three_way`.
        how: the rest of its arguments.
    """
    shared: dict[str, Any] = {"groups": groups, "published_test": published_test, **how}
    if rules(kind).predicts != "labels":
        one = rules(kind).predicts == "classes" and y.ndim == 1
        return three_way(y.numpy() if one else None, len(y), names=names, **shared)
    labels = None
    if groups is None:
        drawn = np.ones(len(y), dtype=bool)  # rows that stand in the test split already need no stratum
        if published_test is not None and how["test"] is None:
            drawn[published_test] = False
        labels = np.zeros(len(y), dtype=np.int64)
        labels[drawn] = strata(y[torch.from_numpy(drawn)])
    splits = three_way(labels, len(y), **shared)
    return replace(splits, notes=(*splits.notes, *missing(y, splits, names)))


def share_limit(limit: int, sizes: Sequence[int]) -> list[int]:
    """Cut `limit` rows in proportion to the sizes of published parts, at least one each."""
    total = sum(sizes)
    shares = [max(1, round(limit * size / total)) for size in sizes[1:]]
    return [max(1, limit - sum(shares)), *shares]


def _limited(raw: Raw, kind: Kind, limit: int, seed: int) -> Raw:
    """A seeded, stratified subset; the published parts keep their shares."""
    total = len(raw.y)
    if limit >= total:
        return replace(raw, notes=(*raw.notes, f"limit: {limit} keeps all {total} rows"))
    labels = _strata(raw.y, kind)
    published = [p for p in (raw.published_val, raw.published_test) if p is not None]
    rest = np.setdiff1d(np.arange(total), np.concatenate(published)) if published else np.arange(total)
    parts = [rest, *published]
    wanted = share_limit(limit, [len(p) for p in parts])
    kept = [part[subset(labels[part], n, seed)] for part, n in zip(parts, wanted, strict=True)]
    rows = np.concatenate(kept)
    ends = np.cumsum([len(k) for k in kept])
    places = iter(np.arange(start, end) for start, end in pairwise(ends))
    index = torch.from_numpy(rows)
    return replace(
        raw,
        x=raw.x[torch.cat([index, torch.arange(total, len(raw.x))])],
        y=raw.y[index],
        groups=raw.groups[rows] if raw.groups is not None else None,
        published_val=next(places) if raw.published_val is not None else None,
        published_test=next(places) if raw.published_test is not None else None,
        identity=None,
        keys=replace(raw.keys, own=raw.keys.own[rows]) if raw.keys else None,
        notes=(*raw.notes, f"limited to {len(rows)} of {total} rows"),
    )


def _strata(y: Tensor, kind: Kind) -> Rows:
    if rules(kind).predicts == "labels":
        return strata(y)
    one = rules(kind).predicts == "classes" and y.ndim == 1
    return y.numpy() if one else np.zeros(len(y), dtype=np.int64)


def _measured(x: Tensor, train: Tensor, identity: str | None) -> Scaling:
    """Scaling of the inputs; of data too large to hash it is kept, so that a second start does not read it all."""
    if x.dtype == torch.int64:
        return Scaling(torch.zeros(1), torch.ones(1))  # token ids are no amounts
    if identity is None:
        return measure(x, train)
    kept = cache_dir() / "decoded" / f"{identity}-{fingerprint_tensors({'train': train})}.json"
    with contextlib.suppress(UserError, TypeError, KeyError, ValueError):  # absent or damaged: measured again
        found = read_json(kept)
        return Scaling(torch.tensor(found["mean"]), torch.tensor(found["std"]))
    scaling = measure(x, train)
    with contextlib.suppress(UserError):  # nothing depends on it being kept
        write_json(kept, {"mean": scaling.mean.tolist(), "std": scaling.std.tolist()})
    return scaling


def _given(mean: Sequence[float], std: Sequence[float], x: Tensor) -> Scaling:
    width = x.shape[1]
    for name, values in (("mean", mean), ("std", std)):
        if len(values) not in (1, width):
            what = "channels" if x.ndim == 4 else "columns"
            raise UserError(f"`{name}` has {len(values)} numbers for {width} {what}", where=f"data.{name}")
    fixed = [torch.tensor(list(values), dtype=torch.float32).expand(width).clone() for values in (mean, std)]
    return Scaling(fixed[0], fixed[1])


def check_labels(y: Tensor, names: Sequence[str], where: str) -> None:
    """Refuse labels that are not 0 to C - 1 with at least two classes.

    Raises:
        UserError: with the first row at fault.
    """
    wrong = torch.nonzero((y < 0) | (y >= len(names))).flatten()
    if len(wrong):
        row = int(wrong[0])
        raise UserError(
            f"{len(wrong)} labels are outside 0 to {len(names) - 1}; the first is {int(y[row])} in row {row}",
            where=where,
        )
    if len(torch.unique(y)) < 2:
        raise UserError("all rows have one class; there is nothing to tell apart", where=where)
