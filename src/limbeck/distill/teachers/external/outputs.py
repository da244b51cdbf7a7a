"""What a model from elsewhere gives, understood: logits of the data's classes, or values in the unit we learn in."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from limbeck.core.errors import UserError, did_you_mean
from limbeck.data import Data
from limbeck.models import gives_probabilities, log_odds, log_probabilities, probable
from limbeck.recipe import Network
from limbeck.tasks import rules
from limbeck.tasks.normal_form import classes_last


class Read(nn.Module):
    """A model whose outputs are read in another way.

    Args:
        model: gives whatever it gives.
        read: what becomes of it.
    """

    def __init__(self, model: nn.Module, read: Callable[[Tensor], Tensor], how: str) -> None:
        super().__init__()
        self.model, self._read, self.how = model, read, how

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, C] or standardised values [B, K]."""
        return self._read(self.model(x))

    def extra_repr(self) -> str:
        """What becomes of the outputs, so that answers are not taken for those of another reading."""
        return self.how


def understood(model: nn.Module, raw: object, spec: Network, data: Data) -> nn.Module:
    """A model, with its outputs turned into what all others give.

    Args:
        model: from elsewhere.
        raw: what it gives for some rows.
        spec: may say what that is, and the model's own classes.
        data: the task, and the scaling of measured values.

    Raises:
        UserError: the outputs do not fit the task.
    """
    if not isinstance(raw, Tensor) or not len(raw):
        raise UserError(f"gives {type(raw).__name__} instead of an array", where=spec.model)
    if not raw.isfinite().all():
        raise UserError(
            "gives values that are not finite", where=spec.model, hint="look at what it takes: `preprocess`"
        )
    predicts = rules(data.task).predicts
    if predicts == "values":
        return _values(model, raw, spec, data)
    width = len(spec.classes) if spec.classes else data.task.width
    read, how = _labels(raw, width, spec) if predicts == "labels" else _classes(raw, width, spec, data.places)
    return Read(model, read, how) if how else model


def _values(model: nn.Module, raw: Tensor, spec: Network, data: Data) -> nn.Module:
    width = data.task.outputs
    if raw.reshape(len(raw), -1).shape[1] != width:
        raise UserError(
            f"gives {list(raw.shape[1:])} for one row, where {width} values are predicted", where=spec.model
        )
    scaling = data.targets
    if scaling is None or spec.outputs == "standardised":
        return Read(model, lambda y: y.reshape(len(y), width), "flat") if raw.ndim != 2 else model
    how = f"standardised by {scaling.mean.tolist()}, {scaling.std.tolist()}"
    if not scaling.log:
        return Read(model, lambda y: scaling.standardise(y.reshape(len(y), width)), how)
    # What was not taught on logarithms may answer 0 or less: the smallest value that there was stands for it.
    least = data.y[data.train.to(data.y.device)].amin(0)
    how = f"{how} after the logarithm, from {least.tolist()} on"
    return Read(model, lambda y: scaling.standardise(y.reshape(len(y), width).maximum(least.to(y))), how)


def _classes(raw: Tensor, width: int, spec: Network, places: tuple[int, ...]) -> tuple[Callable[[Tensor], Tensor], str]:
    """How outputs become logits, and a word for it; empty where they are."""
    single = width == 2 and not places and (raw.ndim == 1 or raw.shape[1:] == (1,))
    if not single and raw.shape[1:] != (width, *places):
        hint = "name the model's own classes in `classes`" if raw.ndim == 2 + len(places) else None
        wanted = [width, *places]
        raise UserError(f"gives {list(raw.shape[1:])} for one row instead of {wanted}", where=spec.model, hint=hint)
    likely = bool((raw >= 0).all() and (raw <= 1).all()) if single else gives_probabilities(classes_last(raw))
    if spec.outputs == "standardised":
        raise UserError("`outputs: standardised` is for measured values", where=spec.model)
    if spec.outputs == "probabilities" and not likely:
        raise UserError("gives no probabilities: they are 0 or more and sum to 1", where=spec.model)
    probabilities = likely if spec.outputs is None else spec.outputs == "probabilities"
    if single and probabilities:  # the probability of the second class alone
        return lambda p: log_probabilities(torch.stack([1 - p.flatten(), p.flatten()], 1)), "second class"
    if single:
        return lambda z: F.pad(z.reshape(-1, 1), (1, 0)), "logit of the second class"
    return (log_probabilities, "log") if probabilities else (lambda z: z, "")


def _labels(raw: Tensor, width: int, spec: Network) -> tuple[Callable[[Tensor], Tensor], str]:
    """How outputs become a logit for each label, and a word for it; empty where they are."""
    if raw.shape[1:] != (width,):
        hint = "name the model's own labels in `classes`" if raw.ndim == 2 else None
        raise UserError(f"gives {list(raw.shape[1:])} for one row instead of [{width}]", where=spec.model, hint=hint)
    if spec.outputs == "standardised":
        raise UserError("`outputs: standardised` is for measured values", where=spec.model)
    inside = bool((raw >= 0).all() and (raw <= 1).all())
    if spec.outputs == "probabilities" and not inside:
        raise UserError("gives no probabilities: they are from 0 to 1", where=spec.model)
    likely = probable(raw, "multilabel") if spec.outputs is None else spec.outputs == "probabilities"
    return (log_odds, "log odds") if likely else (lambda z: z, "")


def order_of(own: Sequence[str] | None, names: Sequence[str], where: str) -> Tensor | None:
    """Which of a model's outputs stands for each class of the data, int64 [C]; None where they go as they are.

    Args:
        own: the model's classes in its own order.
        names: the data's.
        where: for the message.

    Raises:
        UserError: a class that the model does not know, or one twice.
    """
    if own is None or list(own) == list(names):
        return None
    if len(set(own)) != len(own):
        raise UserError("`classes` names one of them twice", where=where)
    for name in names:
        if name not in own:
            raise UserError(f"does not know the class '{name}'", where=where, hint=did_you_mean(name, own))
    return torch.tensor([list(own).index(name) for name in names])
