"""Oracles of the losses on logits whose classes are in order."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Rows = list[list[float]]


def softmax(logits: list[float], temperature: float = 1.0) -> list[float]:
    top = max(logits)
    weights = [math.exp((z - top) / temperature) for z in logits]
    return [w / sum(weights) for w in weights]


def label_emd(student: Rows, teacher: Rows, target: list[Any]) -> float:
    rows = []
    for logits, wanted in zip(student, target, strict=True):
        if wanted == -100:
            continue
        shares = wanted if isinstance(wanted, list) else [float(c == wanted) for c in range(len(logits))]
        p = softmax(logits)
        rows.append(sum((sum(p[: k + 1]) - sum(shares[: k + 1])) ** 2 for k in range(len(logits))))
    return sum(rows) / len(rows)


def ordinal_kd(student: Rows, teacher: Rows, target: list[Any], temperature: float = 4.0) -> float:
    rows = []
    for ours, theirs, wanted in zip(student, teacher, target, strict=True):
        if wanted == -100:
            continue
        s, t = softmax(ours, temperature), softmax(theirs, temperature)
        total = 0.0
        for k in range(1, len(s)):
            below = sum(t[:k]) * math.log(sum(t[:k]) / sum(s[:k]))
            total += below + sum(t[k:]) * math.log(sum(t[k:]) / sum(s[k:]))
        rows.append(temperature**2 * total)
    return sum(rows) / len(rows)


ORACLES: dict[str, Callable[..., float]] = {"label_emd": label_emd, "ordinal_kd": ordinal_kd}

OPTIONS: dict[str, list[dict[str, Any]]] = {"ordinal_kd": [{"temperature": 1.0}, {"temperature": 8}]}

BEST: dict[str, Callable[[Tensor, Any], tuple[Tensor | None, Tensor, float]]] = {
    "label_emd": lambda s, _: (None, s.softmax(dim=-1), 0.0),
    "ordinal_kd": lambda s, _: (s.clone(), torch.zeros(len(s), dtype=torch.long), 0.0),
}


def sample(name: str, *, rows: int = 6, width: int = 5, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    noise = torch.Generator().manual_seed(seed)
    student, teacher = 2 * torch.randn(2, rows, width, generator=noise, dtype=torch.float64)
    return student, teacher, torch.randint(width, (rows,), generator=noise)
