"""Files for other runtimes: made, run there in another process, and compared with the PyTorch model they come from.

A new format is a folder in `formats` and a row in `core/formats.py`. Importing this room loads neither torch nor any of
the libraries that a format needs: they are imported when they are used, most of them in processes of their own.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from limbeck.core.formats import check_format, file_format
from limbeck.export.card import Card, card_path, read_card, write_card
from limbeck.export.files import files, put, size_bytes, suffix
from limbeck.export.formats import converter
from limbeck.export.formats.executorch.convert import to_executorch
from limbeck.export.formats.keras.convert import to_keras
from limbeck.export.formats.litert.convert import to_litert
from limbeck.export.formats.onnx.convert import to_onnx
from limbeck.export.formats.openvino.convert import to_openvino
from limbeck.export.interface import LARGEST_BATCH, Interface, as_given, as_seen
from limbeck.export.layers import first_difference, values
from limbeck.export.parity import check_parity, parity
from limbeck.export.quick_latency import quick_latency
from limbeck.export.runtime import session
from limbeck.export.serving import Served, run
from limbeck.export.session import Session
from limbeck.export.workers import warm

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = [
    "LARGEST_BATCH",
    "Card",
    "Interface",
    "Served",
    "Session",
    "as_given",
    "as_seen",
    "card_path",
    "check_available",
    "check_parity",
    "files",
    "first_difference",
    "parity",
    "put",
    "quick_latency",
    "read_card",
    "run",
    "session",
    "size_bytes",
    "suffix",
    "to",
    "to_executorch",
    "to_keras",
    "to_litert",
    "to_onnx",
    "to_openvino",
    "values",
    "warm",
    "write_card",
]


def check_available(names: Iterable[str]) -> None:
    """Refuse, before anything expensive starts, formats whose libraries are not installed.

    Args:
        names: of formats, with or without a precision: `litert`, `litert-int8`.

    Raises:
        UserError: a format is unknown, or the extra it needs is missing.
    """
    for name in names:
        check_format(file_format(name).form)


def to(form: str, model: nn.Module, example: Tensor, path: Path, interface: Interface | None = None) -> Path:
    """Write `model` as one float32 file of a format.

    Args:
        form: litert, onnx, executorch, openvino, or keras for what is of Keras.
        model: maps one tensor [B, ...] to one tensor [B, C] or [B, K]; it is left as it is.
        example: at least one row of input, [B, ...], as the model takes it; its values do not matter.
        path: the file to write; the converter's log is beside it.
        interface: what the file takes; what the model takes where it is absent.

    Returns:
        The path.

    Raises:
        UserError: the extra is missing, the model cannot be converted, or the place cannot be written.
    """
    form = file_format(form).form
    made: Path = getattr(converter(form), f"to_{form}")(model, example, path, interface)
    return made
