"""Files in integers or half floats, made from float ones by each target's own tool in a process of its own.

Importing this does not load torch.
"""

from __future__ import annotations

from limbeck.core.formats import QUANTIZED
from limbeck.export.quantize.calibration import calibration
from limbeck.export.quantize.layer_errors import LayerError
from limbeck.export.quantize.post_training import Kept, check_quantized, errors, quantize, source, within

__all__ = [
    "QUANTIZED",
    "Kept",
    "LayerError",
    "calibration",
    "check_quantized",
    "errors",
    "quantize",
    "source",
    "within",
]
