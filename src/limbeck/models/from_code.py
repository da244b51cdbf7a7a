"""Networks that a function of the user's makes."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import inspect
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from limbeck.core.errors import UserError, did_you_mean
from limbeck.data import Data
from limbeck.models import KerasNetwork
from limbeck.models.keras.backend import is_keras, making, on_torch
from limbeck.tasks import rules


def make(path: Path, name: str, data: Data, options: Mapping[str, Any]) -> nn.Module:
    """Call a function in a Python file for a network. It runs whatever stands in the file.

    Args:
        path: of the file.
        name: of the function. It is given `shape` (of one row) and `width` (of the answer) if it has such parameters.
        data: what the network is for.
        options: the function's other arguments.

    Returns:
        What it makes; a model of Keras as a network of PyTorch, without its closing softmax.

    Raises:
        UserError: the file or the function fails, or gives no network that fits the data.
    """
    where = f"{path}:{name}"
    with on_torch():
        function = getattr(_module(path), name, None)
    if not callable(function):
        raise UserError(f"has no function '{name}'", where=str(path), hint=did_you_mean(name, _functions(path)))
    known = inspect.signature(function).parameters
    around = {key: value for key, value in (("shape", data.shape), ("width", data.task.outputs)) if key in known}
    try:
        with making(drawn=False) if "keras" in sys.modules else contextlib.nullcontext():
            model = function(**around, **options)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"fails ({type(error).__name__}: {error})", where=where) from error
    if is_keras(model):
        return KerasNetwork(model, data.shape, logits=rules(data.task).predicts != "values")
    if not isinstance(model, nn.Module):
        raise UserError(f"gives a {type(model).__name__}, not a torch.nn.Module", where=where)
    return model


def _module(path: Path) -> Any:
    # Known under a name of its own: a copy of a network and the source of its class are looked up by it.
    name = f"_limbeck_{path.stem}_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:8]}"
    if name in sys.modules:
        return sys.modules[name]
    found = importlib.util.spec_from_file_location(name, path)
    assert found is not None
    assert found.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(found)
    try:
        found.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise UserError(f"cannot be run ({type(error).__name__}: {error})", where=str(path)) from error
    return module


def _functions(path: Path) -> list[str]:
    return [name for name, value in vars(_module(path)).items() if callable(value) and not name.startswith("_")]
