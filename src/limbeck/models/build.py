"""From a recipe's network to a module that is known to fit the data."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from limbeck.core.errors import UserError, did_you_mean
from limbeck.core.types import Framework
from limbeck.models.keras.applications import application
from limbeck.models.keras.backend import making
from limbeck.models.keras.network import KerasNetwork
from limbeck.models.keras.reference import TWINS
from limbeck.models.normalization import PREPROCESSING
from limbeck.models.reference import NETWORKS as OF_SAMPLES
from limbeck.models.segmentation import NETWORKS as OF_PIXELS
from limbeck.models.timm import from_timm, published
from limbeck.models.weights import load_weights, metadata_of

if TYPE_CHECKING:
    from limbeck import recipe


NETWORKS = OF_SAMPLES | OF_PIXELS


def build(
    spec: recipe.Network,
    shape: tuple[int, ...],
    width: int,
    *,
    places: tuple[int, ...] = (),
    framework: Framework = "torch",
    say: Callable[[str], object] | None = None,
) -> nn.Module:
    """The plain network of a recipe, without input normalisation, tried once on a blank row.

    Initialised from torch's global generator, which the caller seeds, or pretrained, or from `spec.weights`.

    Args:
        spec: name, options, weights.
        shape: of one sample: [channels, H, W] or [columns].
        width: number of logits or values.
        places: (H, W) where each pixel has logits of its own.
        framework: whether a reference network is a module of PyTorch or a model of Keras.
        say: told what is worth knowing about loaded weights, one sentence at a time.

    Raises:
        UserError: unknown name or option, a row this network cannot take, weights that do not fit or cannot be had.
    """
    bare = getattr(spec, "train", True) is None  # a teacher that must know its job without being trained here
    pretrained = spec.pretrained and not spec.weights
    if "pretrained" in spec.options:
        raise UserError("write `pretrained` beside `model`, not among its options", where=spec.model)
    if pretrained and bare and (published(spec.model) or {}).get("num_classes") != width:
        raise UserError(
            f"pretrained on other classes, so its head for these {width} knows nothing yet",
            where=spec.model,
            hint="give the teacher a `train`",
        )
    if spec.model.startswith("timm/"):
        name = spec.model.removeprefix("timm/")
        model: nn.Module = from_timm(name, shape, width, pretrained, spec.options)
    elif spec.model.startswith("keras/"):
        name = spec.model.removeprefix("keras/")
        with making() as keras:
            model = KerasNetwork(application(keras, name, shape, width, pretrained, spec.options), shape)
    elif spec.model in NETWORKS:
        options = {**spec.options, **({"pretrained": True} if pretrained else {})}
        try:
            if framework == "torch":
                model = NETWORKS[spec.model](shape, width, **options)
            else:
                with making() as keras:
                    model = KerasNetwork(TWINS[spec.model](keras, shape, width, **options), shape)
        except TypeError as error:
            raise UserError(f"does not take these options ({error})", where=spec.model) from None
    else:
        raise UserError(f"unknown model '{spec.model}'", hint=did_you_mean(spec.model, NETWORKS) + " (or timm/NAME)")
    try_out(model, spec.model, shape, width, places)
    if spec.weights:
        for note in load_weights(model, Path(spec.weights), fresh_head=not bare):
            if say:
                say(note)
    return model


def try_out(model: nn.Module, name: str, shape: tuple[int, ...], width: int, places: tuple[int, ...] = ()) -> None:
    """One blank row through a network, so that a misfit is told before training and in words.

    Raises:
        UserError: it cannot take the row, or gives something else than [1, width], of pixels [1, width, H, W].
    """
    training = model.training
    try:
        with torch.no_grad():
            given = model.eval()(torch.zeros(1, *shape))
    except Exception as error:
        raise UserError(
            f"does not fit rows of shape {tuple(shape)} ({str(error).strip().splitlines()[0]})",
            where=name,
            hint="give larger images, or another network" if len(shape) == 3 else "choose `mlp` for tables",
        ) from error
    finally:
        model.train(training)
    if not isinstance(given, Tensor) or given.shape != (1, width, *places):
        found = tuple(given.shape) if isinstance(given, Tensor) else type(given).__name__
        hint = None
        if isinstance(given, Tensor) and len(places) == 2:
            hint = "each pixel has its own logits: take `unet`, or resize the logits inside the network"
        elif isinstance(given, Tensor) and given.ndim == 4:
            hint = "it has logits for each pixel: say `task: segmentation`"
        raise UserError(f"gives {found} for one row instead of {(1, width, *places)}", where=name, hint=hint)


def normalization(
    spec: recipe.Network,
    model: nn.Module,
    default_mean: Tensor | Sequence[float],
    default_std: Tensor | Sequence[float],
) -> tuple[Tensor, Tensor]:
    """The input statistics that belong to a network, float32 [channels] or [columns].

    In this order: what the recipe says; what the weights file says (`save_weights` writes it for a `Normalized`); for
    weights from elsewhere in a network known with ImageNet weights, what those were trained with; the data set's own.

    Raises:
        UserError: `mean` without `std`, or a length that is neither 1 nor the data's.
    """
    default = [torch.as_tensor(v, dtype=torch.float32).flatten() for v in (default_mean, default_std)]
    if spec.preprocess:
        mean, std, _ = PREPROCESSING[spec.preprocess]
        if len(default[0]) == 1:  # a grey image: as if it were of three equal colours, on average
            mean, std = (sum(mean) / len(mean),), (sum(std) / len(std),)
        return _sized(mean, len(default[0]), spec.model), _sized(std, len(default[0]), spec.model)
    if spec.mean is not None or spec.std is not None:
        if spec.mean is None or spec.std is None:
            raise UserError("give `mean` and `std` together, or neither", where=spec.model)
        return _sized(spec.mean, len(default[0]), spec.model), _sized(spec.std, len(default[0]), spec.model)
    meta = metadata_of(Path(spec.weights)) if spec.weights else {}
    if "mean" in meta and "std" in meta:
        try:
            mean, std = json.loads(meta["mean"]), json.loads(meta["std"])
        except ValueError as error:
            raise UserError(f"its `mean` and `std` cannot be read ({error})", where=spec.weights) from error
        return _sized(mean, len(default[0]), str(spec.weights)), _sized(std, len(default[0]), str(spec.weights))
    known = getattr(model, "pretrained_cfg", None) or published(spec.model)  # a timm model knows its own
    if known is not None and (spec.pretrained or (spec.weights and meta.get("producer") != "limbeck")):
        if len(default[0]) == 1:  # a grey image through the summed colour kernels
            return torch.tensor(known["mean"]).mean().view(1), torch.tensor(known["std"]).mean().view(1)
        if len(known["mean"]) == len(default[0]):
            return torch.tensor(known["mean"]), torch.tensor(known["std"])
    return default[0], default[1]


def _sized(values: Sequence[float], count: int, where: str) -> Tensor:
    if len(values) not in (1, count):
        raise UserError(
            f"`mean` and `std` have {len(values)} numbers, the data {count} channels or columns", where=where
        )
    return torch.tensor(values, dtype=torch.float32).expand(count).clone()


def channels_last(model: nn.Module) -> bool:
    """Whether a network has 2-D convolutions, which run about twice as fast in torch.channels_last on a CPU."""
    return any(isinstance(module, nn.Conv2d) for module in model.modules())
