"""The card beside every file: what it takes, what it gives, how good it is and how it was made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from limbeck import __version__
from limbeck.core.errors import UserError
from limbeck.core.files import read_json, write_json
from limbeck.core.formats import file_format
from limbeck.core.types import THRESHOLD, Column, Kind, Task
from limbeck.export.files import files, size_bytes
from limbeck.export.interface import LARGEST_BATCH, Interface
from limbeck.tasks import TASKS, rules

VERSION = 1


@dataclass(frozen=True, slots=True)
class Card:
    """What the card of a file says.

    Attributes:
        path: the file.
        format: litert, onnx, executorch or openvino.
        precision: float32, fp16, int8, w8 or w4.
        task: what it predicts.
        interface: what it takes.
        shape: of one row as the network takes it, [channels, H, W] or [columns].
        columns: names of the inputs of a row; empty for images, and where they have no names.
        table: a table's columns, of which the inputs are made.
        metrics: on the test split.
        made: how it was made.
    """

    path: Path
    format: str
    precision: str
    task: Task
    interface: Interface
    shape: tuple[int, ...]
    columns: tuple[str, ...]
    table: tuple[Column, ...]
    metrics: Mapping[str, Any]
    made: Mapping[str, Any]


def card_path(path: Path) -> Path:
    """Where the card of a file stands: beside it, with .json after its whole name."""
    return Path(path).with_name(Path(path).name + ".json")


def write_card(
    path: Path,
    *,
    interface: Interface,
    format: str,
    precision: str,
    task: Task,
    shape: Sequence[int],
    columns: Sequence[str] = (),
    table: Sequence[Column] = (),
    metrics: Mapping[str, Any],
    made: Mapping[str, Any],
) -> Path:
    """Write what a program or a person must know to use a file, and how it was made, beside it.

    Args:
        path: the file; it must be there.
        interface: what it takes.
        format: litert, onnx, executorch or openvino.
        precision: float32, fp16, int8, w8 or w4.
        task: what it predicts.
        shape: of one row as the network takes it, [channels, H, W] or [columns].
        columns: names of the inputs of a row; empty for images, and where they have no names.
        table: a table's columns as the user has them, of which the inputs are made.
        metrics: on the test split.
        made: how it was made: edits, seed, whatever JSON can hold. This version of Limbeck is added.

    Returns:
        The path of the card.

    Raises:
        UserError: the file is not there, or the card cannot be written.
    """
    path = Path(path)
    card = {
        "card": VERSION,
        "file": path.name,
        "format": file_format(format).form,
        "precision": precision,
        "task": task.kind,
        _names(task.kind): list(task.names),
        **({"threshold": THRESHOLD} if rules(task).predicts == "labels" else {}),
        "spread": task.predicts_variance,
        "input": _input(interface, tuple(shape), columns, table, format),
        "output": {"shape": ["rows", task.outputs], "dtype": "float32", "meaning": rules(task).meaning(task)},
        "metrics": dict(metrics),
        "made": {"limbeck": __version__, **made},
        "bytes": size_bytes(path),
        "files": {file.name: file.stat().st_size for file in files(path)},
    }
    write_json(card_path(path), card)
    return card_path(path)


def _input(
    interface: Interface, shape: tuple[int, ...], columns: Sequence[str], table: Sequence[Column], format: str
) -> dict[str, Any]:
    image = len(shape) == 3
    own = (*shape[1:], shape[0]) if image and interface.layout == "nhwc" else shape
    bytes_ = interface.input == "uint8"
    what = "pixels" if image else "columns"
    if bytes_:
        meaning = f"{what} as bytes from 0 to 255, as they are; the file divides and normalises them"
    elif image:
        meaning = "pixels divided by 255, from 0 to 1; the file normalises them"
    else:
        meaning = "columns in their own units; the file standardises them"
        if any(column.categories is not None for column in table):
            meaning += "; of a column of words the input of the row's own word is 1 and the others 0"
    rows: dict[str, Any] = {
        "litert": sorted(interface.batches),
        "executorch": f"1 to {LARGEST_BATCH}",
    }
    return {
        "shape": ["rows", *own],
        "rows": rows.get(file_format(format).form, "any number"),
        "layout": interface.layout if image else None,
        "dtype": interface.input,
        "scale": 1 / 255 if bytes_ else 1.0,
        "meaning": meaning,
        **({"columns": list(columns)} if columns else {}),
        **({"table": _table(table)} if table else {}),
    }


def _table(table: Sequence[Column]) -> list[dict[str, Any]]:
    """Every column by name, what it holds, and at which places of a row its inputs stand."""
    columns, place = [], 0
    for column in table:
        places = list(range(place, place + len(column.inputs)))
        place += len(places)
        words = {} if column.categories is None else {"categories": list(column.categories)}
        columns.append({"name": column.name, "kind": "category" if words else "number", **words, "inputs": places})
    return columns


def _names(kind: Kind) -> str:
    """The key of the names of what is predicted."""
    return "values" if rules(kind).predicts == "values" else "classes"


def read_card(path: Path) -> Card:
    """What the card beside a file says.

    Args:
        path: the file, not its card.

    Raises:
        UserError: there is no card, it cannot be read or was made by a later version, or it speaks of another file.
    """
    path = Path(path)
    where = card_path(path)
    if not where.exists():
        raise UserError(
            f"there is no {where.name} beside it, which says what it takes and gives",
            where=str(path),
            hint="copy both; `limbeck export` writes both",
        )
    content = read_json(where)
    try:
        if content["card"] > VERSION:
            raise UserError(
                f"it was written by a later version of Limbeck ({content['made']['limbeck']}; this is {__version__})",
                where=str(where),
            )
        card = _card(path, content)
        size = content["bytes"]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"it is not a card of a file ({type(error).__name__}: {error})", where=str(where)) from error
    if (found := size_bytes(path)) != size:
        raise UserError(
            f"it is about a file of {size:,} bytes, and {path.name} has {found:,}",
            where=str(where),
            hint="copy the file and its card together",
        )
    return card


def _card(path: Path, content: Mapping[str, Any]) -> Card:
    given = content["input"]
    kind = content["task"]
    if kind not in TASKS:
        raise ValueError(f"task {kind!r}")
    names = tuple(str(name) for name in content[_names(kind)])
    rows = given["rows"]
    interface = Interface(
        given["dtype"], given["layout"] or "nchw", tuple(rows) if isinstance(rows, list) else Interface().batches
    )
    own = tuple(int(n) for n in given["shape"][1:])
    shape = (own[2], *own[:2]) if given["layout"] == "nhwc" else own
    columns = tuple(str(name) for name in given.get("columns", ()))
    return Card(
        path,
        file_format(content["format"]).form,
        str(content["precision"]),
        Task(kind, names, bool(content["spread"])),
        interface,
        shape,
        columns,
        tuple(_column(content) for content in given.get("table", ())) or tuple(Column(name) for name in columns),
        dict(content["metrics"]),
        dict(content["made"]),
    )


def _column(content: Mapping[str, Any]) -> Column:
    words = content["categories"] if content["kind"] == "category" else None
    return Column(str(content["name"]), None if words is None else tuple(str(word) for word in words))
