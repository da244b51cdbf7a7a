"""Oracles of the losses on logits."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

Rows = list[list[float]]


def softmax(logits: list[float], temperature: float = 1.0) -> list[float]:
    top = max(logits)
    weights = [math.exp((z - top) / temperature) for z in logits]
    return [w / sum(weights) for w in weights]


def divergence(p: list[float], q: list[float]) -> float:
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a > 0)


def counted(student: Rows, teacher: Rows, target: list[Any]) -> list[tuple[list[float], list[float], Any]]:
    return [row for row in zip(student, teacher, target, strict=True) if row[2] != -100]


def hard(student: Rows, teacher: Rows, target: list[Any], label_smoothing: float = 0.0) -> float:
    rows = []
    for logits, wanted in zip(student, target, strict=True):
        classes = len(logits)
        if wanted == -100:
            continue
        shares = wanted if isinstance(wanted, list) else [1.0 if c == wanted else 0.0 for c in range(classes)]
        smooth = [(1 - label_smoothing) * q + label_smoothing / classes for q in shares]
        rows.append(-sum(q * math.log(p) for q, p in zip(smooth, softmax(logits), strict=True)))
    return sum(rows) / len(rows)


def kd(student: Rows, teacher: Rows, target: list[Any], temperature: float = 4.0) -> float:
    rows = [
        divergence(softmax(z_t, temperature), softmax(z_s, temperature))
        for z_s, z_t, _ in counted(student, teacher, target)
    ]
    return temperature**2 * sum(rows) / len(rows)


ORACLES: dict[str, Callable[..., float]] = {"hard": hard, "kd": kd}

OPTIONS: dict[str, list[dict[str, Any]]] = {
    "hard": [{"label_smoothing": 0.1}, {"label_smoothing": 1}],
    "kd": [{"temperature": 1.0}, {"temperature": 20}],
}


def entropy(student: Tensor) -> float:
    rows = [-sum(p * math.log(p) for p in softmax(row)) for row in student.tolist()]
    return sum(rows) / len(rows)


def first_class(student: Tensor) -> Tensor:
    return torch.zeros(len(student), dtype=torch.long)


BEST: dict[str, Callable[[Tensor, nn.Module], tuple[Tensor | None, Tensor, float]]] = {
    "hard": lambda s, _: (None, s.softmax(dim=-1), entropy(s)),
    "kd": lambda s, _: (s.clone(), first_class(s), 0.0),
}


def sample(name: str, *, rows: int = 6, width: int = 5, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    noise = torch.Generator().manual_seed(seed)
    student, teacher = 2 * torch.randn(2, rows, width, generator=noise, dtype=torch.float64)
    return student, teacher, torch.randint(width, (rows,), generator=noise)
