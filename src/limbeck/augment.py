"""Augmentation as a pure function of (seed, row, view).

No generator has a state here. A counter-based hash gives every (seed, row, view, draw) its own number, so a sample's
augmented view is the same whatever batch, order, process or worker it stands in, and a teacher's answer to it can be
stored. What is done with the numbers is kept free of the batch too: no kernel is used whose last bits depend on how
many samples it is given (matrix products, convolutions, floating-point sums over pixels). The numbers are the same on
every device; the pixels are the same to the bit on one kind of device.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from limbeck.errors import UserError
from limbeck.types import Batch

if TYPE_CHECKING:
    from limbeck.recipe import Augment, Blur, Jitter

# One number for each thing that is drawn. The order is part of what a cache of teacher outputs depends on: append only.
DRAWS = (
    "flip", "shift_x", "shift_y", "rotate", "blur", "brightness", "contrast", "saturation", "hue",
    "cutout_x", "cutout_y", "partner", "ratio", "box_x", "box_y",
)  # fmt: skip
LUMA = (0.2989, 0.587, 0.114)  # ITU-R BT.601, rounded as torchvision and Pillow round it

_GOLDEN = 0x9E3779B97F4A7C15
_MIX = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))
_MASK = (1 << 64) - 1


def augment(x: Tensor, seed: int, index: Tensor, view: int, spec: Augment) -> Tensor:
    """Flip, shift, rotate, blur, jitter and cut out, in that order; what is switched off costs nothing.

    Shift and rotation continue the image beyond its border by reflection, so that no black corners arise for a network
    to take as a cue. Rotation resamples once, bilinearly; flip and shift move whole pixels and resample nothing. Blur
    and jitter are torchvision's `gaussian_blur` and `adjust_*`, with the four parts of the jitter always in the order
    brightness, contrast, saturation, hue. Cutout (DeVries and Taylor, 2017) puts the image's own mean colour into a
    square whose centre lies anywhere in the image.

    Args:
        x: float32 [B, channels, H, W] in [0, 1].
        seed: any whole number.
        index: int64 [B], the row of each sample in the data set.
        view: which augmented view of the rows.
        spec: what is switched on. `mixup` and `cutmix` need labels and partners: see `keyed`.

    Returns:
        float32 [B, channels, H, W] in [0, 1], on x.device.

    Raises:
        UserError: x holds no images, or images smaller than the blur.
    """
    _check(x.shape, spec)
    index = index.to(x.device)

    def draw(name: str) -> Tensor:
        return uniform(seed, index, view, name)

    if spec.flip:
        x = torch.where(_per_sample(draw("flip") < spec.flip), x.flip(-1), x)
    if spec.shift:
        span = 2 * spec.shift + 1
        x = _shift(x, *((draw(name) * span).floor().long() - spec.shift for name in ("shift_x", "shift_y")))
    if spec.rotate:
        x = _rotate(x, (2 * draw("rotate") - 1) * math.radians(spec.rotate))
    if spec.blur:
        x = _blur(x, draw("blur"), spec.blur)
    if spec.jitter:
        x = _jitter(x, draw, spec.jitter)
    if spec.cutout:
        x = _cutout(x, draw("cutout_x"), draw("cutout_y"), spec.cutout)
    return x


def keyed(
    spec: Augment,
    *,
    seed: int,
    rows: Tensor,
    fetch: Callable[[Tensor], tuple[Tensor, Tensor]],
    classes: int,
) -> Callable[[Batch], Batch]:
    """What a training loop applies to its batches: `augment`, then mixup or cutmix where the recipe asks for it.

    Mixup is Zhang et al., 2018; cutmix is Yun et al., 2019, its ratio corrected to the area really pasted. Each sample
    has a partner drawn from all training rows, not from its batch, and both are augmented by their own keys, so the
    mixed sample too is a function of (seed, row, view).

    Args:
        spec: what is switched on.
        seed: any whole number.
        rows: int64 [N], the training rows, where partners are drawn from.
        fetch: gives the pixels float32 [B, channels, H, W] and class indices int64 [B] of some rows.
        classes: number of classes C.

    Returns:
        Batch -> Batch. With mixup or cutmix, y becomes class shares float32 [B, C]; otherwise it is left alone.

    Raises:
        UserError: the rows are no images, or they are smaller than the blur.
    """
    if not spec.active:
        return lambda batch: batch
    _check(fetch(rows[:1])[0].shape, spec)

    def apply(batch: Batch) -> Batch:
        x = augment(batch.x, seed, batch.index, batch.view, spec)
        if not (spec.mixup or spec.cutmix):
            return Batch(x, batch.y, batch.index, batch.view)
        partner = rows[_below(_hash(seed, batch.index.to(rows.device), batch.view, "partner"), len(rows))]
        other, label = fetch(partner)
        other = augment(other.to(x.device), seed, partner, batch.view, spec)
        ratio = _beta(seed, batch.index, batch.view, spec.mixup or spec.cutmix)
        if spec.mixup:
            share = ratio.float().to(x.device)
            x = _blend(x, other, _per_sample(share))
        else:
            across, along = (uniform(seed, batch.index.to(x.device), batch.view, name) for name in ("box_x", "box_y"))
            box = _box(x.shape[-2:], across, along, (1 - ratio).sqrt().float().to(x.device))
            x = torch.where(box, other, x)
            share = 1 - box.sum((1, 2, 3)).float() / (x.shape[-2] * x.shape[-1])
        own, others = (F.one_hot(y.to(x.device), classes) for y in (batch.y, label))
        shares = share[:, None] * own + (1 - share)[:, None] * others
        return Batch(x, shares, batch.index, batch.view)

    return apply


def uniform(seed: int, index: Tensor, view: int, name: str) -> Tensor:
    """One number in [0, 1) for each row: float64 (float32 on MPS), a multiple of 2^-24, the same on every device.

    Args:
        seed: any whole number.
        index: int64 [B], rows.
        view: which augmented view.
        name: what is drawn, one of DRAWS; different names give independent numbers.
    """
    bits = _shifted(_hash(seed, index, view, name), 40)
    return bits.to(torch.float32 if index.device.type == "mps" else torch.float64) * 2.0**-24


# --- the hash ------------------------------------------------------------------------------------


def _hash(seed: int, index: Tensor, view: int, name: str) -> Tensor:
    """64 well-mixed bits for each row, as int64 [B]: the finaliser of SplitMix64 (Steele et al., 2014), chained."""
    start = 0
    for part in (seed, view, DRAWS.index(name)):
        start = _mix_number((start + part * _GOLDEN + _GOLDEN) & _MASK)
    z = index * _signed(_GOLDEN) + _signed(start)
    for bits, factor in _MIX:
        z = (z ^ _shifted(z, bits)) * _signed(factor)  # int64 products wrap, on every device, as the hash needs
    return z ^ _shifted(z, 31)


def _mix_number(z: int) -> int:
    for bits, factor in _MIX:
        z = ((z ^ (z >> bits)) * factor) & _MASK
    return z ^ (z >> 31)


def _shifted(z: Tensor, bits: int) -> Tensor:
    """A logical shift to the right; torch's own is arithmetic."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


