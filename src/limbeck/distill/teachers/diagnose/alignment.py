"""What a network knows, by whatever names and in whatever unit: classes in another order, values along another line.

Always found on one half of the rows and judged on the other, so that a network that knows nothing does not look better.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

MOST = 0.5  # of the rows


class Orders(NamedTuple):
    """Which output stands for each class, int64 [C], by all rows and by each half of them.

    Attributes:
        whole: by all rows.
        first: by the rows in `half`.
        second: by the others.
        half: bool [N], every other row of each class.
    """

    whole: Tensor
    first: Tensor
    second: Tensor
    half: Tensor

    def hits(self, truth: Tensor, said: Tensor) -> Tensor:
        """Which rows are right in the order that the other half of the rows gives, bool [N]."""
        return said == torch.where(self.half, self.second[truth], self.first[truth])


def orders(truth: Tensor, said: Tensor, width: int) -> Orders:
    """The assignments of outputs to classes with the most hits (Kuhn, 1955, "The Hungarian method").

    Args:
        truth: class indices [N].
        said: what was predicted, [N].
        width: C.
    """
    half = torch.zeros(len(truth), dtype=torch.bool)
    for label in range(width):
        half[(truth == label).nonzero().flatten()[::2]] = True
    whole, first, second = (_assigned(truth[rows], said[rows], width) for rows in (half | ~half, half, ~half))
    return Orders(whole, first, second, half)


def recognised(truth: Tensor, said: Tensor, width: int) -> Tensor:
    """Which rows are recognised, bool [N]: by the names the classes have, or in another order if that is believable."""
    plain, ordered = said == truth, orders(truth, said, width).hits(truth, said)
    return ordered if believable(plain, ordered) else plain


def believable(plain: Tensor, ordered: Tensor) -> bool:
    """Whether an order is one, bool [N] of hits each: it makes most rows right, and few were before.

    Any network tells classes apart by some of its outputs, an untrained one too.
    """
    before, after = float(plain.double().mean()), float(ordered.double().mean())
    return after >= MOST and before <= after / 2


def straightened(truth: Tensor, given: Tensor) -> Tensor:
    """Values [N, K] put on the least squares line to the true ones; no row is on a line that was fitted to it."""
    halves, fitted = (slice(0, None, 2), slice(1, None, 2)), torch.empty_like(truth)
    for own, other in (halves, halves[::-1]):
        slope, shift = line(given[own], truth[own])
        fitted[other] = slope * given[other] + shift
    return fitted


def line(given: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """Slope and shift of the least squares line of each output, [K]."""
    centred = given - given.mean(0)
    slope = (centred * (truth - truth.mean(0))).sum(0) / centred.square().sum(0).clamp_min(1e-12)
    return slope, truth.mean(0) - slope * given.mean(0)


def r2(given: Tensor, truth: Tensor) -> float:
    """The share of the variance that values [N, K] explain, over all outputs together."""
    return 1 - float((given - truth).square().sum() / (truth - truth.mean(0)).square().sum().clamp_min(1e-12))


def luck(before: Tensor, after: Tensor) -> float:
    """The chance of so uneven a split of the rows that only one of two has right (McNemar, 1947), bool [N] each."""
    from scipy.stats import binomtest

    won, lost = int((after & ~before).sum()), int((before & ~after).sum())
    return float(binomtest(won, won + lost, alternative="greater").pvalue) if won + lost else 1.0


def _assigned(truth: Tensor, said: Tensor, width: int) -> Tensor:
    from scipy.optimize import linear_sum_assignment

    hits = torch.bincount(truth * width + said, minlength=width * width).view(width, width).double()
    hits += 0.5 * torch.eye(width, dtype=torch.float64)  # where it is even, a class keeps its place
    return torch.as_tensor(linear_sum_assignment(hits.numpy(), maximize=True)[1])
