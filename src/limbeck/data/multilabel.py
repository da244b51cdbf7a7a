"""Rows that have several labels, or none: each label a yes or no of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from limbeck.core.errors import UserError
from limbeck.data.split import Rows, Splits

WORDS = {"0": 0.0, "1": 1.0, "0.0": 0.0, "1.0": 1.0, "false": 0.0, "true": 1.0}
ENOUGH = 10  # rows with the same labels, or with the same rarest one, that are shared among the splits by themselves


def answers(y: NDArray[Any], where: str) -> Tensor:
    """Yes and no as float32 [N, C]: of 0 and 1, booleans, or the words true and false.

    Raises:
        UserError: another shape, or anything else in it.
    """
    if y.ndim != 2 or not y.size:
        raise UserError(
            f"labels have the shape {y.shape}, not [N, C]",
            where=where,
            hint="give 1 for each label a row has and 0 for the others",
        )
    if y.dtype.kind in "biuf":
        found, wrong = y.astype(np.float32), ~np.isin(y, (0, 1))
    else:
        words = np.char.lower(y.astype(np.str_))
        wrong = ~np.isin(words, list(WORDS))
        found = np.isin(words, [word for word, value in WORDS.items() if value]).astype(np.float32)
    if wrong.any():
        row, column = (int(i[0]) for i in np.nonzero(wrong))
        raise UserError(
            f"{int(wrong.sum())} labels are neither 0 nor 1; the first is '{y[row, column]}' in row {row}, "
            f"column {column}",
            where=where,
        )
    return torch.from_numpy(found)


def check_answers(y: Tensor, names: Sequence[str], where: str) -> None:
    """Refuse labels that all rows have, or none.

    Args:
        y: float32 [N, C].
        names: of the labels.
        where: where they come from.

    Raises:
        UserError: with the name of the first; or there are other numbers of names and labels.
    """
    if len(names) != y.shape[1]:
        raise UserError(f"{len(names)} names for {y.shape[1]} labels", where=where)
    same = torch.nonzero((y == y[0]).all(dim=0)).flatten().tolist()
    if same:
        who = "every row has" if y[0, same[0]] else "no row has"
        raise UserError(
            f"{who} the label '{names[same[0]]}': there is nothing to tell apart", where=where, hint="leave it out"
        )


def strata(y: Tensor) -> Rows:
    """A stratum of every row, int64 [N], by which splits are drawn so that the labels keep their shares.

    Rows with the same set of labels are one stratum where they are `ENOUGH`. A row with a rarer set joins those with
    the same rarest label, and what is then left over is one stratum, or part of the largest.

    Args:
        y: yes and no, [N, C].
    """
    table = y.numpy() > 0.5
    _, found, counts = np.unique(table, axis=0, return_inverse=True, return_counts=True)
    found = found.ravel().astype(np.int64)
    few = counts[found] < ENOUGH
    # The rarest label of each row; rows without any have no label to be rare, and form one set.
    rarest = np.where(table, table.sum(axis=0), len(table) + 1).argmin(axis=1)
    found[few] = -1 - rarest[few]
    known, found, counts = np.unique(found, return_inverse=True, return_counts=True)
    found = found.ravel().astype(np.int64)
    left = counts[found] < ENOUGH
    if left.any():
        enough = np.flatnonzero(counts >= ENOUGH)
        found[left] = len(known) if left.sum() >= ENOUGH or not len(enough) else enough[counts[enough].argmax()]
    return np.unique(found, return_inverse=True)[1].ravel().astype(np.int64)


def missing(y: Tensor, splits: Splits, names: Sequence[str]) -> list[str]:
    """What is to be said of labels that no row of a split has.

    Raises:
        UserError: no training row has a label, or every one has it, so that it cannot be learned.
    """
    notes = []
    for part, rows in (("training", splits.train), ("validation", splits.val), ("test", splits.test)):
        share = y[torch.from_numpy(rows)].mean(dim=0)
        constant = [name for name, p in zip(names, share.tolist(), strict=True) if p in (0, 1)]
        if constant and part == "training":
            raise UserError(
                f"the label '{constant[0]}' is the same in all training rows",
                where="data.split",
                hint="leave the label out, add rows with it, or try another `seed`",
            )
        absent = [name for name, p in zip(names, share.tolist(), strict=True) if p == 0]
        if absent:
            notes.append(f"the {part} split has no row with the label: {', '.join(absent[:10])}")
    return notes
