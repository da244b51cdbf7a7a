"""Oracles of the losses that relate the rows of a batch."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from oracles.decoupled import Rows, counted, kl, softmax


def correlation(a: list[float], b: list[float]) -> float:
    a, b = [x - sum(a) / len(a) for x in a], [x - sum(b) / len(b) for x in b]
    norms = math.sqrt(sum(x * x for x in a)) * math.sqrt(sum(x * x for x in b))
    return sum(x * y for x, y in zip(a, b, strict=True)) / (norms + 1e-8)


def apart(a: Rows, b: Rows) -> float:
    found = [correlation(x, y) for x, y in zip(a, b, strict=True)]
    return 1 - sum(found) / len(found)


def turned(rows: Rows) -> Rows:
    return [list(column) for column in zip(*rows, strict=True)]


def dist(
    student: Rows,
    teacher: Rows,
    target: list[Any],
    beta: float = 1.0,
    gamma: float = 1.0,
    temperature: float = 1.0,
) -> float:
    kept = counted(student, teacher, target)
    y_s, y_t = ([softmax(row[side], temperature) for row in kept] for side in (0, 1))
    return temperature**2 * (beta * apart(y_s, y_t) + gamma * apart(turned(y_s), turned(y_t)))


def gram(rows: Rows) -> Rows:
    return [[sum(x * y for x, y in zip(a, b, strict=True)) for b in rows] for a in rows]


def lower_half(values: list[float]) -> list[bool]:
    ranked = sorted(values)
    middle = (ranked[(len(ranked) - 1) // 2] + ranked[len(ranked) // 2]) / 2
    return [value <= middle for value in values]


def mlld(
    student: Rows,
    teacher: Rows,
    target: list[Any],
    temperatures: tuple[float, ...] = (2.0, 3.0, 4.0, 5.0, 6.0),
    instance: float = 1.0,
    batch: float = 1.0,
    category: float = 1.0,
) -> float:
    kept = counted(student, teacher, target)
    sure = [softmax(row[1]) for row in kept]
    rows, classes = lower_half([max(p) for p in sure]), lower_half([sum(column) for column in turned(sure)])

    def level(a: Rows, b: Rows, mask: list[bool]) -> float:
        g, h = gram(a), gram(b)
        total = sum((g[i][j] - h[i][j]) ** 2 for i in range(len(a)) for j in range(len(a)) if mask[i])
        return total / len(a)

    total = 0.0
    for temperature in temperatures:
        p_s, p_t = ([softmax(row[side], temperature) for row in kept] for side in (0, 1))
        divergences = [kl(t, s) for s, t, chosen in zip(p_s, p_t, rows, strict=True) if chosen]
        total += instance * temperature**2 * sum(divergences) / len(kept)
        total += batch * level(p_t, p_s, rows) + category * level(turned(p_t), turned(p_s), classes)
    return total


ORACLES: dict[str, Callable[..., float]] = {"dist": dist, "mlld": mlld}

OPTIONS: dict[str, list[dict[str, Any]]] = {
    "dist": [{"temperature": 4.0}, {"beta": 0.5, "gamma": 2.0}, {"gamma": 0.0}],
    "mlld": [{"temperatures": [4.0]}, {"instance": 0.5, "batch": 2.0, "category": 0.1}],
}

WIDTHS = {"dist": (3, 5)}

EXCEPT = {
    "dist": {
        "test_batch_given_twice_has_the_same_value": "the published 1e-8 beside the norms weighs less"
        " on more rows; to 1e-7 it holds",
    },
    "mlld": {
        "test_batch_given_twice_has_the_same_value": "the batch level sums over rows, and the class level over their "
        "products, as published",
    },
}


def of_itself(student: Tensor) -> float:
    """What the 1e-8 leaves of `dist` between equals."""
    rows = student.softmax(dim=-1).tolist()
    return apart(rows, rows) + apart(turned(rows), turned(rows))


BEST: dict[str, Callable[[Tensor, nn.Module], tuple[Tensor | None, Tensor, float]]] = {
    "dist": lambda s, _: (s.clone(), torch.zeros(len(s), dtype=torch.long), of_itself(s)),
    "mlld": lambda s, _: (s.clone(), torch.zeros(len(s), dtype=torch.long), 0.0),
}


def sample(name: str, *, rows: int = 6, width: int = 5, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    noise = torch.Generator().manual_seed(seed)
    student, teacher = 2 * torch.randn(2, rows, width, generator=noise, dtype=torch.float64)
    return student, teacher, torch.randint(width, (rows,), generator=noise)
