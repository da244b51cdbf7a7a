"""Oracles of the losses on the last feature."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from layers import aligned, normed, positive
from torch import Tensor, nn

from limbeck.losses import projection
from oracles import arrays

Maps = list[list[list[list[float]]]]
CLASSES = 3


def simkd(student: Maps, teacher: Maps, target: list[int], loss: nn.Module, factor: int = 2) -> float:
    s, t = aligned(student, teacher)
    weights = arrays(loss)
    assert weights["projector.2.0.weight"].shape == (4 // factor, 4 // factor, 3, 3)
    for layer in (0, 2, 4):
        s = positive(normed(s, weights, f"projector.{layer}"))
    return float(np.mean([(a - b) ** 2 for a, b in zip(s.flat, t.flat, strict=True)]))


def srrl(student: Maps, teacher: Maps, target: list[int], loss: nn.Module, beta: float = 1.0) -> float:
    weights = arrays(loss)
    s = positive(normed(np.array(student), weights, "connector")).mean(axis=(2, 3))
    t = np.array(teacher).mean(axis=(2, 3))
    rows = []
    for ours, theirs in zip(s, t, strict=True):
        matched = sum((a - b) ** 2 for a, b in zip(ours, theirs, strict=True)) / len(theirs)
        logits = [weights["weight"] @ x + weights["bias"] for x in (ours, theirs)]
        said = sum((a - b) ** 2 for a, b in zip(*logits, strict=True)) / CLASSES
        rows.append(matched + beta * said)
    return sum(rows) / len(rows)


ORACLES: dict[str, Callable[..., float]] = {"simkd": simkd, "srrl": srrl}

OPTIONS: dict[str, list[dict[str, Any]]] = {"simkd": [{"factor": 1}, {"factor": 4}], "srrl": [{"beta": 0}, {"beta": 3}]}

WIDTHS = {"simkd": (1, 2, 4, 5), "srrl": (1, 2, 4, 5)}


def made(student: Tensor, loss: Any) -> tuple[Tensor, Tensor, float]:
    """The teacher that the loss wants: what it makes of the student."""
    with torch.no_grad():
        if hasattr(loss, "projector"):
            student, _ = projection.aligned(student, torch.zeros(len(student), 4, 2, 2))
            teacher = loss.projector(student)
        else:
            teacher = loss.connector(student)
    return teacher, torch.zeros(len(student), dtype=torch.long), 0.0


BEST: dict[str, Callable[[Tensor, Any], tuple[Tensor | None, Tensor, float]]] = {"simkd": made, "srrl": made}


def sample(name: str, *, rows: int = 6, width: int = 5, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    noise = torch.Generator().manual_seed(seed)
    student = torch.randn(rows, width, 3, 1, generator=noise, dtype=torch.float64)
    teacher = torch.randn(rows, 4, 2, 2, generator=noise, dtype=torch.float64)
    return student, teacher, torch.randint(CLASSES, (rows,), generator=noise)


def given(name: str, width: int) -> dict[str, Any]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        return {"head": nn.Linear(4, CLASSES)}
