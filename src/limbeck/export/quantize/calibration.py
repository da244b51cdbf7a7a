"""The rows that integer ranges are measured on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from limbeck.core.errors import UserError
from limbeck.core.seeding import derive_seed

Rows = np.ndarray[Any, Any]


def calibration(total: int, labels: Any = None, count: int = 256, *, seed: int = 0) -> Any:
    """Which rows of the training split to calibrate on: as many of each class as can be, the classes mixed.

    Args:
        total: rows in the training split; nothing else is ever drawn.
        labels: of those rows, integers [total]; without them, or where they are no classes, rows are drawn evenly.
        count: how many; all rows where there are fewer.
        seed: the same seed gives the same rows in the same order.

    Returns:
        int64 tensor [min(count, total)]: places in the training split, each once.

    Raises:
        UserError: there are no rows, `count` is below 1, or the labels are not those of the rows.
    """
    import torch

    if count < 1 or total < 1:
        raise UserError(f"{count} of {total} rows cannot be chosen", where="calibration", hint="at least 1")
    generator = np.random.default_rng(derive_seed("calibration", seed))
    order = generator.permutation(total)
    if labels is not None:
        classes = np.asarray(labels)
        if len(classes) != total:
            raise UserError(f"{total} rows have {len(classes)} labels", where="calibration")
        if classes.ndim == 1 and classes.dtype.kind in "iu":
            # The first of every class, then the second of every class, and so on: any beginning of it is balanced.
            turn = np.empty(total, np.int64)
            for label in np.unique(classes):
                own = np.flatnonzero(classes[order] == label)
                turn[own] = np.arange(len(own))
            order = order[np.argsort(turn, kind="stable")]
    return torch.from_numpy(generator.permutation(order[:count]).astype(np.int64))


def check_rows(rows: Rows | None) -> Rows:
    """Rows that can be calibrated on, contiguous.

    Raises:
        UserError: there are none, they are no numbers, or some are not finite.
    """
    where = "calibration"
    if rows is None or not len(rows):
        raise UserError(
            "there are no rows", where=where, hint="integer ranges are measured on some 256 rows of the training split"
        )
    rows = np.ascontiguousarray(rows)
    if rows.ndim < 2 or rows.dtype.kind not in "fu":
        raise UserError(f"{rows.dtype} {rows.shape} are no rows of inputs", where=where)
    if rows.dtype.kind == "f" and not np.isfinite(rows).all():
        broken = int((~np.isfinite(rows).reshape(len(rows), -1).all(1)).sum())
        raise UserError(f"{broken} of {len(rows)} rows hold NaN or infinite numbers", where=where)
    return rows


def load_rows(path: str, shape: tuple[int, ...], dtype: Any) -> Rows:
    """Rows from a .npy file, if they fit what a model takes.

    Args:
        path: the file.
        shape: of one row, as the model takes it.
        dtype: as the model takes it.

    Raises:
        UserError: they do not fit.
    """
    rows: Rows = np.load(Path(path), allow_pickle=False)
    if rows.shape[1:] != tuple(shape) or rows.dtype != np.dtype(dtype):
        raise UserError(
            f"the rows are {rows.dtype} {list(rows.shape[1:])}, and the model takes {np.dtype(dtype)} {list(shape)}",
            where="calibration",
        )
    return rows
