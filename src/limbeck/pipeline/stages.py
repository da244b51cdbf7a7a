"""Stages of a run: what is done is not done again, and what was interrupted goes on.

A stage is a folder with a `stage.json` that says what it was made from and what came out.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from limbeck.core.course import Course
from limbeck.core.errors import UserError
from limbeck.core.files import read_json, write_json


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

    def together(
        self, name: str, key: str, compute: Callable[[Path], dict[str, Any]], *, renew: bool = False
    ) -> dict[str, Any]:
        """As `alone`, for a stage that all processes take part in."""
        self._accelerator.wait_for_everyone()
        result = self.alone(name, key, compute, renew=renew)
        self._accelerator.wait_for_everyone()
        return result

    def alone(
        self, name: str, key: str, compute: Callable[[Path], dict[str, Any]], *, renew: bool = False
    ) -> dict[str, Any]:
        """The result of the stage `name`: read where it is done, computed where it is not.

        Args:
            name: of the stage, and of its folder.
            key: of everything it depends on.
            compute: folder -> result, JSON-like. `files` in it, relative to the run directory, must stay there;
                `epochs`, each with its `seconds`, count as time spent even where they were trained before.
            renew: do it again where it was done for another key, or where a file of it is gone.

        Raises:
            UserError: the stage was begun from something else, its record is damaged, or a file of it is gone.
        """
        folder, main = self.folder / name, self._accelerator.is_main_process
        record = folder / "stage.json"
        known: dict[str, Any] = _known(record) if record.exists() else {"key": key, "done": False}
        # Begun from something else, and it failed before there was anything to lose.
        nothing = not known["done"] and not (folder / "checkpoint.pt").exists()
        if known["key"] != key and (renew or nothing):
            if main:
                shutil.rmtree(folder)
            known = {"key": key, "done": False}
        if renew and known["done"] and lost(self.folder, known["result"]):
            known = {"key": key, "done": False}
        if known["done"] and (gone := lost(self.folder, known["result"])):
            raise UserError(
                "this stage is done, but the file is gone", where=str(gone), hint=f"put it back, or {_again(folder)}"
            )
        if known["key"] != key:
            raise UserError(
                "this stage was begun from other data, another teacher, another recipe or version",
                where=str(folder),
                hint=f"choose another --out, or {_again(folder)}",
            )
        if not known["done"]:
            if main:
                write_json(record, known)
            self._course.enter(name)
            started = time.monotonic()
            result = {"files": [], **compute(folder)}
            seconds = round(max(time.monotonic() - started, _trained(result)), 3)
            known = {"key": key, "done": True, "seconds": seconds, "result": result}
            if main:
                write_json(record, known)
        self._course.leave(name, _trained(known["result"]), len(known["result"].get("epochs", [])))
        self.seconds[name] = known["seconds"]
        return dict(known["result"])

    def recorded(self, name: str) -> bool:
        """Whether a stage was done for whatever key; nothing is begun."""
        return self._done(name) is not None

    def done(self, name: str, key: str) -> bool:
        """Whether a stage was done for this key and its files are still there; nothing is begun."""
        known = self._done(name)
        return known is not None and known["key"] == key and not lost(self.folder, known["result"])

    def _done(self, name: str) -> dict[str, Any] | None:
        """The record of a stage that was done; None of one that was not."""
        record = self.folder / name / "stage.json"
        known = _known(record) if record.is_file() else {"done": False}
        return known if known["done"] else None


def _trained(result: dict[str, Any]) -> float:
    """Seconds that the epochs of a stage took, those of earlier runs included."""
    return float(sum(epoch["seconds"] for epoch in result.get("epochs", [])))


def lost(folder: Path, result: dict[str, Any]) -> Path | None:
    """The first file that a stage left and that is no longer there."""
    return next((path for name in result["files"] if not (path := folder / name).exists()), None)


def _known(record: Path) -> dict[str, Any]:
    """What is known of a stage that was begun."""
    try:
        known = read_json(record)
        if (
            known["done"] in (True, False)
            and known["key"]
            and (not known["done"] or known["result"]["files"] is not None)
        ):
            return dict(known)
    except UserError as error:
        raise UserError(error.what, where=error.where, hint=_again(record.parent)) from error
    except (KeyError, TypeError, AttributeError):
        pass
    raise UserError("is damaged", where=str(record), hint=_again(record.parent))


def _again(folder: Path) -> str:
    return f"remove {folder} to do the stage again"
