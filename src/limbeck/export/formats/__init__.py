"""The formats of files, a folder for each: how a network becomes one, how it is quantized and run."""

from __future__ import annotations

import importlib
from types import ModuleType


def converter(form: str) -> ModuleType:
    """The module of a format, with `to_FORM`, `lower`, `session_FORM` and, where it can, `values_FORM`."""
    return importlib.import_module(f"limbeck.export.formats.{form}.convert")
