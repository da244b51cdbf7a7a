"""Models without a module of torch: a function of arrays that answers and cannot be trained."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from limbeck.core.types import Batch

MOST_ROWS = 64  # in one call: what files and forests are asked costs memory by the row


class ExternalModel(nn.Module):
    """A model of another library as a network that gives its outputs.

    It has no parameters, and its copies are itself: what it asks may be a session, a process or a mapped file.

    Args:
        ask: rows as the model takes them, or with `keyed` their numbers in the data set, int64 [B] -> [B, ...].
        digest: of what the answers depend on; they are stored under it.
        size_bytes: of the file it comes from.
        keyed: it knows rows by their number rather than by what they hold.
        classes: names of its outputs, where it says them itself.
    """

    def __init__(
        self,
        ask: Callable[[NDArray[Any]], NDArray[Any]],
        *,
        digest: str,
        size_bytes: int | None = None,
        keyed: bool = False,
        classes: tuple[str, ...] | None = None,
    ) -> None:
        super().__init__()
        self._ask, self.digest, self.size_bytes = ask, digest, size_bytes
        self.keyed, self.classes = keyed, classes

    def forward(self, x: Tensor) -> Tensor:
        """What the model gives for rows [B, ...], float32 on their device."""
        rows = x.detach().cpu().numpy()
        parts = [self._ask(rows[start : start + MOST_ROWS]) for start in range(0, max(len(rows), 1), MOST_ROWS)]
        given = np.concatenate([np.asarray(part, dtype=np.float32) for part in parts])
        return torch.from_numpy(given).to(x.device)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self


def external_model(model: object) -> ExternalModel | None:
    """The model of another library that a network asks, at whatever depth it stands."""
    if not isinstance(model, nn.Module):
        return None
    return next((module for module in model.modules() if isinstance(module, ExternalModel)), None)


def given(model: object, batch: Batch) -> Tensor:
    """What of a batch a network wants: its inputs, or its row numbers where it knows rows by these."""
    inner = external_model(model)
    return batch.index if inner is not None and inner.keyed else batch.x
