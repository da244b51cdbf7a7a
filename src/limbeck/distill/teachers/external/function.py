"""Functions of the user's as models."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from limbeck.core.errors import UserError
from limbeck.core.hashing import fingerprint, fingerprint_tensors
from limbeck.data import Data, pixels
from limbeck.models import ExternalModel

Function = Callable[[NDArray[Any]], Any]
PROBED = 32  # rows whose answers a function is known by


def from_function(function: Function, data: Data, name: str) -> ExternalModel:
    """A function as a model. What it answers for some rows stands for it: other answers are those of another model.

    Args:
        function: of rows float32 [B, channels, H, W] (pixels in [0, 1]) or [B, columns] that gives logits or
            probabilities [B, C], or values [B, K] in their own units.
        data: what it shall answer for.
        name: for messages.

    Raises:
        UserError: it fails, or gives no numbers.
    """
    rows = pixels(data, data.train[:PROBED]).numpy()
    try:
        answers = np.asarray(function(rows), dtype=np.float32)
    except Exception as error:
        raise UserError(f"fails for some rows ({type(error).__name__}: {error})", where=name) from error
    # Rounded, for a function may compute on several threads, and is the same if its last digits move.
    seen = torch.from_numpy(answers).bfloat16().float()
    return ExternalModel(function, digest=fingerprint("function", fingerprint_tensors({"answers": seen})))
