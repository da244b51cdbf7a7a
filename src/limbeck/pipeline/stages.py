"""Stages of a run: what is done is not done again, and what was interrupted goes on.

A stage is a folder with a `stage.json` that says what it was made from and what came out.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from accelerate import Accelerator

from limbeck.core.course import Course
from limbeck.core.errors import UserError
from limbeck.core.files import read_json, write_json
from limbeck.pipeline.stage_results import StageResult

R = TypeVar("R", bound=StageResult)


class Stages:
    """The stages of one run directory.

    Args:
        folder: the run directory.
        accelerator: of the processes that take part.
        course: told which stage begins and which is done.

    Attributes:
        seconds: how long each stage took, by name.
    """

    def __init__(self, folder: Path, accelerator: Accelerator, course: Course | None = None) -> None:
        self.folder, self._accelerator, self._course = folder, accelerator, course or Course()
        self.seconds: dict[str, float] = {}

    def together(self, name: str, key: str, kind: type[R], compute: Callable[[Path], R], *, renew: bool = False) -> R:
        """As `alone`, for a stage that all processes take part in."""
        self._accelerator.wait_for_everyone()
        result = self.alone(name, key, kind, compute, renew=renew)
        self._accelerator.wait_for_everyone()
        return result

    def alone(self, name: str, key: str, kind: type[R], compute: Callable[[Path], R], *, renew: bool = False) -> R:
        """The result of the stage `name`: read where it is done, computed where it is not.

        Args:
            name: of the stage, and of its folder.
            key: of everything it depends on.
            kind: of its result.
            compute: folder -> result.
            renew: do it again where it was done for another key, or where a file of it is gone.

        Raises:
            UserError: the stage was begun from something else, its record is damaged, or a file of it is gone.
        """
        folder, main = self.folder / name, self._accelerator.is_main_process
        file = folder / "stage.json"
        begun: Record[R] = Record(key)
        known = _read(file, kind) if file.exists() else begun
        # Begun from something else, and it failed before there was anything to lose.
        nothing = known.result is None and not (folder / "checkpoint.pt").exists()
        if known.key != key and (renew or nothing):
            if main:
                shutil.rmtree(folder)
            known = begun
        if renew and known.lost(self.folder):
            known = begun
        if gone := known.lost(self.folder):
            raise UserError(
                "this stage is done, but the file is gone", where=str(gone), hint=f"put it back, or {_again(folder)}"
            )
        if known.key != key:
            raise UserError(
                "this stage was begun from other data, another teacher, another recipe or version",
                where=str(folder),
                hint=f"choose another --out, or {_again(folder)}",
            )
        if known.result is None:
            if main:
                _write(file, known)
            self._course.enter(name)
            started = time.monotonic()
            result = compute(folder)
            known = Record(key, result, round(max(time.monotonic() - started, result.trained_seconds), 3))
            if main:
                _write(file, known)
        else:
            result = known.result
        self._course.leave(name, result.trained_seconds, len(result.epochs))
        self.seconds[name] = known.seconds
        return result

    def recorded(self, name: str) -> bool:
        """Whether a stage was done for whatever key; nothing is begun."""
        known = self._known(name)
        return known is not None and known.result is not None

    def done(self, name: str, key: str) -> bool:
        """Whether a stage was done for this key and its files are still there; nothing is begun."""
        known = self._known(name)
        return known is not None and known.result is not None and known.key == key and not known.lost(self.folder)

    def _known(self, name: str) -> Record[StageResult] | None:
        file = self.folder / name / "stage.json"
        return _read(file, StageResult) if file.is_file() else None


@dataclass(frozen=True)
class Record(Generic[R]):
    """What `stage.json` holds.

    Attributes:
        key: of everything that the stage depends on.
        result: None until it is done.
        seconds: how long it took.
    """

    key: str
    result: R | None = None
    seconds: float = 0.0

    def lost(self, folder: Path) -> Path | None:
        """The first file that the stage left in the run directory and that is no longer there."""
        files = self.result.files if self.result else []
        return next((path for name in files if not (path := folder / name).exists()), None)


def _write(file: Path, record: Record[Any]) -> None:
    if record.result is None:
        write_json(file, {"key": record.key, "done": False})
    else:
        result = record.result.model_dump(mode="json")
        write_json(file, {"key": record.key, "done": True, "seconds": record.seconds, "result": result})


def _read(file: Path, kind: type[R]) -> Record[R]:
    try:
        known = read_json(file)
        if known["done"] is False:
            return Record(str(known["key"]))
        return Record(str(known["key"]), kind.model_validate(known["result"]), float(known["seconds"]))
    except UserError as error:
        raise UserError(error.what, where=error.where, hint=_again(file.parent)) from error
    except (KeyError, TypeError, ValueError) as error:  # a ValidationError is a ValueError
        raise UserError("is damaged", where=str(file), hint=_again(file.parent)) from error


def _again(folder: Path) -> str:
    return f"remove {folder} to do the stage again"
