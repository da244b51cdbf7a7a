"""Augmented batches of a data set: (rows, view) -> Batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from limbeck.core.types import UNLABELLED, Batch, Fetch
from limbeck.data.augment.draws import below, beta, bits, uniforms
from limbeck.data.augment.images import at_once, augmented, boxes, check, draw, moved, per_sample

if TYPE_CHECKING:
    from limbeck.recipe import Augment


def keyed(
    spec: Augment,
    *,
    seed: int,
    rows: Tensor,
    unlabelled: Tensor | None = None,
    pixels: Callable[[Tensor], Tensor],
    labels: Callable[[Tensor], Tensor],
    classes: int,
    views: Callable[[Tensor, int], Tensor] | None = None,
) -> Fetch:
    """What gives a training loop its batches: rows augmented, then mixed where the recipe asks for mixup or cutmix.

    Mixup is Zhang et al., 2018; cutmix is Yun et al., 2019, its ratio corrected to the area really pasted. Each sample
    has a partner drawn from all training rows, not from its batch, and both are augmented by their own keys, so the
    mixed sample too is a function of (seed, row, view).

    An augmented image has 8 bits a channel, as the image has that it is made of: what `augment` gives is rounded to
    multiples of 1/255. It may be stored as bytes and read again, therefore, and stays the same to the bit. The mixture
    of two is not rounded.

    Args:
        spec: what is switched on.
        seed: any whole number.
        rows: int64 [N], the training rows, where partners are drawn from.
        unlabelled: int64 rows without a label, where theirs are drawn from: a mixture of both would have no label.
        pixels: gives some rows as they are: float32 [B, channels, H, W] in [0, 1], where the batches are wanted, in
            memory of their own, for it is overwritten.
        labels: gives the class indices int64 [B] of some rows there, masks int64 [B, H, W], which move with the images,
            or the yes and no of several labels float32 [B, C] (or whatever is the target, where nothing mixes).
        classes: number of classes C.
        views: gives the augmented images of (rows, view), if they are stored; by default they are made anew.

    Returns:
        (rows int64 [B], view) -> Batch. With mixup or cutmix, y is class shares float32 [B, C], NaN without a label.

    Raises:
        UserError: the rows are no images, or they are smaller than the blur.
    """
    alone = unlabelled is None or not len(unlabelled)
    if views is None:
        views = _made(spec, seed, pixels)

    def fetch(index: Tensor, view: int) -> Batch:
        x, y = views(index, view), labels(index)
        if y.ndim == 3:
            y = moved(y, seed, index, view, spec)
        if not (spec.mixup or spec.cutmix):
            return Batch(x, y, index.to(x.device), view)
        drawn = bits(seed, index.to(rows.device), view, ("partner",))[0]
        partner = rows[below(drawn, len(rows))]
        if not alone:
            assert unlabelled is not None
            theirs = unlabelled[below(drawn, len(unlabelled))]
            partner = torch.where(torch.isin(index.to(rows.device), unlabelled), theirs, partner)
        other, ratio = views(partner, view), beta(seed, index, view, spec.mixup or spec.cutmix)
        index = index.to(x.device)
        if spec.mixup:
            share = ratio.float().to(x.device)
            x = (per_sample(share) * x).add_(other.mul_(per_sample(1 - share))).clamp_(0, 1)
        else:
            across, along = uniforms(seed, index, view, ("box_x", "box_y"))
            box = boxes(x.shape[-2:], across, along, (1 - ratio).sqrt().float().to(x.device))
            x = torch.where(box, other, x)
            share = 1 - box.sum((1, 2, 3)).float() / (x.shape[-2] * x.shape[-1])
        own, others = (_shares(each, classes) for each in (y, labels(partner)))
        return Batch(x, share[:, None] * own + (1 - share)[:, None] * others, index, view)

    return fetch


def _shares(y: Tensor, classes: int) -> Tensor:
    """Labels as shares of the classes [B, C]; NaN without one."""
    if y.is_floating_point():
        return y
    known = (y != UNLABELLED)[:, None]
    return torch.where(known, F.one_hot(y.clamp_min(0), classes), torch.nan)


def _made(spec: Augment, seed: int, pixels: Callable[[Tensor], Tensor]) -> Callable[[Tensor, int], Tensor]:
    """(rows, view) -> augmented images, rounded to 8 bits; `pixels` gives the rows as they are."""
    if not spec.active:
        return lambda rows, view: pixels(rows)
    example = pixels(torch.zeros(1, dtype=torch.int64))
    check(example.shape, spec)
    step = at_once(example)

    def images(rows: Tensor, view: int) -> Tensor:
        drawn = draw(spec, seed, rows.to(example.device), view, example.shape)
        if not drawn:
            return pixels(rows)
        out = torch.empty(len(rows), *example.shape[1:], device=example.device)
        parts = augmented(map(pixels, torch.split(rows, step)), drawn, step)
        for place, part in zip(torch.split(out, step), parts, strict=True):
            torch.div(part.mul_(255).round_(), 255, out=place)
        return out

    return images
