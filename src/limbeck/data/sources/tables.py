"""Tables: CSV and Parquet with numeric and categorical columns."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from limbeck.core.errors import UserError, did_you_mean
from limbeck.core.readers.tables import read_table
from limbeck.core.types import Column, Kind
from limbeck.data.dataset import Keys
from limbeck.data.multilabel import answers, check_answers, strata
from limbeck.data.prepare import Raw, divided
from limbeck.data.split import Rows, subset
from limbeck.tasks import rules

if TYPE_CHECKING:
    import pandas as pd

    from limbeck import recipe

CATEGORIES_AT_MOST = 256


def load_table(spec: recipe.Data, kind: Kind) -> Raw:
    """Load a table, split it, and turn its columns into float32 numbers.

    Numbers stay as they are (they are standardised by `Data.inputs`). Other columns become one column a category;
    the categories are those of the training rows, and a row with another one gets zeros.

    Raises:
        AbsentError: there is no such file.
        UserError: unknown columns, missing values, a target that does not fit the task.
    """
    import pandas as pd

    path = Path(spec.path or "").expanduser()
    frame = read_table(path)
    where = str(path)
    frame.columns = frame.columns.astype(str)
    targets = [spec.target] if isinstance(spec.target, str) else list(spec.target or [])
    group = spec.split.group
    for field, columns in (
        ("data.target", targets),
        ("data.drop", spec.drop),
        ("data.split.group", [group] if group else []),
    ):
        for column in columns:
            if column not in frame.columns:
                raise UserError(
                    f"{path.name} has no column '{column}'", where=field, hint=did_you_mean(column, frame.columns)
                )
    if overlap := set(targets) & {*spec.drop, group}:
        raise UserError(
            f"column '{overlap.pop()}' cannot be the target and left out or the group as well", where="data.target"
        )
    frame = frame.drop(columns=[c for c in spec.drop if c != group])
    _refuse_gaps(frame, where)
    notes = []
    keys = Keys.numbered(len(frame))
    if spec.limit is not None and spec.limit < len(frame):
        notes.append(f"limited to {spec.limit} of {len(frame)} rows")
        keys = Keys(subset(_strata(frame, targets, kind, where), spec.limit, spec.split.seed), keys.known)
        frame = frame.iloc[keys.own].reset_index(drop=True)
    y, names = _targets(frame, targets, kind, where)
    features = frame.drop(columns=[*targets, *([group] if group else [])])
    if features.shape[1] == 0:
        raise UserError("no columns are left to predict from", where=where)
    groups = _codes(frame[group]) if group else None
    splits = divided(
        y, kind, names,
        groups=groups,
        val=spec.split.val, test=spec.split.test, seed=spec.split.seed, stratify=spec.split.stratify,
    )  # fmt: skip
    extra = _unlabelled(spec, features)
    if extra is not None:
        features = pd.concat([features, extra], ignore_index=True)
    x, table = _encode(features, splits.train, where)
    inputs = tuple(name for column in table for name in column.inputs)
    return Raw(
        f"table {path.name}", torch.from_numpy(x), y, names, inputs, tuple(notes), splits=splits, table=tuple(table),
        groups=groups, unlabelled=0 if extra is None else len(extra), keys=keys,
    )  # fmt: skip


def _unlabelled(spec: recipe.Data, features: pd.DataFrame) -> pd.DataFrame | None:
    """The columns to predict from of rows without a label; a target among its columns is not looked at."""
    if not spec.unlabelled:
        return None
    path = Path(spec.unlabelled).expanduser()
    where, frame = f"data.unlabelled: {path}", read_table(path)
    frame.columns = frame.columns.astype(str)
    for column in features.columns:
        if column not in frame.columns:
            raise UserError(f"has no column '{column}'", where=where, hint=did_you_mean(column, frame.columns))
        numbers = [f[column].dtype.kind in "biuf" for f in (features, frame)]
        if numbers[0] != numbers[1]:
            what = "numbers" if numbers[0] else "words"
            raise UserError(f"column '{column}' holds {what} in the labelled rows only", where=where)
    frame = frame[list(features.columns)]
    _refuse_gaps(frame, where)
    return frame


def _refuse_gaps(frame: pd.DataFrame, where: str) -> None:
    if not len(frame):
        raise UserError("has no rows", where=where)
    for column in frame.columns:
        values = frame[column]
        missing = values.isna().to_numpy()
        if values.dtype.kind == "f":
            missing = missing | ~np.isfinite(values.to_numpy(dtype=np.float64, na_value=np.nan))
        if missing.any():
            raise UserError(
                f"column '{column}' has {int(missing.sum())} missing (NaN) or infinite values, the first in row "
                f"{int(np.argmax(missing)) + 1} of the data",
                where=where, hint="fill them in, remove those rows, or name the column in `drop`",
            )  # fmt: skip


def _targets(frame: pd.DataFrame, targets: list[str], kind: Kind, where: str) -> tuple[torch.Tensor, tuple[str, ...]]:
    if rules(kind).predicts == "values":
        for name in targets:
            if frame[name].dtype.kind not in "iuf":
                raise UserError(
                    f"target '{name}' is not a column of numbers", where=where, hint="set `task: classification`"
                )
        values = np.stack([_float32(frame[name], name, where) for name in targets], axis=1)
        return torch.from_numpy(values), tuple(targets)
    if rules(kind).predicts == "labels":
        labels = _answers(frame, targets, where)
        check_answers(labels, targets, where)
        return labels, tuple(targets)
    if len(targets) != 1:
        raise UserError(
            "classification has one target column",
            where="data.target",
            hint="columns of 0 and 1 are labels: say `task: multilabel`",
        )
    name = targets[0]
    column = frame[name]
    if column.dtype.kind == "f":
        if not (column == column.round()).all():
            raise UserError(f"target '{name}' has fractions, not classes", where=where, hint="set `task: regression`")
        column = column.astype(np.int64)
    known, codes = np.unique(_plain(column), return_inverse=True)
    if len(known) < 2:
        raise UserError(f"target '{name}' has one class only, '{known[0]}'", where=where)
    return torch.from_numpy(codes.ravel().astype(np.int64)), tuple(str(k) for k in known)


def _strata(frame: pd.DataFrame, targets: list[str], kind: Kind, where: str) -> Rows:
    predicts = rules(kind).predicts
    if predicts == "labels":
        return strata(_answers(frame, targets, where))
    return _codes(frame[targets[0]]) if predicts == "classes" else np.zeros(len(frame), dtype=np.int64)


def _answers(frame: pd.DataFrame, targets: list[str], where: str) -> torch.Tensor:
    """Columns of 0 and 1, or of true and false, as float32 [N, C]."""
    return torch.cat([answers(_plain(frame[name])[:, None], f"{where}: column '{name}'") for name in targets], dim=1)


def _encode(features: pd.DataFrame, train: Rows, where: str) -> tuple[NDArray[np.float32], list[Column]]:
    """All columns as float32 numbers, and what each was."""
    blocks: list[NDArray[np.float32]] = []
    columns: list[Column] = []
    for column in features.columns:
        values = features[column]
        if values.dtype.kind in "biuf":
            blocks.append(_float32(values, column, where)[:, None])
            columns.append(Column(column))
            continue
        if values.dtype.kind in "mM":
            raise UserError(
                f"column '{column}' holds dates", where=where, hint="turn it into numbers, or name it in `drop`"
            )
        words = values.astype(str).to_numpy(dtype=np.str_)
        known = np.unique(words[train])
        if len(known) > CATEGORIES_AT_MOST:
            raise UserError(
                f"column '{column}' has {len(known)} categories, more than {CATEGORIES_AT_MOST}", where=where,
                hint="name it in `drop` if it identifies rows, or group its values",
            )  # fmt: skip
        blocks.append((words[:, None] == known).astype(np.float32))
        columns.append(Column(column, tuple(str(word) for word in known)))
    return np.concatenate(blocks, axis=1), columns


def _float32(column: pd.Series[Any], name: str, where: str) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):
        values: NDArray[np.float32] = column.to_numpy(dtype=np.float32)
    if not np.isfinite(values).all():
        raise UserError(f"column '{name}' has numbers beyond the range of float32", where=where)
    return values


def _codes(column: pd.Series[Any]) -> NDArray[np.int64]:
    return np.unique(_plain(column), return_inverse=True)[1].ravel().astype(np.int64)


def _plain(column: pd.Series[Any]) -> NDArray[Any]:
    """Numbers as numbers, so that 10 sorts after 9; everything else as text."""
    return column.to_numpy() if column.dtype.kind in "iuf" else column.astype(str).to_numpy(dtype=np.str_)
