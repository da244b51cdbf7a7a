"""Files in integers or half floats: made from float ones by each target's own tool, or from a network trained for it.

Each tool works in a process of its own. Importing this room does not load torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from limbeck.quantize.errors import LayerError
from limbeck.quantize.making import QUANTIZED, Kept, check_quantized, errors, quantize, source, within
from limbeck.quantize.rows import calibration

if TYPE_CHECKING:
    from limbeck.quantize.lowering import TRAINED, lower_qat
    from limbeck.quantize.training import FakeQuantized, prepare_qat

__all__ = [
    "QUANTIZED",
    "TRAINED",
    "FakeQuantized",
    "Kept",
    "LayerError",
    "calibration",
    "check_quantized",
    "errors",
    "lower_qat",
    "prepare_qat",
    "quantize",
    "source",
    "within",
]


def __getattr__(name: str) -> Any:
    if name in ("FakeQuantized", "prepare_qat", "TRAINED", "lower_qat"):  # these want torch
        from limbeck.quantize import lowering, training

        return getattr(training, name, None) or getattr(lowering, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
