"""How far two distributions over the classes are apart, from their logarithms, which do not overflow."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from limbeck.core.errors import UserError


def softened(logits: Tensor, temperature: float | Tensor) -> Tensor:
    """Logarithms of the softmax of logits [..., C] divided by the temperature.

    Raises:
        UserError: a temperature that is not above 0.
    """
    if not isinstance(temperature, Tensor) and not temperature > 0:
        raise UserError(f"`temperature` is above 0, not {temperature}")
    return torch.log_softmax(logits / temperature, dim=-1)


def kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL(p || q) = sum_c p log(p / q) in nats, for each row of [..., C]; where p is 0 there is nothing to add."""
    p = log_p.exp()
    # Asked this way round, a NaN in p stays one: whoever trains must see it.
    return (p * (log_p - log_q)).masked_fill(p == 0, 0).sum(dim=-1)


def jensen_shannon(log_p: Tensor, log_q: Tensor, beta: float) -> Tensor:
    """JS = beta KL(p || m) + (1 - beta) KL(q || m), where m = beta p + (1 - beta) q, in nats, for each row of [..., C].

    Raises:
        UserError: a beta that is not between 0 and 1.
    """
    if not 0 < beta < 1:
        raise UserError(
            f"`beta` is between 0 and 1, not {beta}: at both ends the divergence vanishes",
            hint="its limits, each divided by what vanishes, are `divergence: forward` and `divergence: reverse`",
        )
    log_m = torch.logaddexp(log_p + math.log(beta), log_q + math.log1p(-beta))
    return beta * kl(log_p, log_m) + (1 - beta) * kl(log_q, log_m)
