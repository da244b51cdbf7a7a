"""The models of `keras.applications` by name, with a pooled linear head for the data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from limbeck.core.errors import UserError
from limbeck.models.timm import image_shape

OURS = ("weights", "include_top", "input_shape", "input_tensor", "pooling", "classes", "classifier_activation", "name")


def application(
    keras: Any, name: str, shape: tuple[int, ...], width: int, pretrained: bool, options: Mapping[str, Any]
) -> Any:
    """A model of `keras.applications` for images of this shape: its features, averaged, and one linear layer.

    Args:
        keras: the library.
        name: as Keras has it: VGG19, MobileNetV2.
        shape: [channels, H, W] of one sample. One channel is given three times to weights for colour.
        width: number of logits or values.
        pretrained: fetch the weights for ImageNet.
        options: passed on to Keras, but for `momentum`: of all batch normalisation. Keras has 0.99 or 0.999, with which
            it takes some thousand steps until the statistics are those of the data.

    Raises:
        UserError: an unknown option, images that it cannot take, or weights that cannot be fetched.
    """
    if taken := set(OURS) & set(options):
        raise UserError(f"`{min(taken)}` follows from the recipe and is not an option", where=f"keras/{name}")
    given = {key: value for key, value in options.items() if key != "momentum"}
    base = fetched(keras, name, shape, pretrained, given)
    if (momentum := options.get("momentum")) is not None:
        _hurry(keras, base, momentum, f"keras/{name}")
    return keras.Model(base.input, keras.layers.Dense(width, name="head")(base.output), name=base.name)


def fetched(keras: Any, name: str, shape: tuple[int, ...], pretrained: bool, options: Mapping[str, Any]) -> Any:
    """The features of such a model, averaged over the image."""
    channels, height, width = image_shape(shape)
    where = f"keras/{name}"
    grey = pretrained and channels == 1
    rows = (height, width, 3 if grey else channels)
    try:
        base = getattr(keras.applications, name)(
            weights="imagenet" if pretrained else None, include_top=False, input_shape=rows, pooling="avg", **options
        )
    except TypeError as error:
        raise UserError(f"does not take these options ({error})", where=where) from error
    except Exception as error:
        reason = str(error).strip().split("\n")[0]
        if "Input size" in reason or "channels" in reason or not pretrained:
            what = f"cannot be built for {channels} channels of {height} x {width} ({reason})"
            raise UserError(what, where=where, hint="give larger images, or take another model") from error
        raise UserError(
            f"its pretrained weights could not be fetched ({reason})",
            where=where,
            hint="train from scratch with `pretrained: false`, or give a .keras file as `model`",
        ) from error
    if not grey:
        return base
    image = keras.Input((height, width, 1), name="image")
    three = keras.layers.Concatenate(name="colours")([image, image, image])
    return keras.Model(image, base(three), name=base.name)


def _hurry(keras: Any, base: Any, momentum: object, where: str) -> None:
    norms = [layer for layer in base._flatten_layers() if isinstance(layer, keras.layers.BatchNormalization)]
    if not isinstance(momentum, float) or not 0 <= momentum < 1:
        raise UserError(f"`momentum` is a number from 0 to below 1, not {momentum!r}", where=where)
    if not norms:
        raise UserError("`momentum` has no effect: there is no batch normalisation in it", where=where)
    for layer in norms:
        layer.momentum = momentum
