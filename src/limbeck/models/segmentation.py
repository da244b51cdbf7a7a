"""Networks that give logits for each pixel, by name; `NETWORKS` is read from the source, as that of `reference` is."""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.core.errors import UserError
from limbeck.models.reference import counts
from limbeck.models.timm import image_shape


class UNet(nn.Module):
    """Steps down, each half as large, and up again, each with the step down of its size beside it.

    Ronneberger et al. 2015, "U-Net: Convolutional Networks for Biomedical Image Segmentation", with padding, so that
    the logits are as large as the image, and batch norm.

    Args:
        down: modules that give maps [B, channels, H, W], each of half the size of the one before.
        widths: their channels.
        decoder: channels of the steps up, one fewer than there are steps down.
        width: number of classes.
        separable: whether the steps up are of separable convolutions.
        up: how much larger the last map is made than the first step down is.
    """

    def __init__(
        self, down: nn.Module, widths: Sequence[int], decoder: Sequence[int], width: int, separable: bool, up: int = 1
    ) -> None:
        super().__init__()
        self.down = down
        before = widths[-1]
        for number, (beside, after) in reversed(list(enumerate(zip(widths[:-1], decoder, strict=True), start=1))):
            self.add_module(f"larger{number}", nn.ConvTranspose2d(before, after, 2, stride=2))
            self.add_module(f"up{number}", _block(after + beside, after, separable))
            before = after
        self.steps = len(decoder)
        self.larger0 = nn.ConvTranspose2d(before, before, up, stride=up) if up > 1 else None
        self.head = nn.Conv2d(before, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, C, H, W] of images [B, channels, H, W]."""
        *beside, x = self.down(x)
        for number in range(self.steps, 0, -1):
            x = self.get_submodule(f"larger{number}")(x)
            x = self.get_submodule(f"up{number}")(torch.cat([x, beside[number - 1]], dim=1))
        logits: Tensor = self.head(x if self.larger0 is None else self.larger0(x))
        return logits


class _Down(nn.Module):
    """The steps down of a plain U-Net: two convolutions each, with a 2x2 max pool between the steps."""

    def __init__(self, before: int, channels: Sequence[int], separable: bool) -> None:
        super().__init__()
        self.pool = nn.MaxPool2d(2)
        for number, after in enumerate(channels, start=1):
            # The first convolution sees colours: there is nothing to separate.
            self.add_module(f"step{number}", _block(before, after, separable and number > 1))
            before = after
        self.steps = len(channels)

    def forward(self, x: Tensor) -> list[Tensor]:
        """The map of each step."""
        found: list[Tensor] = []
        for number in range(1, self.steps + 1):
            found.append(self.get_submodule(f"step{number}")(self.pool(found[-1]) if found else x))
        return found


def unet(
    shape: tuple[int, ...], width: int, *, channels: Sequence[int] = (16, 32, 64), separable: bool = False
) -> nn.Module:
    """A U-Net: the image is halved between steps, and grows back beside what each step has seen.

    Args:
        shape: [channels, H, W] of one sample.
        width: number of classes.
        channels: of the convolutions of each step down; the steps up have the same.
        separable: depthwise and pointwise convolutions (Howard et al. 2017) in place of whole ones, as for phones.
    """
    before, *size = image_shape(shape)
    widths = counts("channels", channels)
    if len(widths) < 2:
        raise UserError(f"unet: has {len(widths)} step down, and needs 2 at least", hint="channels: [16, 32]")
    _refuse_size("unet", size, 2 ** (len(widths) - 1))
    return UNet(_Down(before, widths, separable), widths, widths[:-1], width, separable)


def timm_unet(
    shape: tuple[int, ...],
    width: int,
    *,
    encoder: str = "resnet18",
    decoder: Sequence[int] = (64, 32, 32, 16),
    pretrained: bool = False,
) -> nn.Module:
    """Any timm network that gives maps of each stage, with the steps up of a U-Net behind it.

    Args:
        shape: [channels, H, W] of one sample.
        width: number of classes.
        encoder: the network's name in timm.
        decoder: channels of the steps up, from the smallest map on; the encoder's first stages are left out where there
            are fewer steps than stages.
        pretrained: start from ImageNet weights; written beside `model` in a recipe, not among its options.
    """
    import timm

    before, *size = image_shape(shape)
    widths = counts("decoder", decoder)
    try:
        named: Any = timm.create_model(encoder, features_only=True, in_chans=before, pretrained=pretrained)
    except Exception as error:
        reason = str(error).strip().split("\n")[0]
        raise UserError(f"timm has no encoder '{encoder}' for this ({reason})", where="timm-unet") from error
    found, reductions = named.feature_info.channels(), named.feature_info.reduction()
    steps = len(widths) + 1
    if steps > len(found) or any(b != 2 * a for a, b in itertools.pairwise(reductions)):
        what = f"the stages of '{encoder}' are {reductions} times smaller than the image"
        raise UserError(
            f"{what}, which {len(widths)} steps up do not fit", where="timm-unet", hint="fewer in `decoder`"
        )
    _refuse_size("timm-unet", size, reductions[steps - 1])
    del found[steps:]
    return UNet(_First(named, steps), found, widths[::-1], width, separable=False, up=reductions[0])


class _First(nn.Module):
    """The first maps of an encoder."""

    def __init__(self, encoder: nn.Module, count: int) -> None:
        super().__init__()
        self.encoder, self.count = encoder, count

    def forward(self, x: Tensor) -> list[Tensor]:
        """The maps of the first stages."""
        return list(self.encoder(x))[: self.count]


NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "unet": unet,
    "timm-unet": timm_unet,
}


def _refuse_size(name: str, size: Sequence[int], times: int) -> None:
    if any(length % times for length in size):
        raise UserError(
            f"{name}: images of {size[0]} x {size[1]} cannot be made {times} times smaller and as large again",
            hint=f"give a `size` that {times} divides, or fewer steps",
        )


def _block(before: int, after: int, separable: bool) -> nn.Sequential:
    """Two 3x3 convolutions with batch norm and ReLU."""
    layers: list[tuple[str, nn.Module]] = []
    for number, (one, other) in enumerate(((before, after), (after, after)), start=1):
        if separable:
            layers += [
                (f"depth{number}", nn.Conv2d(one, one, 3, padding=1, groups=one, bias=False)),
                (f"depth_bn{number}", nn.BatchNorm2d(one)),
                (f"depth_act{number}", nn.ReLU()),
                (f"conv{number}", nn.Conv2d(one, other, 1, bias=False)),
            ]
        else:
            layers.append((f"conv{number}", nn.Conv2d(one, other, 3, padding=1, bias=False)))
        layers += [(f"bn{number}", nn.BatchNorm2d(other)), (f"act{number}", nn.ReLU())]
    return nn.Sequential(OrderedDict(layers))
