"""For the tests of what papers state (Hypothesis), and the numbers that published code was run on."""

from __future__ import annotations

import math

import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from torch import Tensor, nn

settings.register_profile(
    "losses", deadline=None, max_examples=30, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
stated = settings(settings.get_profile("losses"))
number = st.floats(-5, 5, allow_nan=False, width=32)


@st.composite
def pairs(draw: st.DrawFn, least_classes: int = 2, least_rows: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    """Student [B, C], teacher [B, C] and labels [B]."""
    rows, classes = draw(st.integers(least_rows, 4)), draw(st.integers(least_classes, 5))
    table = st.lists(st.lists(number, min_size=classes, max_size=classes), min_size=rows, max_size=rows)
    labels = draw(st.lists(st.integers(0, classes - 1), min_size=rows, max_size=rows))
    return (
        torch.tensor(draw(table), dtype=torch.float64),
        torch.tensor(draw(table), dtype=torch.float64),
        torch.tensor(labels),
    )


STUDENT = torch.tensor([[2.0, -1.0, 0.5, 3.0], [0.0, 1.5, -2.0, 0.25], [-3.0, 4.0, 1.0, 1.0]], dtype=torch.float64)
TEACHER = torch.tensor([[4.0, -2.0, 1.0, 2.5], [-1.0, 3.0, 0.5, 0.0], [0.0, 2.0, -1.5, 6.0]], dtype=torch.float64)
LABELS = torch.tensor([0, 1, 3])
SHARES = torch.tensor([[0.7, 0.3, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.25] * 4], dtype=torch.float64)


# Features and weights of published code: written down as a rule, not as numbers.


def waves(*shape: int, pace: float) -> Tensor:
    """sin(pace), sin(2 pace), ... in that shape."""
    return torch.sin(pace * torch.arange(1, math.prod(shape) + 1, dtype=torch.float64)).view(shape)


def in_waves(loss: nn.Module, *names: str) -> nn.Module:
    """The loss in float64, its weights of these names filled with waves: the n-th at the pace n / 2."""
    weights = dict(loss.double().named_parameters())
    with torch.no_grad():
        for n, name in enumerate(names, 1):
            weights[name].copy_(waves(*weights[name].shape, pace=n / 2))
    return loss
