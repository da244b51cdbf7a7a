"""What the files of a model are called, which belong together, where a run has them, and how they are put there."""

from __future__ import annotations

import shutil
from pathlib import Path

from limbeck.core.errors import UserError
from limbeck.core.files import write_atomic
from limbeck.core.formats import FORMATS, file_format


def suffix(name: str) -> str:
    """How the file is called behind its model's name: `.tflite` for `litert`, `.int8.tflite` for `litert-int8`."""
    form, precision = file_format(name)
    return ("" if precision == "float32" else f".{precision}") + FORMATS[form].suffix


def files(path: Path) -> tuple[Path, ...]:
    """The file, and the one with its weights where the format has two: OpenVINO's .xml and .bin."""
    path = Path(path)
    beside = {row.suffix: row.beside for row in FORMATS.values()}.get(path.suffix)
    return (path, path.with_suffix(beside)) if beside else (path,)


def size_bytes(path: Path) -> int:
    """What must be shipped: the size of the file and of the one that belongs to it.

    Raises:
        UserError: one of them is absent.
    """
    try:
        return sum(file.stat().st_size for file in files(path))
    except OSError as error:
        raise UserError(f"cannot be read ({error})", where=str(path)) from error


def shipped(path: Path) -> list[Path]:
    """The exported files of a run, the chosen student's and float32 ones first; anything else is itself.

    Raises:
        UserError: the run is not finished, or has no files.
    """
    if not (path / "recipe.yaml").is_file():
        return [path]
    from limbeck.core.result import read_result  # a file alone need not wait for it

    result = read_result(path / "result.json")
    rows = [row for row in result.models if row.role == "exported"]
    if not rows:
        raise UserError("this run has no exported files", where=str(path), hint=f"limbeck export {path} --to onnx")
    chosen = result.chosen.name if result.chosen else None
    rows.sort(key=lambda row: (row.source not in (None, chosen), row.precision != "float32"))
    return [path / str(row.file) for row in rows]


def put(made: Path, path: Path) -> None:
    """Put a file, and the one that belongs to it, in their place. A stop on the way leaves no file that looks whole.

    Two files cannot be replaced in one step. So the first, without which the second is nothing, goes before and comes
    last.

    Raises:
        UserError: the place cannot be written.
    """
    source, target = files(made), files(path)
    if len(target) > 1:
        try:
            target[0].unlink(missing_ok=True)
        except OSError as error:
            raise UserError(f"cannot be written ({error})", where=str(path)) from error
    for have, want in zip(reversed(source), reversed(target), strict=True):
        write_atomic(want, lambda part, have=have: shutil.copyfile(have, part))  # type: ignore[misc]
