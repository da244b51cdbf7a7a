"""Models from elsewhere: files of other libraries and networks that somebody's code makes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from limbeck.core.errors import UserError
from limbeck.core.types import Batch, Teacher
from limbeck.data import Data, pixels, targets
from limbeck.distill.teachers import Frozen
from limbeck.distill.teachers.external.estimators import KEPT, MODEL, fit_estimator, fitted, unfitted
from limbeck.distill.teachers.external.function import Function, from_function
from limbeck.distill.teachers.external.onnx_litert import load_litert, load_onnx
from limbeck.distill.teachers.external.outputs import order_of, understood
from limbeck.distill.teachers.external.predictions import load_stored
from limbeck.distill.teachers.external.torch_export import load_exported
from limbeck.distill.teachers.external.tree_files import load_tabular
from limbeck.models import ExternalModel, KerasNetwork, Normalized, given, load_weights, normalization
from limbeck.models.from_code import make
from limbeck.models.keras.file import load_keras
from limbeck.recipe import Network
from limbeck.recipe import Teacher as TeacherSpec
from limbeck.recipe.model_source import Code, ModelFile

__all__ = [
    "KEPT",
    "MODEL",
    "Function",
    "as_teacher",
    "bring",
    "fit_estimator",
    "fitted",
    "from_function",
    "load",
    "order_of",
    "unfitted",
]

LOADERS: dict[str, Callable[[Path, Data], nn.Module]] = {
    "onnx": load_onnx,
    "litert": load_litert,
    "exported": load_exported,
    "keras": load_keras,
}
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
    source = spec.source
    assert isinstance(source, Code | ModelFile)
    path = Path(source.path).expanduser()
    if not path.is_file():
        raise UserError("there is no such file", where=str(path))
    if source.runs_code and not trust:
        what = "to open it is to run code that stands in it, which is not done unasked"
        raise UserError(what, where=spec.model, hint="give --trust if you know where it comes from")
    if isinstance(source, Code):
        model = make(path, source.function, data, spec.options)
        if spec.weights:
            load_weights(model, Path(spec.weights), fresh_head=spec.trained)
        return model
    if source.kind.keyed:
        return load_stored(path, data, spec)
    if source.kind.name not in LOADERS:
        return load_tabular(path, data, spec, trust=trust)
    model = LOADERS[source.kind.name](path, data)
    if spec.weights:  # of a stage that trained it further
        load_weights(model, Path(spec.weights), fresh_head=False)
    return model


def bring(spec: Network, data: Data, *, trust: bool, function: ExternalModel | None = None) -> nn.Module:
    """A model from elsewhere that knows its job, tried on some training rows.

    Args:
        spec: with `model` a file, code or a callable.
        data: what it shall answer for.
        trust: whether the user allows that opening it runs code.
        function: what a callable is.

    Returns:
        A network that takes rows as they are (pixels in [0, 1], a table's columns; row numbers where it knows rows by
        these) and gives logits [B, C] or standardised values [B, K].

    Raises:
        UserError: as for `load`; or rows that it cannot take, or answers that do not fit the task.
    """
    model = function or load(spec, data, trust=trust)
    if isinstance(model, ExternalModel) and model.classes and not spec.classes:
        spec = spec.model_copy(update={"classes": list(model.classes)})
    rows = data.train[:LOOK]
    batch = Batch(pixels(data, rows), targets(data, rows), rows)
    mean, std = normalization(spec, model, torch.zeros(data.shape[0]), torch.ones(data.shape[0]))

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


def as_teacher(
    function: Function,
    data: Data,
    *,
    classes: Sequence[str] | None = None,
    outputs: Literal["logits", "probabilities", "standardised"] | None = None,
) -> Teacher:
    """A function of yours as a teacher for `limbeck.fit`.

    Args:
        function: of NumPy rows float32 [B, channels, H, W] (pixels in [0, 1]) or [B, columns] that gives logits or
            probabilities [B, C], or values [B, K] in their own units.
        data: what it shall answer for.
        classes: names of its outputs in its own order, where these are not the data's.
        outputs: what it gives, where looking would not tell.

    Raises:
        UserError: it fails, or its outputs do not fit the task.
    """
    spec = TeacherSpec(model="callable", classes=list(classes) if classes else None, outputs=outputs)
    asked = bring(spec, data, trust=False, function=from_function(function, data, spec.name))
    return Frozen(asked, probabilities=False)
