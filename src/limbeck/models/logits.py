"""Recognise a network that ends in a softmax or a sigmoid, and give back its logits."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from limbeck.core.types import Kind
from limbeck.tasks import rules
from limbeck.tasks.normal_form import classes_last

LOOKED_AT = 16  # answers of labels; fewer could lie in [0, 1] by chance


def gives_probabilities(prediction: Tensor) -> bool:
    """Whether a classifier's outputs [..., C] are probabilities: none below 0, every row with the sum 1, C >= 2."""
    if prediction.ndim < 2 or prediction.numel() == 0 or prediction.shape[-1] < 2:
        return False
    tolerance = 1e-4 if torch.finfo(prediction.dtype).bits >= 32 else 1e-2
    rows = prediction.detach().double()
    return bool((rows >= 0).all() and ((rows.sum(-1) - 1).abs() < tolerance).all())


def gives_answers(prediction: Tensor) -> bool:
    """Whether outputs for several labels [B, C] are probabilities: all in [0, 1], some below 0.5, and not too few.

    As logits, numbers in [0, 1] would say yes to every label of every row, and none of them surely: whatever has
    learned anything says no somewhere. Of a network that has learned nothing yet this tells little.
    """
    if prediction.ndim != 2 or prediction.numel() < LOOKED_AT:
        return False
    rows = prediction.detach().double()
    return bool(((rows >= 0) & (rows <= 1)).all() and (rows < 0.5).any())


def log_odds(probabilities: Tensor) -> Tensor:
    """Probabilities of labels as logits: log p - log (1 - p), both kept finite."""
    p = probabilities.clamp_min(torch.finfo(probabilities.dtype).tiny)
    return p.log() - torch.log1p(-p.clamp_max(1 - torch.finfo(p.dtype).eps / 2))


def probable(prediction: Tensor, kind: Kind) -> bool:
    """Whether the outputs of a network for this kind of task are probabilities."""
    predicts = rules(kind).predicts
    return (
        gives_probabilities(prediction) if predicts == "classes" else predicts == "labels" and gives_answers(prediction)
    )


def to_logits(probabilities: Tensor, kind: Kind) -> Tensor:
    """Probabilities of classes, or of labels, as logits."""
    return log_odds(probabilities) if rules(kind).predicts == "labels" else log_probabilities(probabilities)


def log_probabilities(probabilities: Tensor) -> Tensor:
    """Probabilities as logits: their logarithm, with 0 as the smallest normal number of their type."""
    return probabilities.clamp_min(torch.finfo(probabilities.dtype).tiny).log()


def as_logits(model: nn.Module, example: Tensor, kind: Kind = "classification") -> nn.Module:
    """A network that gives logits: `model` itself, or one made of it that does if it gives probabilities.

    Log-probabilities are logits up to a constant in each row. A final `nn.Softmax`, or for several labels `nn.Sigmoid`,
    is exchanged in a copy, which is exact and keeps all names; any other network that gives probabilities has their
    logarithm, or log-odds, taken.

    Args:
        model: left as it is.
        example: some inputs, on which the outputs are looked at; for several labels real rows, and not too few: that
            outputs lie in [0, 1] says little of random ones.
        kind: of the task. Values of a regression are never taken for probabilities.
    """
    outputs = _look(model, example)
    (name, last), predicts = list(model.named_modules())[-1], rules(kind).predicts
    final = {"classes": nn.Softmax, "labels": nn.Sigmoid}.get(predicts)
    ends = bool(name) and final is not None and isinstance(last, final)
    # That the last module is a sigmoid, and the outputs are what it gave, says more than where they lie.
    if not probable(outputs, kind) and not (ends and predicts == "labels"):
        return model
    if ends:
        changed = copy.deepcopy(model)
        changed.set_submodule(
            name, nn.LogSoftmax(1 if outputs.ndim == 4 else -1) if predicts == "classes" else nn.Identity()
        )
        given = _look(changed, example)
        if torch.allclose(given.exp() if predicts == "classes" else given.sigmoid(), outputs, atol=1e-6):
            return changed
    return _Logits(model, kind) if probable(outputs, kind) else model


def _look(model: nn.Module, example: Tensor) -> Tensor:
    modes = [(module, module.training) for module in model.modules()]
    with torch.no_grad():
        outputs = classes_last(model.eval()(example))
    for module, training in modes:  # one by one: a part may have been frozen on purpose
        module.training = training
    return outputs


class _Logits(nn.Module):
    def __init__(self, model: nn.Module, kind: Kind) -> None:
        super().__init__()
        self.model, self.kind = model, kind
        self.training = model.training

    def forward(self, x: Tensor) -> Tensor:
        return to_logits(self.model(x), self.kind)
