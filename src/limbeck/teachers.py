"""Teachers: frozen networks, and several of them as one."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from limbeck.models import channels_last, gives_probabilities, log_probabilities, plain
from limbeck.taps import Taps
from limbeck.types import Batch, Kind, Output, Teacher

Combine = Callable[[Tensor], Tensor]  # [M, B, C] -> [B, C]


class Frozen:
    """A network as a teacher: its own copy in eval mode, asked without gradients.

    Deliberately not an `nn.Module`: whatever holds it, nobody's `.train()`, `.parameters()` or `state_dict()` reaches
    the teacher.

    Args:
        model: gives logits [B, C] or values [B, K]; copied, so later changes to it are not seen.
        taps: dotted names of sub-modules whose outputs are wanted as features.
        dtype: bfloat16 runs the network's weights and activations in it; predictions and features are float32 always.
        device: where it runs.
        probabilities: the network ends in a softmax; its outputs are turned into log-probabilities, which are valid
            logits up to a constant. None: found out from the first batch.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        taps: Sequence[str] = (),
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        probabilities: bool | None = None,
    ) -> None:
        self._model = copy.deepcopy(model).eval().requires_grad_(False).to(device)
        inner = plain(self._model)
        if channels_last(inner):
            self._model.to(memory_format=torch.channels_last)
        self._taps = Taps(inner, taps)
        if dtype != torch.float32:
            # Only what follows the normalisation is lowered: pixels keep their precision until then.
            inner.to(dtype)
            inner.register_forward_pre_hook(lambda _, inputs: tuple(x.to(dtype) for x in inputs))
        self._device = torch.device(device)
        self.probabilities = probabilities

    @torch.no_grad()
    def __call__(self, batch: Batch) -> Output:
        """The teacher's logits or values, and tapped features, for a batch."""
        with torch.autocast(self._device.type, enabled=False):
            output = self._taps(self._model, batch.x.to(self._device))
        prediction = output.prediction.float()
        if self.probabilities is None and len(prediction):
            self.probabilities = gives_probabilities(prediction)
        if self.probabilities:
            prediction = log_probabilities(prediction)
        return Output(prediction, {name: feature.float() for name, feature in output.features.items()})


class Ensemble:
    """Several teachers as one: their predictions joined by `combine`. Features are not joined."""

    def __init__(self, members: Sequence[Teacher], combine: Combine) -> None:
        if not members:
            raise ValueError("an ensemble needs at least one member")
        self.members, self.combine = tuple(members), combine

    def __call__(self, batch: Batch) -> Output:
        """The joined prediction for a batch."""
        return Output(self.combine(torch.stack([member(batch).prediction for member in self.members])))


def average(predictions: Tensor) -> Tensor:
    """Log of the members' mean probability: logits [M, B, C] -> log-probabilities [B, C]."""
    return torch.log_softmax(predictions, dim=-1).logsumexp(dim=0) - torch.tensor(float(len(predictions))).log()


def mean(predictions: Tensor) -> Tensor:
    """Mean of the members' values: [M, B, K] -> [B, K]."""
    return predictions.mean(dim=0)


def combiner(kind: Kind) -> Combine:
    """How members are joined for a kind of task."""
    return average if kind == "classification" else mean
