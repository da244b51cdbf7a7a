"""In which unit networks see and give numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, eq=False)
class Scaling:
    """Mean and standard deviation, float32, for each channel (of pixels in [0, 1]), column or regression target.

    `std` is never 0: something constant gets 1, so that dividing by it leaves zeros rather than infinities.

    With `bounds` all are those of the natural logarithm of regression targets, which are above 0: the least and the
    greatest logarithm, each [K], that an answer may have. One row unlike all others may take a network a few standard
    deviations too far, which is an error in a straight scale and in an exponential one a ruin of every mean.
    """

    mean: Tensor
    std: Tensor
    bounds: tuple[Tensor, Tensor] | None = None

    @property
    def log(self) -> bool:
        """Whether the logarithm of the values is learned."""
        return self.bounds is not None

    def standardise(self, values: Tensor) -> Tensor:
        """Values [B, K] in their own units as networks learn them."""
        mean, std = self.mean.to(values), self.std.to(values)
        return ((values.log() if self.log else values) - mean) / std

    def restore(self, values: Tensor) -> Tensor:
        """Values [B, K] as networks give them in their own units: the inverse of `standardise`, within the bounds."""
        own = values * self.std.to(values) + self.mean.to(values)
        if self.bounds is None:
            return own
        low, high = (end.to(values) for end in self.bounds)
        return own.maximum(low).minimum(high).exp()

    def with_spread(self) -> Scaling:
        """The same for K values followed by the logarithms of their variances, which only move with the unit."""
        import torch

        return Scaling(torch.cat((self.mean, 2 * self.std.log())), torch.cat((self.std, torch.ones_like(self.std))))
