"""What is done to images, each with parameters of its own.

No kernel is used whose last bits depend on how many samples it is given (matrix products, convolutions, floating-point
sums over pixels).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from limbeck.core.errors import UserError
from limbeck.data.augment.draws import DRAWS, uniforms

if TYPE_CHECKING:
    from limbeck.recipe import Augment, Blur

CACHED = 2**19  # numbers augmented at once on a CPU: as many as stay in a core's cache from one step to the next
LUMA = (0.2989, 0.587, 0.114)  # ITU-R BT.601, rounded as torchvision and Pillow round it


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
    check(x.shape, spec)
    drawn = draw(spec, seed, index.to(x.device), view, x.shape)
    out, step = torch.empty_like(x, memory_format=torch.contiguous_format), at_once(x)
    copies = (part.clone(memory_format=torch.contiguous_format) for part in torch.split(x, step))
    for place, part in zip(torch.split(out, step), augmented(copies, drawn, step), strict=True):
        place.copy_(part)
    return out


def at_once(x: Tensor) -> int:
    """How many samples like those of x are augmented at once: on a CPU no more than its cache can hold."""
    return max(1, CACHED // math.prod(x.shape[1:])) if x.device.type == "cpu" else 2**31


def draw(spec: Augment, seed: int, index: Tensor, view: int, shape: torch.Size) -> dict[str, Tensor]:
    """The parameters of each sample for all that is switched on, [B, ...]; `index` is where they are wanted."""
    number = dict(zip(DRAWS, uniforms(seed, index, view, DRAWS), strict=True))
    found: dict[str, Tensor] = {}
    if spec.flip:
        found["flip"] = number["flip"] < spec.flip
    if spec.shift:
        span = 2 * spec.shift + 1
        found |= {name: (number[name] * span).floor().long() - spec.shift for name in ("shift_x", "shift_y")}
    if spec.rotate:
        angle = (2 * number["rotate"] - 1) * math.radians(spec.rotate)
        found["rotate_x"], found["rotate_y"] = _turned_axes(angle, shape[-2], shape[-1])
    if spec.blur:
        found["blur"] = _gaussian(number["blur"], spec.blur)
    for name, amount in spec.jitter or ():
        if amount:
            factor = (2 * number[name] - 1) * amount
            found[name] = per_sample((factor if name == "hue" else 1 + factor).float())
    if spec.cutout:
        found["cutout"] = boxes(shape[-2:], number["cutout_x"], number["cutout_y"], spec.cutout)
    return found


def augmented(parts: Iterable[Tensor], drawn: Mapping[str, Tensor], step: int) -> Iterator[Tensor]:
    """The parts, of `step` samples each, with all that was drawn for them done to them; they are overwritten."""
    for part, *values in zip(parts, *(torch.split(each, step) for each in drawn.values()), strict=True):
        yield _changed(part, dict(zip(drawn, values, strict=True)))


def _changed(x: Tensor, drawn: Mapping[str, Tensor]) -> Tensor:
    if "flip" in drawn:
        x = torch.where(per_sample(drawn["flip"]), x.flip(-1), x)
    if "shift_x" in drawn:
        x = _shift(x, drawn["shift_x"], drawn["shift_y"])
    if "rotate_x" in drawn:
        x = _rotate(x, drawn["rotate_x"], drawn["rotate_y"]).clamp_(0, 1)
    if "blur" in drawn:
        x = _blur(x, drawn["blur"])
    x = _jitter(x, drawn)
    if "cutout" in drawn:
        x = torch.where(drawn["cutout"], _mean(x), x)
    return x


def moved(mask: Tensor, seed: int, index: Tensor, view: int, spec: Augment) -> Tensor:
    """Masks that go with augmented images: flipped, shifted and turned as these are, each pixel the nearest one's.

    Args:
        mask: class indices int64 [B, H, W]; what does not count moves with the rest.
        seed: as in `augment`, like all that follows.
        index: int64 [B].
        view: which augmented view of the rows.
        spec: what is switched on; blur, jitter and cutout change no class.

    Raises:
        UserError: `mixup` or `cutmix`, for a pixel has one class.
    """
    if spec.mixup or spec.cutmix:
        raise UserError("mixup and cutmix mix class labels, and a pixel has one", where="augment")
    places = mask[:, None]
    drawn = draw(spec, seed, index.to(mask.device), view, places.shape)
    if "flip" in drawn:
        places = torch.where(per_sample(drawn["flip"]), places.flip(-1), places)
    if "shift_x" in drawn:
        places = _shift(places, drawn["shift_x"], drawn["shift_y"])
    if "rotate_x" in drawn:
        places = _rotate(places.float(), drawn["rotate_x"], drawn["rotate_y"], "nearest").long()
    return places[:, 0]


# --- moving pixels -------------------------------------------------------------------------------


def per_sample(value: Tensor) -> Tensor:
    """One number for each sample, [B], as it spreads over images."""
    return value.view(-1, 1, 1, 1)


def check(shape: torch.Size, spec: Augment) -> None:
    """Refuse what cannot be augmented.

    Raises:
        UserError: rows of this shape [B, ...] are no images, or smaller than the blur.
    """
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
    sources = []
    for size, move in zip(x.shape[-2:], (down, right), strict=True):
        source = (torch.arange(size, device=x.device) - move[:, None]) % (2 * size)
        sources.append(torch.where(source < size, source, 2 * size - 1 - source))
    place = (sources[0] * x.shape[-1])[:, :, None] + sources[1][:, None, :]
    return x.flatten(2).gather(2, place.flatten(1)[:, None].expand(-1, x.shape[1], -1)).view(x.shape)


def _turned_axes(angle: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Where the image's axes come from when it is turned by angle [B]: complex [B, 1, W] and [B, H, 1], x + iy.

    Their sum says where each pixel comes from, -1 to 1. Elementwise rather than affine_grid, which is a matrix product.
    """
    # In float64 and rounded once: a vectorised float32 cosine may differ from the scalar one at the end of a batch.
    cos, sin = (f(angle).float()[:, None] for f in (torch.cos, torch.sin))
    across = torch.arange(width, device=angle.device) - (width - 1) / 2
    along = torch.arange(height, device=angle.device) - (height - 1) / 2
    axes = ((cos * across, sin * across), (-sin * along, cos * along))
    x, y = (torch.complex(u * (2 / width), v * (2 / height)) for u, v in axes)
    return x[:, None, :], y[:, :, None]