def _below(bits: Tensor, count: int) -> Tensor:
    """Whole numbers in [0, count) from 64 bits, without floating point; count below 2^32."""
    return (_shifted(bits, 33) * count) >> 31


def _beta(seed: int, index: Tensor, view: int, alpha: float) -> Tensor:
    """Ratios distributed as Beta(alpha, alpha), float64 [B] on the CPU, by the inverse of its distribution function."""
    from scipy.special import betaincinv

    middle = uniform(seed, index.cpu(), view, "ratio") + 2.0**-25  # never 0: the inverse is symmetric about a half
    return torch.from_numpy(betaincinv(alpha, alpha, middle.numpy())).clamp(0, 1)


# --- moving pixels -------------------------------------------------------------------------------


def _per_sample(value: Tensor) -> Tensor:
    return value.view(-1, 1, 1, 1)


def _check(shape: torch.Size, spec: Augment) -> None:
    if len(shape) != 4:
        raise UserError(
            f"augmentation is for images, and these rows are {_described(shape[1:])}",
            where="augment",
            hint="leave `augment` out, or give the rows as images [channels, H, W]",
        )
    if spec.blur and spec.blur.kernel // 2 >= min(shape[-2:]):
        raise UserError(
            f"a kernel of {spec.blur.kernel} pixels is too large for images of {shape[-2]} x {shape[-1]}",
            where="augment.blur.kernel",
            hint=f"at most {2 * min(shape[-2:]) - 1}",
        )


def _described(shape: torch.Size) -> str:
    return f"vectors of {shape[0]} numbers" if len(shape) == 1 else f"of shape {tuple(shape)}"


def _shift(x: Tensor, right: Tensor, down: Tensor) -> Tensor:
    """Move by whole pixels; what comes in at the border is the image's reflection."""
    for dim, move in ((3, right), (2, down)):
        size = x.shape[dim]
        source = (torch.arange(size, device=x.device) - move[:, None]) % (2 * size)
        source = torch.where(source < size, source, 2 * size - 1 - source)
        x = x.gather(dim, source.view(-1, 1, *((1, size) if dim == 3 else (size, 1))).expand(x.shape))
    return x


