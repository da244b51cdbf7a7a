"""Recognise a network that ends in a softmax, and give back its logits."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


def gives_probabilities(prediction: Tensor) -> bool:
    """Whether a classifier's outputs [B, C] are probabilities: no row below 0, every row with the sum 1, C >= 2."""
    if prediction.ndim != 2 or prediction.shape[0] == 0 or prediction.shape[1] < 2:
        return False
    tolerance = 1e-4 if torch.finfo(prediction.dtype).bits >= 32 else 1e-2
    rows = prediction.detach().double()
    return bool((rows >= 0).all() and ((rows.sum(1) - 1).abs() < tolerance).all())


def log_probabilities(probabilities: Tensor) -> Tensor:
    """Probabilities as logits: their logarithm, with 0 as the smallest normal number of their type."""
    return probabilities.clamp_min(torch.finfo(probabilities.dtype).tiny).log()


def as_logits(model: nn.Module, example: Tensor) -> nn.Module:
    """A network that gives logits: `model` itself, or one that gives its log-probabilities if it ends in a softmax.

    Log-probabilities are logits up to a constant in each row. A final `nn.Softmax` is exchanged in a copy, which is
    exact and keeps all names; any other network that gives probabilities has their logarithm taken.

    Args:
        model: left as it is.
        example: some inputs, on which the outputs are looked at.
    """
    outputs = _look(model, example)
    if not gives_probabilities(outputs):
        return model
    name, last = list(model.named_modules())[-1]
    if name and isinstance(last, nn.Softmax):
        changed = copy.deepcopy(model)
        changed.set_submodule(name, nn.LogSoftmax(-1))
        if torch.allclose(_look(changed, example).exp(), outputs, atol=1e-6):
            return changed
    return _Logarithm(model)


def _look(model: nn.Module, example: Tensor) -> Tensor:
    modes = [(module, module.training) for module in model.modules()]
    with torch.no_grad():
        outputs: Tensor = model.eval()(example)
    for module, training in modes:  # one by one: a part may have been frozen on purpose
        module.training = training
    return outputs


class _Logarithm(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.training = model.training

    def forward(self, x: Tensor) -> Tensor:
        return log_probabilities(self.model(x))