def _rotate(x: Tensor, across: Tensor, along: Tensor, mode: str = "bilinear") -> Tensor:
    """Turn counter-clockwise about the centre."""
    grid = torch.view_as_real(across + along)
    return F.grid_sample(x, grid, mode=mode, padding_mode="reflection", align_corners=False)


def _gaussian(drawn: Tensor, spec: Blur) -> Tensor:
    """Weights of the pixels at distance 0, 1, ... for each sample's own sigma, float32 [B, kernel // 2 + 1]."""
    low, high = spec.sigma
    sigma = low + (high - low) * drawn[:, None]
    distance = torch.arange(spec.kernel // 2 + 1, device=drawn.device)
    weights = torch.exp(-0.5 * (distance / sigma) ** 2)
    total = weights[:, :1].clone()
    for w in weights[:, 1:].unbind(1):  # one by one: how a sum is split among lanes may depend on the batch
        total += 2 * w[:, None]
    return (weights / total).float()


def _blur(x: Tensor, weights: Tensor) -> Tensor:
    """Sums of shifted slices rather than a convolution; a product and a sum each round, on every machine."""
    first, *others = (per_sample(w) for w in weights.unbind(1))
    half = len(others)
    for dim, padding in ((3, (half, half, 0, 0)), (2, (0, 0, half, half))):
        size = x.shape[dim]
        padded = F.pad(x, padding, mode="reflect")
        x, pair = x.mul_(first), torch.empty_like(x)
        for distance, weight in enumerate(others, 1):
            sides = (padded.narrow(dim, place, size) for place in (half - distance, half + distance))
            x.add_(torch.add(*sides, out=pair).mul_(weight))
    return x.clamp_(0, 1)


def boxes(size: torch.Size, across: Tensor, along: Tensor, side: Tensor | float) -> Tensor:
    """Mask [B, 1, H, W] of a box of `side` times the image's sides, centred on a pixel anywhere, cut at the border."""
    inside = []
    for count, centre in zip(size, (along, across), strict=True):
        length = (torch.as_tensor(side, device=centre.device) * count + 0.5).floor().long()
        start = (centre * count).floor().long() - length // 2
        place = torch.arange(count, device=centre.device)
        inside.append((place >= start[:, None]) & (place < (start + length)[:, None]))
    return (inside[0][:, :, None] & inside[1][:, None, :])[:, None]


# --- colours -------------------------------------------------------------------------------------


def _jitter(x: Tensor, drawn: Mapping[str, Tensor]) -> Tensor:
    coloured = x.shape[1] == 3
    if "brightness" in drawn:
        x = x.mul_(drawn["brightness"]).clamp_(0, 1)
    if "contrast" in drawn:
        x = _blend(x, _mean(_grey(x)), drawn["contrast"])
    if "saturation" in drawn and coloured:
        x = _blend(x, _grey(x), drawn["saturation"])
    if "hue" in drawn and coloured:
        x = _turn_hue(x, drawn["hue"])
    return x


def _blend(x: Tensor, towards: Tensor, factor: Tensor) -> Tensor:
    return x.mul_(factor).add_(towards * (1 - factor)).clamp_(0, 1)


def _grey(x: Tensor) -> Tensor:
    """Luma [B, 1, H, W] of colour images; other images as they are."""
    if x.shape[1] != 3:
        return x
    red, green, blue = torch.split(x, 1, dim=1)
    return (LUMA[0] * red).add_(LUMA[1] * green).add_(LUMA[2] * blue)


def _mean(x: Tensor) -> Tensor:
    """Mean over the pixels of each channel, [B, channels, 1, 1].

    Summed in whole numbers: a sum of floats may be split among threads, and so depend on the size of the batch.
    """
    steps = 2.0**24
    whole = (x * steps).round_()
    if x.device.type == "mps":  # no float64 there
        total = whole.long().sum((2, 3), keepdim=True).float()
    else:
        total = whole.sum((2, 3), keepdim=True, dtype=torch.float64)  # exact below 2^53, in whatever order
    return (total / (steps * x.shape[2] * x.shape[3])).float()


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
