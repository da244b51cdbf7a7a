"""Oracles of the losses that treat the label's class apart."""

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


def kl(p: list[float], q: list[float]) -> float:
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a > 0)


def counted(student: Rows, teacher: Rows, target: list[Any]) -> list[tuple[list[float], list[float], Any]]:
    return [row for row in zip(student, teacher, target, strict=True) if row[2] != -100]


def without(values: list[float], label: int) -> list[float]:
    return [value for c, value in enumerate(values) if c != label]


def dkd(
    student: Rows,
    teacher: Rows,
    target: list[Any],
    alpha: float = 1.0,
    beta: float = 8.0,
    temperature: float = 4.0,
) -> float:
    rows = []
    for z_s, z_t, y in counted(student, teacher, target):
        p_s, p_t = softmax(z_s, temperature), softmax(z_t, temperature)
        if len(z_s) == 1:
            rows.append(0.0)
            continue
        first = kl([p_t[y], sum(without(p_t, y))], [p_s[y], sum(without(p_s, y))])
        second = kl(softmax(without(z_t, y), temperature), softmax(without(z_s, y), temperature))
        rows.append(alpha * first + beta * second)
    return temperature**2 * sum(rows) / len(rows)


def nkd(student: Rows, teacher: Rows, target: list[Any], gamma: float = 1.5, temperature: float = 1.0) -> float:
    rows = []
    for z_s, z_t, y in counted(student, teacher, target):
        value = -softmax(z_t)[y] * math.log(softmax(z_s)[y])
        if len(z_s) > 1:
            r_s, r_t = (softmax(without(z, y), temperature) for z in (z_s, z_t))
            value -= gamma * temperature**2 * sum(t * math.log(s) for s, t in zip(r_s, r_t, strict=True))
        rows.append(value)
    return sum(rows) / len(rows)


ORACLES: dict[str, Callable[..., float]] = {"dkd": dkd, "nkd": nkd}

OPTIONS: dict[str, list[dict[str, Any]]] = {
    "dkd": [{"alpha": 0.5, "beta": 2.0, "temperature": 1.0}, {"alpha": 0.0}, {"beta": 0.0}],
    "nkd": [{"gamma": 0.5, "temperature": 3.0}],
}


def of_another_label(student: Tensor) -> tuple[Tensor, Tensor, float]:
    """A teacher that rules the label 0 out and else agrees: what `nkd` leaves is the entropy of the others."""
    rest = [softmax(without(row, 0)) for row in student.tolist()]
    least = 1.5 * sum(-p * math.log(p) for row in rest for p in row) / len(rest)
    teacher = student.clone()
    teacher[:, 0] = -math.inf
    return teacher, torch.zeros(len(student), dtype=torch.long), least


BEST: dict[str, Callable[[Tensor, nn.Module], tuple[Tensor | None, Tensor, float]]] = {
    "dkd": lambda s, _: (s.clone(), torch.zeros(len(s), dtype=torch.long), 0.0),
    "nkd": lambda s, _: of_another_label(s),
}


def sample(name: str, *, rows: int = 6, width: int = 5, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    noise = torch.Generator().manual_seed(seed)
    student, teacher = 2 * torch.randn(2, rows, width, generator=noise, dtype=torch.float64)
    return student, teacher, torch.randint(width, (rows,), generator=noise)
