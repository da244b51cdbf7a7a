"""timm's models by name, and what is known of their published weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from limbeck.core.errors import UserError
from limbeck.recipe.needs.catalogue import misnamed


def from_timm(name: str, shape: tuple[int, ...], width: int, pretrained: bool, options: Mapping[str, Any]) -> Any:
    """A timm model for data of this shape, told the image size where it wants to know it.

    Args:
        name: as timm has it, with or without the tag of its weights; or of one on the hub, `hf-hub:OWNER/NAME`, or in a
            folder, `local-dir:PATH`.
        shape: [channels, H, W] of one sample.
        width: number of logits or values; 0 for no head.
        pretrained: fetch its published weights.
        options: passed on to timm.

    Raises:
        UserError: unknown name or option, a size it cannot take, weights that cannot be fetched.
    """
    import timm

    where = f"timm/{name}"
    if wrong := misnamed(name):
        raise UserError(wrong)
    channels, *size = image_shape(shape)
    if taken := {"num_classes", "in_chans"} & set(options):
        raise UserError(f"`{min(taken)}` follows from the data and is not an option", where=where)
    if getattr(timm.get_pretrained_cfg(name), "fixed_input_size", False):
        options = {"img_size": tuple(size), **options}
    try:
        return timm.create_model(name, pretrained=pretrained, num_classes=width, in_chans=channels, **options)
    except TypeError as error:
        raise UserError(f"does not take these options ({error})", where=where) from error
    except Exception as error:
        reason = str(error).strip().split("\n")[0]
        if not pretrained:
            raise UserError(f"cannot be built for images of {size[0]} x {size[1]} ({reason})", where=where) from error
        raise UserError(
            f"its pretrained weights could not be fetched ({reason})",
            where=where,
            hint="train from scratch with `pretrained: false`, or give a file as `weights`",
        ) from error


def published(name: str) -> dict[str, Any] | None:
    """What timm knows of a network's published weights: mean, std, num_classes and more."""
    if name == "vgg19-gap":
        return {**(published("timm/vgg19") or {}), "num_classes": None}  # its head is never pretrained
    if not name.startswith("timm/"):
        return None
    import timm

    config = timm.get_pretrained_cfg(name.removeprefix("timm/"))
    return config.to_dict() if config is not None else None


def image_shape(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """`shape` as (channels, H, W).

    Raises:
        UserError: it is no image's.
    """
    if len(shape) != 3:
        raise UserError(
            f"this network is for images, and a row here is of shape {tuple(shape)}",
            hint="choose `mlp`, or give the rows as images [channels, H, W]",
        )
    return shape[0], shape[1], shape[2]
