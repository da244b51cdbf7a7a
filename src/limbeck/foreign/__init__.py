"""Models from elsewhere: files of other libraries and networks that somebody's code makes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from limbeck.data import Data, pixels, targets
from limbeck.errors import UserError
from limbeck.foreign.exported import load_exported
from limbeck.foreign.factory import make
from limbeck.foreign.keras import load_keras
from limbeck.foreign.outputs import order_of, understood
from limbeck.foreign.runtimes import load_litert, load_onnx
from limbeck.models import KerasNetwork, Normalized, given, load_weights, normalization
from limbeck.recipe import Network
from limbeck.types import Batch

__all__ = ["bring", "load", "order_of"]

LOADERS: dict[str, Callable[[Path, Data], nn.Module]] = {
    "onnx": load_onnx,
    "litert": load_litert,
    "exported": load_exported,
    "keras": load_keras,
}
RUNS_CODE = ("exported",)
LOOK = 8  # rows that a model is tried on


def load(spec: Network, data: Data, *, trust: bool) -> nn.Module:
    """A model from elsewhere, as it is.

    Args:
        spec: with `model` a file or code.
        data: what it shall answer for.
        trust: whether the user allows that opening it runs code.

    Raises:
        UserError: no such file, code that is not allowed, or a file that cannot be read.
    """
    path = Path(spec.model.rpartition(":")[0] if spec.origin == "code" else spec.model).expanduser()
    if not path.is_file():
        raise UserError("there is no such file", where=str(path))
    if (spec.origin == "code" or spec.kind in RUNS_CODE) and not trust:
        what = "to open it is to run code that stands in it, which is not done unasked"
        raise UserError(what, where=spec.model, hint="give --trust if you know where it comes from")
    if spec.origin == "file":
        assert spec.kind is not None
        model = LOADERS[spec.kind](path, data)
        if spec.weights:  # of a stage that trained it further
            load_weights(model, Path(spec.weights), fresh_head=False)
        return model
    model = make(path, spec.model.rpartition(":")[2], data, spec.options)
    if spec.weights:
        load_weights(model, Path(spec.weights), fresh_head=spec.trained)
    return model


def bring(spec: Network, data: Data, *, trust: bool) -> nn.Module:
    """A model from elsewhere that knows its job, tried on some training rows.

    Args:
        spec: with `model` a file or code.
        data: what it shall answer for.
        trust: whether the user allows that opening it runs code.

    Returns:
        A network that takes rows as they are (pixels in [0, 1], a table's columns; row numbers where it knows rows by
        these) and gives logits [B, C] or standardised values [B, K].

    Raises:
        UserError: as for `load`; or rows that it cannot take, or answers that do not fit the task.
    """
    model = load(spec, data, trust=trust)
    rows = data.train[:LOOK]
    batch = Batch(pixels(data, rows), targets(data, rows), rows)
    mean, std = normalization(spec, model, torch.zeros(1), torch.ones(1))

    def around(inner: nn.Module) -> Normalized:
        order = order_of(spec.classes, data.task.names, spec.model)
        return Normalized(inner, mean, std, bgr=spec.preprocess == "caffe", order=order).eval()

    try:
        with torch.no_grad():
            raw = Normalized(model, mean, std, bgr=spec.preprocess == "caffe").eval()(given(model, batch))
    except UserError:
        raise
    except Exception as error:
        reason = str(error).strip().splitlines()
        what = f"cannot take rows of shape {data.shape} ({reason[0] if reason else type(error).__name__})"
        raise UserError(what, where=spec.model) from error
    if isinstance(model, KerasNetwork) and model.gives_logits:
        spec = spec.model_copy(update={"outputs": "logits"})
    return around(understood(model, raw, spec, data))
