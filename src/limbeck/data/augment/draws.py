"""Random numbers as a pure function of (seed, row, view, what is drawn)."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import Tensor

# One number for each thing that is drawn. The order is part of what a cache of teacher outputs depends on: append only.
DRAWS = (
    "flip", "shift_x", "shift_y", "rotate", "blur", "brightness", "contrast", "saturation", "hue",
    "cutout_x", "cutout_y", "partner", "ratio", "box_x", "box_y",
)  # fmt: skip

_GOLDEN = 0x9E3779B97F4A7C15
_MIX = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))
_MASK = (1 << 64) - 1


def uniform(seed: int, index: Tensor, view: int, name: str) -> Tensor:
    """One number in [0, 1) for each row: float64 (float32 on MPS), a multiple of 2^-24, the same on every device.

    Args:
        seed: any whole number.
        index: int64 [B], rows.
        view: which augmented view.
        name: what is drawn, one of DRAWS; different names give independent numbers.
    """
    return uniforms(seed, index, view, (name,))[0]


def uniforms(seed: int, index: Tensor, view: int, names: Sequence[str]) -> Tensor:
    """`uniform` for several names at once, [names, B], which takes hardly longer than for one."""
    drawn = _shifted(bits(seed, index, view, names), 40)
    return drawn.to(torch.float32 if index.device.type == "mps" else torch.float64) * 2.0**-24


def bits(seed: int, index: Tensor, view: int, names: Sequence[str]) -> Tensor:
    """64 well-mixed bits for each row, int64 [names, B]: the finaliser of SplitMix64 (Steele et al., 2014), chained."""
    starts = [[_signed(_start(seed, view, name))] for name in names]
    z = index * _signed(_GOLDEN) + torch.tensor(starts, device=index.device)
    for count, factor in _MIX:
        z = (z ^ _shifted(z, count)) * _signed(factor)  # int64 products wrap, on every device, as the hash needs
    return z ^ _shifted(z, 31)


@functools.lru_cache(1024)  # asked for in every batch
def _start(seed: int, view: int, name: str) -> int:
    start = 0
    for part in (seed, view, DRAWS.index(name)):
        start = _mix_number((start + part * _GOLDEN + _GOLDEN) & _MASK)
    return start


def _mix_number(z: int) -> int:
    for count, factor in _MIX:
        z = ((z ^ (z >> count)) * factor) & _MASK
    return z ^ (z >> 31)


def _shifted(z: Tensor, count: int) -> Tensor:
    """A logical shift to the right; torch's own is arithmetic."""
    return (z >> count) & ((1 << (64 - count)) - 1)


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


def below(drawn: Tensor, count: int) -> Tensor:
    """Whole numbers in [0, count) from 64 bits, without floating point; count below 2^32."""
    return (_shifted(drawn, 33) * count) >> 31


def beta(seed: int, index: Tensor, view: int, alpha: float) -> Tensor:
    """Ratios distributed as Beta(alpha, alpha), float64 [B] on the CPU, by the inverse of its distribution function."""
    from scipy.special import betaincinv

    middle = uniform(seed, index.cpu(), view, "ratio") + 2.0**-25  # never 0: the inverse is symmetric about a half
    return torch.from_numpy(betaincinv(alpha, alpha, middle.numpy())).clamp(0, 1)
