"""The reference networks as Keras models, as the published systems built them.

Each has the layers, the options and the number of parameters of its namesake in `networks`; images have their channels
last inside. Weights begin as Keras begins them, but for the two VGGs, which would not start: He's for these, as there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from limbeck.core.errors import UserError
from limbeck.models.keras.applications import fetched
from limbeck.models.reference import counts
from limbeck.models.timm import image_shape


def mlp(keras: Any, shape: tuple[int, ...], width: int, *, hidden: Sequence[int] = (64,)) -> Any:
    """Fully connected layers with ReLU between them; images are flattened."""
    layers = keras.layers
    parts = [layers.Flatten(name="flatten")] if len(shape) > 1 else []
    for number, size in enumerate(counts("hidden", hidden), start=1):
        parts += [layers.Dense(size, name=f"linear{number}"), layers.ReLU(name=f"act{number}")]
    return _model(keras, "mlp", shape, [*parts, layers.Dense(width, name="head")])


def conv_leaky(
    keras: Any,
    shape: tuple[int, ...],
    width: int,
    *,
    channels: Sequence[int] = (256, 512),
    negative_slope: float = 0.2,
) -> Any:
    """Strided convolutions, leaky ReLU and an overlapping max pool between them: the MNIST distiller tutorial."""
    layers, parts = keras.layers, []
    image_shape(shape)
    for number, after in enumerate(counts("channels", channels), start=1):
        if number > 1:
            parts += [
                layers.LeakyReLU(negative_slope=negative_slope, name=f"act{number - 1}"),
                layers.MaxPooling2D(2, strides=1, padding="same", name=f"pool{number - 1}"),
            ]
        parts.append(layers.Conv2D(after, 3, strides=2, padding="same", name=f"conv{number}"))
    parts += [layers.Flatten(name="flatten"), layers.Dense(width, name="head")]
    return _model(keras, "conv-leaky", shape, parts)


def conv_pool(
    keras: Any, shape: tuple[int, ...], width: int, *, channels: Sequence[int] = (32, 64), hidden: int = 128
) -> Any:
    """Unpadded convolutions, each with ReLU and a max pool, and one hidden layer: the MNIST compression tutorial."""
    layers, parts = keras.layers, []
    image_shape(shape)
    for number, after in enumerate(counts("channels", channels), start=1):
        parts += [
            layers.Conv2D(after, 3, name=f"conv{number}"),
            layers.ReLU(name=f"act{number}"),
            layers.MaxPooling2D(2, name=f"pool{number}"),
        ]
    (hidden,) = counts("hidden", [hidden])
    parts += [
        layers.Flatten(name="flatten"),
        layers.Dense(hidden, name="linear"),
        layers.ReLU(name="act"),
        layers.Dense(width, name="head"),
    ]
    return _model(keras, "conv-pool", shape, parts)


def vgg19_gap(keras: Any, shape: tuple[int, ...], width: int, *, pretrained: bool = False) -> Any:
    """VGG-19 of `keras.applications` without its classifier, global average pooling and one linear layer."""
    base = fetched(keras, "VGG19", shape, pretrained, {})
    if not pretrained:
        _he(keras, base)
    return keras.Model(base.input, keras.layers.Dense(width, name="classifier")(base.output), name="vgg19-gap")


def vgg_small(
    keras: Any, shape: tuple[int, ...], width: int, *, channels: int = 64, stages: int = 5, convs: int = 3
) -> Any:
    """Stages of convolutions of one width, each closed by a max pool, and a pooled head: the CIFAR-10 tutorial."""
    layers, parts = keras.layers, []
    image_shape(shape)
    channels, stages, convs = counts("channels, stages, convs", (channels, stages, convs))
    for stage in range(1, stages + 1):
        for number in range(1, convs + 1):
            name = f"stage{stage}_conv{number}"
            parts.append(layers.Conv2D(channels, 3, padding="same", activation="relu", name=name))
        parts.append(layers.MaxPooling2D(2, name=f"stage{stage}"))
    parts += [layers.GlobalAveragePooling2D(name="gap"), layers.Dense(width, name="head")]
    model = _model(keras, "vgg-small", shape, parts)
    _he(keras, model)
    return model


TWINS: dict[str, Callable[..., Any]] = {
    "mlp": mlp,
    "conv-leaky": conv_leaky,
    "conv-pool": conv_pool,
    "vgg19-gap": vgg19_gap,
    "vgg-small": vgg_small,
}


def _model(keras: Any, name: str, shape: tuple[int, ...], parts: Sequence[Any]) -> Any:
    rows = (*shape[1:], shape[0]) if len(shape) == 3 else shape
    for part in parts:
        if hasattr(part, "data_format"):
            part.data_format = "channels_last"  # whatever the user's own configuration of Keras says
    try:
        return keras.Sequential([keras.Input(rows), *parts], name=name)
    except ValueError as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"cannot be built for rows of shape {list(shape)} ({reason})", where=name) from error


def _he(keras: Any, model: Any) -> None:
    """He initialisation of all convolutions (2015)."""
    for layer in model.layers:
        if isinstance(layer, keras.layers.Conv2D):
            layer.kernel.assign(keras.initializers.HeNormal()(layer.kernel.shape))
