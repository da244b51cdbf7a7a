"""How large one loss's gradient is beside another's, at the student's last layer that both of them move."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from limbeck.core.errors import UserError
from limbeck.losses.checks import everywhere


class Balancer:
    """Looks at gradients and leaves none behind. Deliberately no module: the parameters it holds are not its own."""

    def __init__(self) -> None:
        self._parameters: list[nn.Parameter] = []
        self._shared: nn.Parameter | None = None

    def watch(self, parameters: Iterable[nn.Parameter]) -> None:
        """Tell the student's parameters, in their order."""
        self._parameters, self._shared = [p for p in parameters if p.requires_grad], None

    def ratios(self, given: Tensor, sought: Sequence[Tensor]) -> Tensor | None:
        """|gradient of `given`| / |gradient of each of `sought`| at the last parameter that all of them move.

        Returns:
            float64 [number of sought]; the geometric mean over processes. None where a gradient is 0 or not finite,
            which says nothing.

        Raises:
            UserError: the student's parameters were not told, or no parameter is moved by all.
        """
        losses = [given, *sought]
        if self._shared is None:
            self._shared = self._find(losses)
        grads = [torch.autograd.grad(loss, self._shared, retain_graph=True)[0] for loss in losses]
        norms = torch.stack([grad.double().norm() for grad in grads])
        # Every process must come to the same weight, and take part in finding it.
        logs = everywhere(norms.log()[None]).mean(dim=0)
        if not bool(logs.isfinite().all()):
            return None
        return (logs[0] - logs[1:]).exp()

    def _find(self, losses: Sequence[Tensor]) -> nn.Parameter:
        if not self._parameters:
            hint = "call objective.watch(student.parameters())"
            raise UserError("`weight: auto` looks at the student's gradients", where="objective", hint=hint)
        every = [torch.autograd.grad(loss, self._parameters, retain_graph=True, allow_unused=True) for loss in losses]
        for number in range(len(self._parameters) - 1, -1, -1):
            if all(grads[number] is not None for grads in every):
                return self._parameters[number]
        raise UserError("`weight: auto`: no layer of the student is moved by all losses", where="objective")
