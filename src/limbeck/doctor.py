"""A look at a teacher before anybody learns from it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from limbeck import evaluate
from limbeck.data import Data
from limbeck.models import channels_last, plain
from limbeck.teachers import Frozen
from limbeck.types import Batch


def doubts(name: str, val: Mapping[str, float], data: Data) -> list[str]:
    """What speaks against learning from a teacher, given its validation metrics; usually nothing."""
    if data.task.kind == "regression":
        r2 = val.get("r2", 0.0)
        useless = f"{name} predicts no better than the mean does (R2 {r2:.3f} on validation): nothing to learn from"
        return [] if r2 > 0 else [useless]
    metric, y = evaluate.main_metric(data.task)[0], data.y[data.val.to(data.y.device)]
    if metric == "map":
        # A random order of the rows has a label's share of them as its average precision.
        share = y.mean(0)
        chance, guess = share[share > 0].mean().item() if bool(y.any()) else 0.0, "ordering rows at random"
    elif metric == "balanced_accuracy":
        chance, guess = 1 / data.task.width, "always naming one class"
    else:
        chance, guess = torch.bincount(y).max().item() / len(y), "always naming the commonest class"
    against = f"({metric} {val[metric]:.3f} against {chance:.3f} on validation)"
    return [] if val[metric] > chance else [f"{name} is no better than {guess} {against}"]


def bfloat16_is_safe(network: nn.Module, data: Data, device: torch.device, *, rows: int = 512) -> bool:
    """Whether a teacher may answer in bfloat16: fast on this device, and its soft targets hardly move.

    Hardly: on the first validation rows at least 99 % keep their class (or answers), and the mean KL is below
    0.001 nats.
    """
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported()
    else:
        fast = getattr(torch.cpu, "_is_avx512_bf16_supported", bool)()
    if not fast or not channels_last(plain(network)) or data.task.kind == "regression":
        return False
    low, sample = Frozen(network, dtype=torch.bfloat16, device=device, kind=data.task.kind), data.val[:rows]

    def answer(x: torch.Tensor) -> torch.Tensor:
        nobody = torch.zeros(len(x), dtype=torch.int64, device=x.device)
        return low(Batch(x, nobody, nobody)).prediction

    exact, moved = (evaluate.predict(f, data, sample, device=device) for f in (network, answer))
    found = evaluate.agreement(data.task, moved, exact)
    return found["agreement"] >= 0.99 and found["kl"] < 1e-3
