"""Networks that teach and do not change, and several of them as one teacher."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import nn

from limbeck.core.types import Batch, Kind, Output, Teacher
from limbeck.distill.objective.feature_taps import Taps
from limbeck.distill.teachers.ensemble import Combine
from limbeck.models import Normalized, channels_last, given, plain, probable, to_logits


class Frozen:
    """A network as a teacher: its own copy in eval mode, queried without gradients.

    Deliberately not an `nn.Module`: whatever holds it, nobody's `.train()`, `.parameters()` or `state_dict()` reaches
    the teacher.

    Args:
        model: gives logits [B, C] (of tokens [B, L, C]) or values [B, K]; copied, so later changes to it are not seen.
        taps: dotted names of sub-modules whose outputs are wanted as features.
        dtype: bfloat16 runs the network's weights and activations in it; predictions and features are float32 always.
        device: where it runs.
        probabilities: the network ends in a softmax (for several labels: in a sigmoid); its outputs are turned into
            log-probabilities, which are valid logits up to a constant (or into log-odds). None: found out from the
            first batch.
        kind: of the task. Values of a regression are never taken for probabilities.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        taps: Sequence[str] = (),
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        probabilities: bool | None = None,
        kind: Kind = "classification",
    ) -> None:
        self._model = copy.deepcopy(model).eval().requires_grad_(False).to(device)
        inner = plain(self._model)
        if channels_last(inner):
            self._model.to(memory_format=torch.channels_last)
        self._taps = Taps(inner, taps)
        if dtype != torch.float32:
            # Only what follows a normalisation is lowered: pixels keep their precision until then.
            for part in [m.model for m in self._model.modules() if isinstance(m, Normalized)] or [inner]:
                part.to(dtype)
                part.register_forward_pre_hook(
                    lambda _, inputs: tuple(x.to(dtype) if x.is_floating_point() else x for x in inputs)
                )
        self._device = torch.device(device)
        self.probabilities, self.kind = probabilities, kind

    @torch.no_grad()
    def __call__(self, batch: Batch) -> Output:
        """The teacher's logits or values, and tapped features, for a batch."""
        with torch.autocast(self._device.type, enabled=False):
            output = self._taps(self._model, given(self._model, batch).to(self._device))
        prediction = output.prediction.float()
        if self.probabilities is None and len(prediction):
            self.probabilities = probable(prediction, self.kind)
        if self.probabilities:
            prediction = to_logits(prediction, self.kind)
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
