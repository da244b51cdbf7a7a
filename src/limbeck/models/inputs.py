"""Input normalisation as a part of the network that is trained and shipped."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Normalized(nn.Module):
    """A network that standardises its input first, so that everybody may hand it pixels in [0, 1] or raw columns.

    The statistics are no part of its state dict: weights files hold the plain network's tensors, under its own names.

    Args:
        model: the plain network.
        mean: float [channels] or [columns], or one number for all.
        std: the same, above 0.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, model: nn.Module, mean: Tensor | Sequence[float], std: Tensor | Sequence[float]) -> None:
        super().__init__()
        self.model = model
        for name, values in (("mean", mean), ("std", std)):
            fixed = torch.as_tensor(values, dtype=torch.float32).detach().clone().flatten()
            self.register_buffer(name, fixed, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, C] or values [B, K] of inputs [B, channels, H, W] or [B, columns]."""
        shape = (-1,) + (1,) * (x.ndim - 2)
        given: Tensor = self.model((x - self.mean.view(shape)) / self.std.view(shape))
        return given


def plain(model: nn.Module) -> nn.Module:
    """The network without its input normalisation."""
    return model.model if isinstance(model, Normalized) else model
