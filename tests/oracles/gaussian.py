"""Oracles of the losses on values with their uncertainty."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Rows = list[list[float]]


def label_gaussian_nll(student: Rows, teacher: Rows, target: Rows) -> float:
    total = 0.0
    for output, wanted in zip(student, target, strict=True):
        for value, (m, log_v) in zip(
            wanted, zip(output[: len(wanted)], output[len(wanted) :], strict=True), strict=True
        ):
            v = math.exp(log_v)
            total -= math.log(math.exp(-((value - m) ** 2) / (2 * v)) / math.sqrt(2 * math.pi * v))
    return total / len(student)


def gaussian_kl(student: Rows, teacher: Rows, target: Rows) -> float:
    total = 0.0
    for ours, theirs in zip(student, teacher, strict=True):
        count = len(ours) // 2
        for k in range(count):
            v_s, v_t = math.exp(ours[count + k]), math.exp(theirs[count + k])
            total += (math.log(v_s / v_t) + (v_t + (theirs[k] - ours[k]) ** 2) / v_s - 1) / 2
    return total / len(student)


ORACLES: dict[str, Callable[..., float]] = {"label_gaussian_nll": label_gaussian_nll, "gaussian_kl": gaussian_kl}

OPTIONS: dict[str, list[dict[str, Any]]] = {}

BEST: dict[str, Callable[[Tensor, Any], tuple[Tensor | None, Tensor, float]]] = {
    "label_gaussian_nll": lambda s, _: (None, s[:, : s.shape[1] // 2].clone(), 0.0),
    "gaussian_kl": lambda s, _: (s.clone(), torch.zeros_like(s[:, : s.shape[1] // 2]), 0.0),
}

NO_FIVE = "it has 10 outputs here, two for each value: see test_losses_gaussian.py"
STEEP = "far off and sure of it, it has a slope beyond float16: see test_losses_gaussian.py"
EXCEPT = {
    "label_gaussian_nll": {
        "test_large_and_small_inputs_stay_finite": STEEP,
        "test_is_at_its_least_where_it_says": "it has no least value, as its docstring says",
        "test_output_without_a_batch_is_refused": NO_FIVE,
    },
    "gaussian_kl": {
        "test_large_and_small_inputs_stay_finite": STEEP,
        "test_teacher_of_other_rows_or_classes_is_refused": NO_FIVE,
        "test_output_without_a_batch_is_refused": NO_FIVE,
    },
}


def sample(name: str, *, rows: int = 6, width: int = 5, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """`width` values, so twice as many outputs."""
    noise = torch.Generator().manual_seed(seed)
    student, teacher = torch.randn(2, rows, 2 * width, generator=noise, dtype=torch.float64)
    return student, teacher, torch.randn(rows, width, generator=noise, dtype=torch.float64)
