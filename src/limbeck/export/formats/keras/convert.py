"""Keras files (.keras), and Keras on PyTorch to run them; Keras runs them with JAX and TensorFlow, too."""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from limbeck.core.errors import UserError, require
from limbeck.core.formats import check_format
from limbeck.export.files import put
from limbeck.export.interface import Interface, Rows
from limbeck.export.logs import converting, heard
from limbeck.export.session import Session

if TYPE_CHECKING:
    from torch import Tensor, nn


def to_keras(model: nn.Module, example: Tensor, path: Path, interface: Interface | None = None) -> Path:
    """Write a Keras network as a `.keras` file, any number of rows, its input normalisation as layers in front of it.

    Args:
        model: a `KerasNetwork`, by itself or in a `Normalized`, and before modules that have an `as_keras`, a function
            of Keras and symbolic rows; it is left as it is.
        example: at least one row of input, [B, ...], as the model takes it; its values do not matter.
        path: the file to write; it is replaced in one step or not at all.
        interface: what the file takes; what the model takes where it is absent.

    Returns:
        The path.

    Raises:
        UserError: the extra is missing, the model is none of Keras, or the place cannot be written.
    """
    from limbeck.models.keras.backend import making

    check_format("keras")
    interface, shape = interface or Interface(), tuple(example.shape[1:])
    image, last = len(shape) == 3, interface.layout == "nhwc"
    if last and not image:
        raise UserError(f"layout nhwc is for images, not for rows {shape}", where="export")
    takes = (*shape[1:], shape[0]) if last else shape
    path = Path(path)
    with (
        converting("Keras", path) as log,
        heard(log),
        tempfile.TemporaryDirectory(prefix="limbeck-") as folder,
        making(drawn=False) as keras,
    ):
        given = rows = keras.Input(takes, dtype=interface.input, name="input")
        if interface.input == "uint8":
            rows = keras.layers.Rescaling(1 / 255, name="unit")(rows)
        if image and not last:
            rows = keras.layers.Permute((2, 3, 1), name="channels_last")(rows)
        made = Path(folder) / "model.keras"
        with contextlib.ExitStack() as stack:
            keras.Model(given, _layers(model, keras, rows, stack), name="limbeck").save(str(made))
        put(made, path)
    return path


def _layers(model: nn.Module, keras: Any, rows: Any, stack: contextlib.ExitStack) -> Any:
    """What a module gives for symbolic rows [B, H, W, channels] or [B, columns], in layers of Keras."""
    from torch import nn

    from limbeck.models import KerasNetwork, Normalized

    if isinstance(model, Normalized):
        rows = keras.ops.flip(rows, axis=-1) if model.bgr else rows
        mean, variance = model.mean.tolist(), model.std.double().square().tolist()
        rows = keras.layers.Normalization(mean=mean, variance=variance, name="normalization")(rows)
        given = _layers(model.model, keras, rows, stack)
        return given if model.order is None else keras.ops.take(given, model.order.tolist(), axis=-1)

    if isinstance(model, KerasNetwork):
        return stack.enter_context(model.written())(rows)
    if isinstance(model, nn.Sequential):
        for part in model:
            rows = _layers(part, keras, rows, stack)
        return rows
    as_keras = getattr(model, "as_keras", None)
    if as_keras is None:
        raise UserError(
            f"a {type(model).__name__} is not of Keras",
            hint="`framework: keras`, keras/NAME and .keras files become .keras files; export other networks to onnx",
        )
    return as_keras(keras, rows)


def session_keras(path: Path, threads: int = 1) -> Session:
    """What runs a Keras file in this process.

    Args:
        path: the file.
        threads: how many threads one call may use.

    Raises:
        UserError: the extra is missing, or the file cannot be loaded.
    """
    torch = require("torch", extra="keras", purpose="running a Keras file")
    from limbeck.models.keras.archive import read_keras
    from limbeck.models.keras.backend import library

    torch.set_num_threads(threads)
    model = read_keras(path)
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        raise UserError(f"has {len(model.inputs)} inputs and {len(model.outputs)} outputs", where=str(path))
    source, keras = model.inputs[0], library()

    def run(rows: Rows) -> Rows:
        with torch.inference_mode(), keras.device("cpu"):
            return np.asarray(model(torch.from_numpy(rows), training=False).numpy())

    return Session("Keras", source.dtype, tuple(source.shape[1:]), run)
