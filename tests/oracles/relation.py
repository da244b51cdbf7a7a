"""Oracles of the losses on how rows, or channels, relate to each other."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from layers import normed
from torch import Tensor, nn

from oracles import arrays

Rows = list[list[float]]


def dot(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def unit(a: list[float]) -> list[float]:
    length = math.sqrt(dot(a, a))
    return [x / length for x in a] if length else a


def minus(a: list[float], b: list[float]) -> list[float]:
    return [x - y for x, y in zip(a, b, strict=True)]


def smooth(difference: float) -> float:
    size = abs(difference)
    return size * size / 2 if size < 1 else size - 0.5


def sp(student: Rows, teacher: Rows, target: list[int]) -> float:
    total, size = 0.0, len(student)
    for i in range(size):
        of_student = unit([dot(student[i], other) for other in student])
        of_teacher = unit([dot(teacher[i], other) for other in teacher])
        total += sum((a - b) ** 2 for a, b in zip(of_student, of_teacher, strict=True))
    return total / size**2


def pkt(student: Rows, teacher: Rows, target: list[int]) -> float:
    total, size = 0.0, len(student)
    for i in range(size):
        likely = []
        for side in (student, teacher):
            cosines = [dot(unit(side[i]), unit(other)) for other in side]
            shares = [max(0.0, (cosine + 1) / 2) for cosine in cosines]
            likely.append([share / sum(shares) for share in shares])
        total += sum(t * math.log((t + 1e-7) / (s + 1e-7)) for s, t in zip(*likely, strict=True))
    return total / size**2


def cc(student: Rows, teacher: Rows, target: list[int], loss: nn.Module, width: int = 128) -> float:
    weights = arrays(loss)
    ours = np.array(student) @ weights["student.weight"].T + weights["student.bias"]
    theirs = np.array(teacher) @ weights["teacher.weight"].T + weights["teacher.bias"]
    apart = np.abs(ours - theirs)
    assert apart.shape == (len(student), width)
    pairs = [float(apart[i] @ apart[j]) for i in range(len(student)) for j in range(len(student)) if i != j]
    return sum(pairs) / len(pairs)


def rkd_distance(student: Rows, teacher: Rows, target: list[int]) -> float:
    size, scaled = len(student), []
    for side in (student, teacher):
        distances = [math.dist(a, b) for a in side for b in side]
        positive = [d for d in distances if d > 0]
        scaled.append([d / (sum(positive) / len(positive)) for d in distances])
    return sum(smooth(s - t) for s, t in zip(*scaled, strict=True)) / size**2


def rkd_angle(student: Rows, teacher: Rows, target: list[int]) -> float:
    total, size = 0.0, len(student)
    for i in range(size):
        for j in range(size):
            for k in range(size):
                s, t = (
                    dot(unit(minus(side[j], side[i])), unit(minus(side[k], side[i]))) for side in (student, teacher)
                )
                total += smooth(s - t)
    return total / size**3


def ickd(student: Any, teacher: Any, target: list[int], loss: nn.Module) -> float:
    ours: np.ndarray = np.array(student)
    theirs: np.ndarray = np.array(teacher)
    if ours.shape[1] != theirs.shape[1]:
        ours = normed(ours, arrays(loss), "projector")
    total = 0.0
    for row in range(len(theirs)):
        sides = [[list(channel.flat) for channel in side[row]] for side in (ours, theirs)]
        for c in range(theirs.shape[1]):
            s, t = (unit([dot(side[c], other) for other in side]) for side in sides)
            total += sum((a - b) ** 2 for a, b in zip(s, t, strict=True))
    return total / (theirs.shape[1] * len(theirs))


ORACLES: dict[str, Callable[..., float]] = {
    "sp": sp,
    "pkt": pkt,
    "cc": cc,
    "rkd_distance": rkd_distance,
    "rkd_angle": rkd_angle,
    "ickd": ickd,
}

OPTIONS: dict[str, list[dict[str, Any]]] = {"cc": [{"width": 3}]}


def equal(student: Tensor, loss: nn.Module) -> tuple[Tensor, Tensor, float]:
    return student.clone(), torch.zeros(len(student), dtype=torch.long), 0.0


BEST: dict[str, Callable[[Tensor, Any], tuple[Tensor | None, Tensor, float]]] = {
    "sp": equal,
    "pkt": equal,
    "cc": equal,
    "rkd_distance": equal,
    "rkd_angle": equal,
    "ickd": lambda s, loss: (loss.projector(s).detach(), torch.zeros(len(s), dtype=torch.long), 0.0),
}

WIDTHS = {"ickd": (1, 2, 3, 5)}  # with 3 channels on both sides there is no projector

EXCEPT = {
    "sp": {"test_batch_given_twice_has_the_same_value": "it halves, as its docstring says"},
    "pkt": {"test_batch_given_twice_has_the_same_value": "it halves but for the 10^-7, as its docstring says"},
    "cc": {
        "test_batch_given_twice_has_the_same_value": "a row and its copy are a pair that was not there",
        "test_is_at_its_least_where_it_says": "only where both embeddings agree: see test_losses_relation.py",
    },
}


def sample(name: str, *, rows: int = 6, width: int = 5, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Vectors of 5 and 3; for `ickd` maps of as many channels, of different sizes."""
    noise = torch.Generator().manual_seed(seed)
    ours, theirs = ((width, 1, 2), (3, 2, 2)) if name == "ickd" else ((width,), (3,))
    student = 2 * torch.randn(rows, *ours, generator=noise, dtype=torch.float64)
    teacher = 2 * torch.randn(rows, *theirs, generator=noise, dtype=torch.float64)
    return student, teacher, torch.randint(3, (rows,), generator=noise)
