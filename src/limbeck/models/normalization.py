"""Input normalisation as a part of the network that is trained and shipped."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

# What networks take, by the usual names: mean and std of pixels in [0, 1], and whether the channels stand in the order
# blue, green, red. `caffe` is what the first VGG and ResNet weights were trained with: the means of ImageNet off bytes.
PREPROCESSING: dict[str, tuple[tuple[float, ...], tuple[float, ...], bool]] = {
    "unit": ((0.0,), (1.0,), False),
    "bytes": ((0.0,), (1 / 255,), False),
    "signed": ((0.5,), (0.5,), False),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), False),
    "caffe": ((103.939 / 255, 116.779 / 255, 123.68 / 255), (1 / 255,), True),
}


class Normalized(nn.Module):
    """A network that standardises its input first, so that everybody may hand it pixels in [0, 1] or raw columns.

    Nor need anybody know in which order it was taught the classes. Neither is part of its state dict: weights files
    hold the plain network's tensors, under its own names.

    Args:
        model: the plain network.
        mean: float [channels] or [columns], or one number for all.
        std: the same, above 0.
        bgr: the network takes the channels in the other order; so do `mean` and `std`.
        order: int64 [C], which of the network's outputs stands for each class.
    """

    mean: Tensor
    std: Tensor
    order: Tensor | None

    def __init__(
        self,
        model: nn.Module,
        mean: Tensor | Sequence[float],
        std: Tensor | Sequence[float],
        *,
        bgr: bool = False,
        order: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.model, self.bgr = model, bgr
        self.register_buffer("order", order, persistent=False)
        for name, values in (("mean", mean), ("std", std)):
            fixed = torch.as_tensor(values, dtype=torch.float32).detach().clone().flatten()
            self.register_buffer(name, fixed, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, C] or values [B, K] of inputs [B, channels, H, W] or [B, columns], or of row numbers [B]."""
        if x.is_floating_point():
            shape = (-1,) + (1,) * (x.ndim - 2)
            x = x.flip(1) if self.bgr else x
            x = (x - self.mean.view(shape)) / self.std.view(shape)
        given: Tensor = self.model(x)
        return given if self.order is None else given[:, self.order]


def plain(model: nn.Module) -> nn.Module:
    """The network without its input normalisation."""
    return model.model if isinstance(model, Normalized) else model
