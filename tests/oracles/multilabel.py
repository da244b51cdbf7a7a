"""Oracles of the losses on logits of which each is a yes or no."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Rows = list[list[float]]


def yes(logit: float) -> float:
    return 1 / (1 + math.exp(-logit))


def label_binary(student: Rows, teacher: Rows, target: Rows) -> float:
    total = 0.0
    for logits, wanted in zip(student, target, strict=True):
        for z, y in zip(logits, wanted, strict=True):
            total -= y * math.log(yes(z)) + (1 - y) * math.log(1 - yes(z))
    return total / len(student)


def binary_kd(student: Rows, teacher: Rows, target: Rows, temperature: float = 1.0) -> float:
    total = 0.0
    for ours, theirs in zip(student, teacher, strict=True):
        for z_s, z_t in zip(ours, theirs, strict=True):
            s, t = yes(z_s / temperature), yes(z_t / temperature)
            total += t * math.log(t / s) + (1 - t) * math.log((1 - t) / (1 - s))
    return temperature**2 * total / len(student)


def uncertainty(student: Tensor, _: Any) -> tuple[None, Tensor, float]:
    shares = student.sigmoid()
    least = -sum(p * math.log(p) + (1 - p) * math.log(1 - p) for p in shares.flatten().tolist())
    return None, shares, least / len(student)


ORACLES: dict[str, Callable[..., float]] = {"label_binary": label_binary, "binary_kd": binary_kd}

OPTIONS: dict[str, list[dict[str, Any]]] = {"binary_kd": [{"temperature": 4.0}, {"temperature": 20}]}

BEST: dict[str, Callable[[Tensor, Any], tuple[Tensor | None, Tensor, float]]] = {
    "label_binary": uncertainty,
    "binary_kd": lambda s, _: (s.clone(), torch.zeros_like(s), 0.0),
}


def sample(name: str, *, rows: int = 6, width: int = 5, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    noise = torch.Generator().manual_seed(seed)
    student, teacher = 2 * torch.randn(2, rows, width, generator=noise, dtype=torch.float64)
    return student, teacher, torch.randint(2, (rows, width), generator=noise).double()
