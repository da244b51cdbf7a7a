"""Answers that somebody else's model gave before: files of predictions, known by row number or file name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from limbeck.core.errors import UserError, did_you_mean
from limbeck.core.hashing import fingerprint, fingerprint_file, fingerprint_tensors
from limbeck.data import Data, Keys, archive, read_array, read_table
from limbeck.models import ExternalModel
from limbeck.recipe import Network
from limbeck.tasks import rules

if TYPE_CHECKING:
    import pandas as pd

NUMBERS, PATHS = "row", ("file", "name")  # what the column is called that says whose row it is
SHOWN = 5
ROUNDED = 0.02  # how far the sum of probabilities may be from 1 that were written with few digits
BLOCK = 1 << 16  # rows looked at in one go


class Predictions(NamedTuple):
    """What a file of predictions holds.

    Attributes:
        values: one row each, [N] or [N, ...].
        keys: row numbers or paths [N]; None where rows are in the source's own order.
    """

    values: NDArray[Any]
    keys: NDArray[Any] | None


def load_stored(path: Path, data: Data, spec: Network) -> ExternalModel:
    """Predictions from a file as a model that knows the rows of the data set by their number.

    Args:
        path: .npy with one row for each row of the source; .npz with `predictions` and, if in another order, `keys`;
            or .csv or .parquet with a column `row` (numbers from 0) or `file` (paths below the folder of images), and
            one column a class or value.
        data: whose rows are all to be found in it.
        spec: may name the classes, in the order of columns, and say what the outputs are.

    Raises:
        UserError: rows of the data without a prediction, predictions of rows that are not there or twice, names that
            do not fit, or values that are not finite.
    """
    names = spec.classes or data.task.names
    keys = data.keys or Keys.numbered(len(data.x))
    found = _of_table(path, names) if path.suffix.lower() in (".csv", ".parquet") else _of_arrays(path)
    if found.values.dtype.kind not in "biuf" or found.values.ndim < 1:
        raise UserError(f"holds {found.values.dtype} of shape {found.values.shape}, not numbers", where=str(path))
    place = _places(found, keys, path)
    shared = _looked_at(found.values, place, path)
    if rules(data.task).predicts != "classes" or spec.outputs == "logits":
        shared = False
    digest = fingerprint(fingerprint_file(path), fingerprint_tensors({"place": torch.from_numpy(place)}), shared)
    return by_number(found.values, digest, path.stat().st_size, place=place, shared=shared)


def by_number(
    values: NDArray[Any],
    digest: str,
    size_bytes: int,
    *,
    place: NDArray[np.int64] | None = None,
    shared: bool = False,
) -> ExternalModel:
    """A model whose answers are rows of an array.

    Args:
        values: [N, ...].
        digest: of what they are.
        size_bytes: of where they come from.
        place: which of them is the answer for each row of the data set; None where they are in that order.
        shared: divide each by its sum, for they are probabilities up to the digits that were written.
    """

    def ask(numbers: NDArray[Any]) -> NDArray[Any]:
        rows = np.asarray(numbers, dtype=np.int64)
        given = np.asarray(values[rows if place is None else place[rows]], dtype=np.float64)
        return given / given.sum(axis=1, keepdims=True) if shared else given

    return ExternalModel(ask, digest=digest, size_bytes=size_bytes, keyed=True)


# --- reading -------------------------------------------------------------------------------------


def _of_arrays(path: Path) -> Predictions:
    if path.suffix.lower() == ".npy":
        return Predictions(read_array(path), None)
    with archive(path) as found:
        arrays = {name: found[name] for name in found.files}
    if "predictions" not in arrays:
        raise UserError("has no array 'predictions'", where=str(path), hint=did_you_mean("predictions", arrays))
    if unknown := sorted(set(arrays) - {"predictions", "keys"}):
        raise UserError(f"holds '{unknown[0]}' beside 'predictions' and 'keys'", where=str(path))
    values, keys = arrays["predictions"], arrays.get("keys")
    if keys is not None and (keys.ndim != 1 or keys.dtype.kind not in "iuU" or len(keys) != len(values)):
        what = f"'keys' is {keys.dtype} {list(keys.shape)}, for {len(values)} predictions"
        raise UserError(what, where=str(path), hint="give a row number or a path for each")
    return Predictions(values, keys)


def _of_table(path: Path, names: Sequence[str]) -> Predictions:
    frame = read_table(path)
    frame.columns = frame.columns.astype(str)
    columns = [c for c in (NUMBERS, *PATHS) if c in frame.columns and c not in names]
    if len(columns) != 1:
        what = f"has the columns {' and '.join(columns)}" if columns else "has no column that says whose row is which"
        hint = f"one of `{NUMBERS}` (numbers from 0) and `{PATHS[0]}` (paths below the folder) says whose row it is"
        raise UserError(what, where=str(path), hint=hint)
    for name in names:
        if name not in frame.columns:
            others = [c for c in frame.columns if c not in columns]
            raise UserError(f"has no column '{name}'", where=str(path), hint=did_you_mean(name, others))
    if others := [c for c in frame.columns if c not in (*names, *columns)]:
        hint = "leave it out, or name all classes that the model knows in `classes`"
        raise UserError(f"has a column '{others[0]}', which is nothing that is predicted", where=str(path), hint=hint)
    return Predictions(_numbers(frame, names, path), _keys(frame[columns[0]], columns[0] == NUMBERS, path))


def _numbers(frame: pd.DataFrame, names: Sequence[str], path: Path) -> NDArray[Any]:
    for name in names:
        if frame[name].dtype.kind not in "biuf":
            raise UserError(f"column '{name}' holds what is no number", where=str(path))
    return frame[list(names)].to_numpy(dtype=np.float64, na_value=np.nan)


def _keys(column: pd.Series[Any], numbers: bool, path: Path) -> NDArray[Any]:
    if numbers and column.dtype.kind not in "iu":
        raise UserError(f"column '{column.name}' holds what is no row number", where=str(path))
    return column.to_numpy() if numbers else column.astype(str).to_numpy(dtype=np.str_)


# --- matching ------------------------------------------------------------------------------------


def _places(found: Predictions, keys: Keys, path: Path) -> NDArray[np.int64]:
    """Which prediction belongs to each row of the data set, int64 [N]."""
    named = keys.own.dtype.kind == "U"
    given = found.keys
    if given is None:
        if named:
            hint = "give a .csv, .parquet or .npz that says of which file each is"
            raise UserError("the images of a folder have no order to rely on", where=str(path), hint=hint)
        if len(found.values) != len(keys.known):
            what = f"has {len(found.values)} predictions, and the data {len(keys.known)} rows"
            raise UserError(what, where=str(path))
        return keys.own.astype(np.int64)
    if named != (given.dtype.kind == "U"):
        wanted = "paths below the folder" if named else "numbers from 0, in the source's own order"
        raise UserError(f"rows are known here by {wanted}", where=str(path), hint="that is what `keys` or columns say")
    number: Mapping[Any, int] = {key: place for place, key in enumerate(given.tolist())}
    if len(number) != len(given):
        _refuse([key for key, count in Counter(given.tolist()).items() if count > 1], "stand twice in it", path)
    _refuse([key for key in keys.own.tolist() if key not in number], "have no prediction", path)
    known = set(keys.known.tolist())
    _refuse([key for key in number if key not in known], "are no rows of the data", path)
    return np.array([number[key] for key in keys.own.tolist()], dtype=np.int64)


def _refuse(keys: Sequence[Any], what: str, path: Path) -> None:
    if keys:
        shown = ", ".join(str(key) for key in keys[:SHOWN]) + (", ..." if len(keys) > SHOWN else "")
        raise UserError(f"{len(keys)} {what}: {shown}", where=str(path))


def _looked_at(values: NDArray[Any], place: NDArray[np.int64], path: Path) -> bool:
    """Whether all are probabilities, if only up to the digits that were written. Refuses what is not finite."""
    shared = values.ndim == 2 and values.shape[1] > 1
    for start in range(0, len(place), BLOCK):
        part = np.asarray(values[place[start : start + BLOCK]], dtype=np.float64)
        if not (finite := np.isfinite(part.reshape(len(part), -1)).all(axis=1)).all():
            row = start + int(np.argmin(finite))
            raise UserError(f"gives what is not finite for row {row} of the data", where=str(path))
        shared = shared and bool((part >= 0).all() and (np.abs(part.sum(axis=1) - 1) < ROUNDED).all())
    return shared
