"""Oracles of the losses on values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

Rows = list[list[float]]


def label_mse(student: Rows, teacher: Rows, target: Rows) -> float:
    errors = [
        (s - y) ** 2 for row, wanted in zip(student, target, strict=True) for s, y in zip(row, wanted, strict=True)
    ]
    return sum(errors) / len(errors)


def label_smooth_l1(student: Rows, teacher: Rows, target: Rows, beta: float = 1.0) -> float:
    errors = []
    for row, wanted in zip(student, target, strict=True):
        for s, y in zip(row, wanted, strict=True):
            d = abs(s - y)
            errors.append(d**2 / (2 * beta) if d < beta else d - beta / 2)
    return sum(errors) / len(errors)


def mse(student: Rows, teacher: Rows, target: list[Any]) -> float:
    counted = [(s, t) for s, t, y in zip(student, teacher, target, strict=True) if y != -100]
    errors = [(a - b) ** 2 for s, t in counted for a, b in zip(s, t, strict=True)]
    return sum(errors) / len(errors)


def teacher_bounded(student: Rows, teacher: Rows, target: Rows, margin: float = 0.0) -> float:
    total = 0.0
    for s, t, y in zip(student, teacher, target, strict=True):
        of_student = sum((a - b) ** 2 for a, b in zip(s, y, strict=True))
        of_teacher = sum((a - b) ** 2 for a, b in zip(t, y, strict=True))
        total += of_student if of_student + margin > of_teacher else 0.0
    return total / len(student)


def label_quantile(student: Rows, teacher: Rows, target: Rows, quantile: float = 0.5) -> float:
    errors = []
    for row, wanted in zip(student, target, strict=True):
        for s, y in zip(row, wanted, strict=True):
            errors.append(quantile * (y - s) if s < y else (1 - quantile) * (s - y))
    return sum(errors) / len(errors)


def attentive_imitation(student: Rows, teacher: Rows, target: Rows, loss: nn.Module) -> float:
    """The first value: only the rows of this batch have been seen."""
    errors = [sum((a - b) ** 2 for a, b in zip(t, y, strict=True)) for t, y in zip(teacher, target, strict=True)]
    reach = max(errors) - min(errors)
    total = 0.0
    for s, t, error in zip(student, teacher, errors, strict=True):
        total += max(0.0, 1 - error / reach) * sum((a - b) ** 2 for a, b in zip(s, t, strict=True))
    return total / len(student)


ORACLES: dict[str, Callable[..., float]] = {
    "label_mse": label_mse,
    "label_smooth_l1": label_smooth_l1,
    "mse": mse,
    "teacher_bounded": teacher_bounded,
    "label_quantile": label_quantile,
    "attentive_imitation": attentive_imitation,
}

OPTIONS: dict[str, list[dict[str, Any]]] = {
    "label_smooth_l1": [{"beta": 0.3}, {"beta": 0.0}],
    "teacher_bounded": [{"margin": 0.7}, {"margin": 100.0}],
    "label_quantile": [{"quantile": 0.1}, {"quantile": 0.9}],
}

BEST: dict[str, Callable[[Tensor, nn.Module], tuple[Tensor | None, Tensor, float]]] = {
    "label_mse": lambda s, _: (None, s.clone(), 0.0),
    "label_smooth_l1": lambda s, _: (None, s.clone(), 0.0),
    "mse": lambda s, _: (s.clone(), torch.zeros_like(s), 0.0),
    "teacher_bounded": lambda s, _: (torch.zeros_like(s), s.clone(), 0.0),
    "label_quantile": lambda s, _: (None, s.clone(), 0.0),
    "attentive_imitation": lambda s, _: (s.clone(), torch.zeros_like(s), 0.0),
}


def sample(name: str, *, rows: int = 6, width: int = 5, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    noise = torch.Generator().manual_seed(seed)
    student, teacher, values = 2 * torch.randn(3, rows, width, generator=noise, dtype=torch.float64)
    return student, teacher, values