def _rotate(x: Tensor, angle: Tensor) -> Tensor:
    """Turn counter-clockwise about the centre; angle in radians, [B]."""
    height, width = x.shape[-2:]
    # In float64 and rounded once: a vectorised float32 cosine may differ from the scalar one at the end of a batch.
    cos, sin = (f(angle).float().view(-1, 1, 1) for f in (torch.cos, torch.sin))
    across = (torch.arange(width, device=x.device) - (width - 1) / 2).view(1, 1, -1)
    along = (torch.arange(height, device=x.device) - (height - 1) / 2).view(1, -1, 1)
    # Elementwise rather than affine_grid, which is a matrix product.
    source_x = (cos * across - sin * along) * (2 / width)
    source_y = (sin * across + cos * along) * (2 / height)
    grid = torch.stack((source_x, source_y), -1)
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="reflection", align_corners=False).clamp(0, 1)


def _blur(x: Tensor, drawn: Tensor, spec: Blur) -> Tensor:
    """Gaussian blur with each sample's own sigma, as sums of shifted slices rather than a convolution."""
    low, high = spec.sigma
    sigma = low + (high - low) * drawn
    half = spec.kernel // 2
    right_half = [torch.exp(-0.5 * (distance / sigma) ** 2) for distance in range(half + 1)]
    total = right_half[0] + 2 * sum(right_half[1:], torch.zeros_like(sigma))
    weights = [_per_sample((w / total).float()) for w in right_half]
    for dim, padding in ((3, (half, half, 0, 0)), (2, (0, 0, half, half))):
        size = x.shape[dim]
        padded = F.pad(x, padding, mode="reflect")
        x = weights[0] * x
        for distance in range(1, half + 1):
            near = padded.narrow(dim, half - distance, size) + padded.narrow(dim, half + distance, size)
            x = x + weights[distance] * near
    return x.clamp(0, 1)


def _box(size: torch.Size, across: Tensor, along: Tensor, side: Tensor | float) -> Tensor:
    """Mask [B, 1, H, W] of a box of `side` times the image's sides, centred on a pixel anywhere, cut at the border."""
    inside = []
    for count, centre in zip(size, (along, across), strict=True):
        length = (torch.as_tensor(side, device=centre.device) * count + 0.5).floor().long()
        start = (centre * count).floor().long() - length // 2
        place = torch.arange(count, device=centre.device)
        inside.append((place >= start[:, None]) & (place < (start + length)[:, None]))
    return (inside[0][:, :, None] & inside[1][:, None, :])[:, None]


# --- colours -------------------------------------------------------------------------------------


def _jitter(x: Tensor, draw: Callable[[str], Tensor], spec: Jitter) -> Tensor:
    def factor(name: str, amount: float) -> Tensor:
        return _per_sample((1 + (2 * draw(name) - 1) * amount).float())

    coloured = x.shape[1] == 3
    if spec.brightness:
        x = (x * factor("brightness", spec.brightness)).clamp(0, 1)
    if spec.contrast:
        x = _blend(x, _mean(_grey(x)), factor("contrast", spec.contrast))
    if spec.saturation and coloured:
        x = _blend(x, _grey(x), factor("saturation", spec.saturation))
    if spec.hue and coloured:
        x = _turn_hue(x, _per_sample(((2 * draw("hue") - 1) * spec.hue).float()))
    return x


def _blend(x: Tensor, towards: Tensor, factor: Tensor) -> Tensor:
    return (factor * x + (1 - factor) * towards).clamp(0, 1)


def _grey(x: Tensor) -> Tensor:
    """Luma [B, 1, H, W] of colour images; other images as they are."""
    if x.shape[1] != 3:
        return x
    red, green, blue = x.unbind(1)
    return (LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue)[:, None]


def _mean(x: Tensor) -> Tensor:
    """Mean over the pixels of each channel, [B, channels, 1, 1].

    Summed in whole numbers: a sum of floats may be split among threads, and so depend on the size of the batch.
    """
    steps = 2.0**24
    total = (x * steps).round().long().sum((2, 3), keepdim=True)
    return (
        total.to(torch.float32 if x.device.type == "mps" else torch.float64) / (steps * x.shape[2] * x.shape[3])
    ).float()


def _turn_hue(x: Tensor, turn: Tensor) -> Tensor:
    """Turn the hue by a share of the colour circle, through HSV and back."""
    red, green, blue = x[:, :1], x[:, 1:2], x[:, 2:]
    value = x.amax(1, keepdim=True)
    chroma = value - x.amin(1, keepdim=True)
    safe = torch.where(chroma > 0, chroma, 1)
    sixths = torch.where(
        value == red,
        (green - blue) / safe,
        torch.where(value == green, 2 + (blue - red) / safe, 4 + (red - green) / safe),
    )
    sixths = sixths + 6 * turn
    channels = []
    for offset in (5, 3, 1):  # red, green and blue are one curve of the hue, a third of the circle apart
        place = sixths + offset
        place = place - 6 * (place / 6).floor()
        channels.append(value - chroma * torch.minimum(place, 4 - place).clamp(0, 1))
    return torch.cat(channels, 1).clamp(0, 1)


def _cutout(x: Tensor, across: Tensor, along: Tensor, side: float) -> Tensor:
    return torch.where(_box(x.shape[-2:], across, along, side), _mean(x), x)
