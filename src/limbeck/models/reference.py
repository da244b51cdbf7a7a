"""The networks of the reference recipes, by name.

None ends in a softmax. Submodules carry names one would type in a recipe, for they are what taps refer to. `NETWORKS`
is read from the source by `limbeck.core.signatures`: keep it one literal, and the defaults plain values.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence

import torch
from torch import nn

from limbeck.core.errors import UserError
from limbeck.models.timm import from_timm, image_shape


def mlp(shape: tuple[int, ...], width: int, *, hidden: Sequence[int] = (64,)) -> nn.Module:
    """Fully connected layers with ReLU between them; images are flattened.

    Args:
        shape: of one sample.
        width: number of logits or values.
        hidden: width of each hidden layer.
    """
    layers: list[tuple[str, nn.Module]] = [("flatten", nn.Flatten())] if len(shape) > 1 else []
    before = torch.Size(shape).numel()
    for number, size in enumerate(counts("hidden", hidden), start=1):
        layers += [(f"linear{number}", nn.Linear(before, size)), (f"act{number}", nn.ReLU())]
        before = size
    return nn.Sequential(OrderedDict([*layers, ("head", nn.Linear(before, width))]))


def conv_leaky(
    shape: tuple[int, ...], width: int, *, channels: Sequence[int] = (256, 512), negative_slope: float = 0.2
) -> nn.Module:
    """Strided convolutions, leaky ReLU and an overlapping max pool between them, all padded as Keras' "same".

    The network of the MNIST distiller tutorial: by default its teacher; its student has channels 16 and 32. "Same"
    padding puts the odd pixel at the end, so it is not torch's symmetric `padding=1`.

    Args:
        shape: [channels, H, W] of one sample.
        width: number of logits or values.
        channels: output channels of each 3x3 convolution of stride 2.
        negative_slope: of the leaky ReLU.
    """
    before, *size = image_shape(shape)
    layers: list[tuple[str, nn.Module]] = []
    for number, after in enumerate(counts("channels", channels), start=1):
        if number > 1:
            # Repeating the last pixel cannot change the maximum of a window that holds it, so this is padding with
            # minus infinity, but with numbers that a quantizer can bear.
            layers += [
                (f"act{number - 1}", nn.LeakyReLU(negative_slope)),
                (f"pool{number - 1}_pad", nn.ReplicationPad2d((0, 1, 0, 1))),
                (f"pool{number - 1}", nn.MaxPool2d(2, stride=1)),
            ]
        (top, bottom), (left, right) = (_same(n) for n in size)
        if (top, left) == (bottom, right):
            layers.append((f"conv{number}", nn.Conv2d(before, after, 3, stride=2, padding=(top, left))))
        else:
            layers.append((f"conv{number}_pad", nn.ZeroPad2d((left, right, top, bottom))))
            layers.append((f"conv{number}", nn.Conv2d(before, after, 3, stride=2)))
        before, size = after, [(n + 1) // 2 for n in size]
    layers += [("flatten", nn.Flatten()), ("head", nn.Linear(before * size[0] * size[1], width))]
    return nn.Sequential(OrderedDict(layers))


def conv_pool(
    shape: tuple[int, ...], width: int, *, channels: Sequence[int] = (32, 64), hidden: int = 128
) -> nn.Module:
    """Unpadded 3x3 convolutions, each with ReLU and a 2x2 max pool, then one hidden layer.

    The network of the MNIST compression tutorial: by default its teacher; its student has channels 16, hidden 64.

    Args:
        shape: [channels, H, W] of one sample.
        width: number of logits or values.
        channels: output channels of each convolution.
        hidden: width of the hidden layer.
    """
    before, *size = image_shape(shape)
    layers: list[tuple[str, nn.Module]] = []
    for number, after in enumerate(counts("channels", channels), start=1):
        size = [(n - 2) // 2 for n in size]
        layers += [
            (f"conv{number}", nn.Conv2d(before, after, 3)),
            (f"act{number}", nn.ReLU()),
            (f"pool{number}", nn.MaxPool2d(2)),
        ]
        before = after
    if min(size) < 1:
        raise UserError(
            f"conv-pool: images of {shape[1]} x {shape[2]} are too small for {len(channels)} convolutions and pools",
            hint="give fewer `channels`, or larger images",
        )
    (hidden,) = counts("hidden", [hidden])
    layers += [
        ("flatten", nn.Flatten()),
        ("linear", nn.Linear(before * size[0] * size[1], hidden)),
        ("act", nn.ReLU()),
        ("head", nn.Linear(hidden, width)),
    ]
    return nn.Sequential(OrderedDict(layers))


def vgg19_gap(shape: tuple[int, ...], width: int, *, pretrained: bool = False) -> nn.Module:
    """The convolutions of VGG-19 (Simonyan and Zisserman, 2015), global average pooling and one linear layer.

    Args:
        shape: [channels, H, W] of one sample.
        width: number of logits or values.
        pretrained: start from ImageNet weights; written beside `model` in a recipe, not among its options.
    """
    before = image_shape(shape)[0]
    base: list[nn.Module] = []
    for after, count in ((64, 2), (128, 2), (256, 4), (512, 4), (512, 4)):
        for _ in range(count):
            base += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU(inplace=True)]
            before = after
        base.append(nn.MaxPool2d(2))
    features = _he(nn.Sequential(*base))
    if pretrained:
        features.load_state_dict(from_timm("vgg19", shape, 0, True, {}).features.state_dict())
    # torchvision's and timm's names, so that their VGG-19 files load here but for the head.
    return nn.Sequential(OrderedDict(features=features, **_gap(before), classifier=nn.Linear(before, width)))


def vgg_small(shape: tuple[int, ...], width: int, *, channels: int = 64, stages: int = 5, convs: int = 3) -> nn.Module:
    """Stages of 3x3 convolutions of one width, each closed by a 2x2 max pool, then global average pooling.

    The student of the CIFAR-10 tutorial.

    Args:
        shape: [channels, H, W] of one sample.
        width: number of logits or values.
        channels: output channels of every convolution.
        stages: how often the image is halved.
        convs: convolutions in each stage.
    """
    before = image_shape(shape)[0]
    channels, stages, convs = counts("channels, stages, convs", (channels, stages, convs))
    layers: list[tuple[str, nn.Module]] = []
    for stage in range(1, stages + 1):
        inside: list[tuple[str, nn.Module]] = []
        for number in range(1, convs + 1):
            inside += [(f"conv{number}", nn.Conv2d(before, channels, 3, padding=1)), (f"act{number}", nn.ReLU())]
            before = channels
        layers.append((f"stage{stage}", nn.Sequential(OrderedDict([*inside, ("pool", nn.MaxPool2d(2))]))))
    network = nn.Sequential(OrderedDict([*layers, *_gap(before).items(), ("head", nn.Linear(before, width))]))
    return _he(network)


NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "mlp": mlp,
    "conv-leaky": conv_leaky,
    "conv-pool": conv_pool,
    "vgg19-gap": vgg19_gap,
    "vgg-small": vgg_small,
}


def counts(name: str, values: Sequence[int]) -> list[int]:
    """An option that is a list of whole numbers from 1.

    Raises:
        UserError: it is not.
    """
    if isinstance(values, int) or not all(isinstance(v, int) and v >= 1 for v in values):
        raise UserError(
            f"`{name}` is a list of whole numbers from 1, such as [64, 32], not {values!r}", where="options"
        )
    return list(values)


def _same(size: int) -> tuple[int, int]:
    """Padding before and after, as Keras' "same" has it, for a kernel of 3 and a stride of 2."""
    total = max((-(-size // 2) - 1) * 2 + 3 - size, 0)
    return total // 2, total - total // 2


def _gap(channels: int) -> dict[str, nn.Module]:
    return {"gap": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten()}


def _he(network: nn.Module) -> nn.Module:
    """He initialisation (2015): without it the signal fades from layer to layer, and deep networks do not start."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and module.bias is not None:
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            nn.init.zeros_(module.bias)
    return network
