"""Tables: what their columns are called, and their rows as a network takes them. CSV is read without pandas."""

from __future__ import annotations

import csv
import zlib
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING

from limbeck.core.errors import AbsentError, UserError, did_you_mean
from limbeck.core.types import Column

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

    Values = NDArray[np.object_]

PARQUET = (".parquet", ".pq")
# What pandas, which reads the tables that are learned from, takes for no value.
GAPS = frozenset({
    "", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A", "NA",
    "NULL", "NaN", "None", "n/a", "nan", "null",
})  # fmt: skip
BLOCK = 4096  # rows that are words at a time

_BROKEN = (OSError, EOFError, ValueError, csv.Error, zlib.error)  # what damaged files raise


def read_table(path: Path) -> pd.DataFrame:
    """A CSV, TSV or Parquet file.

    Raises:
        AbsentError: there is no such file.
        UserError: it cannot be read.
    """
    import pandas as pd

    kind = _kind(path)
    try:
        if kind in PARQUET:
            return pd.read_parquet(path)
        return pd.read_csv(path, sep="\t" if kind == ".tsv" else ",", low_memory=False)
    except Exception as error:  # parsers raise errors of many libraries
        raise UserError(f"cannot be read as a table ({error})", where=str(path)) from error


def column_names(path: Path) -> list[str]:
    """The names of the columns, as `read_table` has them; rows are not read.

    Raises:
        AbsentError: there is no such file.
        UserError: it cannot be read.
    """
    kind = _kind(path)
    try:
        if kind in PARQUET:
            from pyarrow.parquet import read_schema

            schema = read_schema(path)
            index = (schema.pandas_metadata or {}).get("index_columns", ())
            return [name for name in schema.names if name not in index]
        if _plain(path):
            with _opened(path) as stream:
                return _named(next(_lines(stream, kind), ()))
    except _BROKEN as error:
        raise UserError(f"cannot be read as a table ({error})", where=str(path)) from error
    return [str(name) for name in read_table(path).columns]


def read_rows(path: Path, table: Sequence[Column], width: int) -> tuple[NDArray[np.float32], list[dict[str, str]]]:
    """The columns of a table that a network takes, as its inputs; other columns are left out.

    Args:
        path: CSV, TSV or Parquet.
        table: the columns, numbers and words; empty where nothing is known but their number.
        width: number of inputs.

    Returns:
        float32 [B, inputs], and for each row the words that no row learned from had, by column. All inputs of such a
        column are 0 there.

    Raises:
        UserError: a column is missing, has gaps, or holds what is no finite number.
    """
    import numpy as np

    inputs, unknown = [np.empty((0, width), np.float32)], list[dict[str, str]]()
    for block in _blocks(path):
        if not table:
            if len(block) != width:
                what = f"has {len(block)} columns, and the file takes {width} numbers a row"
                raise UserError(what, where=str(path), hint="their names are not known: give these columns alone")
            table = [Column(name) for name in block]
        for column in table:
            if column.name not in block:
                hint = did_you_mean(column.name, block)
                raise UserError(f"has no column '{column.name}'", where=str(path), hint=hint)
        count = len(next(iter(block.values()), ()))
        parts, words = [np.empty((count, 0), np.float32)], [dict[str, str]() for _ in range(count)]
        for column in table:
            if column.categories is None:
                parts.append(_numbers(block[column.name], column.name, path)[:, None])
            else:
                parts.append(_chosen(block[column.name], column, path, words))
        inputs.append(np.concatenate(parts, axis=1))
        unknown += words
    return np.concatenate(inputs), unknown


def _kind(path: Path) -> str:
    """The suffix that says what kind of table it is."""
    if not path.is_file():
        raise AbsentError("is no file" if path.exists() else "there is no such file", where=str(path))
    kinds = [suffix for suffix in path.suffixes if suffix in (".csv", ".tsv", *PARQUET)]
    if not kinds:
        raise UserError("is neither .csv, .tsv nor .parquet", where=str(path))
    return kinds[-1]


# --- words, as they stand in a file ----------------------------------------------------------------


def _plain(path: Path) -> bool:
    """Whether the standard library opens it: pandas knows more ways of packing a file."""
    return path.suffix in (".csv", ".tsv", ".gz")


def _opened(path: Path) -> IO[str]:
    if path.suffix == ".gz":
        import gzip

        return gzip.open(path, "rt", encoding="utf-8-sig", newline="")
    return path.open(encoding="utf-8-sig", newline="")


def _lines(stream: IO[str], kind: str) -> Iterator[list[str]]:
    return (line for line in csv.reader(stream, delimiter="\t" if kind == ".tsv" else ",") if line)


def _named(header: Sequence[str]) -> list[str]:
    """Names of columns of which each is another, as pandas makes them."""
    if not header:
        raise ValueError("there is nothing in it")
    names, taken = [name or f"Unnamed: {place}" for place, name in enumerate(header)], set[str]()
    for place, name in enumerate(names):
        number, own = 0, name
        while own in taken or (number and own in names):
            number += 1
            own = f"{name}.{number}"
        names[place] = own
        taken.add(own)
    return names


def _blocks(path: Path) -> Iterator[dict[str, Values]]:
    """Some rows at a time: the words or values of every column, None where there is no value."""
    if _kind(path) in PARQUET or not _plain(path):
        frame = read_table(path)
        whole = frame.astype(object).where(frame.notna(), None)
        yield {str(name): column.to_numpy() for name, column in whole.items()}
        return
    try:
        yield from _blocks_of_words(path)
    except _BROKEN as error:
        raise UserError(f"cannot be read as a table ({error})", where=str(path)) from error


def _blocks_of_words(path: Path) -> Iterator[dict[str, Values]]:
    import numpy as np

    with _opened(path) as stream:
        lines = _lines(stream, _kind(path))
        names, first = _named(next(lines, ())), next(lines, None)
        # Columns before those that have a name are the rows' own names.
        skipped = max(0, len(first or ()) - len(names))
        number, lines = 0, _before(first, lines)
        while True:
            rows = []
            for line in islice(lines, BLOCK):
                number += 1
                if len(line) > skipped + len(names):
                    raise ValueError(f"row {number} has {len(line)} fields, and the first line {len(names)}")
                rows.append([None if word in GAPS else word for word in line[skipped:]])
                rows[-1] += [None] * (len(names) - len(rows[-1]))
            if not rows and number:
                return
            values = np.array(rows, dtype=object).reshape(len(rows), len(names))
            yield dict(zip(names, values.T, strict=True))
            if len(rows) < BLOCK:
                return


def _before(first: list[str] | None, lines: Iterator[list[str]]) -> Iterator[list[str]]:
    if first is not None:
        yield first
    yield from lines


# --- what a network takes --------------------------------------------------------------------------


def _numbers(values: Values, name: str, path: Path) -> NDArray[np.float32]:
    import numpy as np

    if set(values) <= {"True", "TRUE", "true", "False", "FALSE", "false"}:
        values = np.array([word.lower() == "true" for word in values], dtype=object)
    try:
        with np.errstate(over="ignore"):
            found = values.astype(np.float64).astype(np.float32)
    except (ValueError, TypeError) as error:
        raise UserError(f"column '{name}' holds what is no number ({error})", where=str(path)) from error
    if not np.isfinite(found).all():
        raise UserError(f"column '{name}' has gaps, or numbers beyond the range of float32", where=str(path))
    return found


def _chosen(values: Values, column: Column, path: Path, unknown: list[dict[str, str]]) -> NDArray[np.float32]:
    """1 for the row's own word, 0 for the others; words that are not known are added to `unknown`."""
    import numpy as np

    if any(value is None for value in values):
        raise UserError(f"column '{column.name}' has gaps", where=str(path), hint="fill them in")
    words = values.astype(np.str_)
    chosen = words[:, None] == np.asarray(column.categories, dtype=np.str_)
    for row in np.flatnonzero(~chosen.any(axis=1)):
        unknown[row][column.name] = str(words[row])
    inputs: NDArray[np.float32] = chosen.astype(np.float32)
    return inputs
