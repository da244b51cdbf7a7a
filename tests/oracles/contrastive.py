"""Oracle of the loss that remembers a vector for every row."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from oracles import arrays

Rows = list[list[float]]


def draws(rows: int, negatives: int) -> list[list[int]]:
    """The numbers that the contract's seed gives a loss which draws nothing else before."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return torch.randint(2**62, (rows, negatives)).tolist()


def embedded(rows: Rows, weights: dict[str, np.ndarray], side: str) -> list[np.ndarray]:
    vectors = [weights[f"{side}.weight"] @ np.array(row) + weights[f"{side}.bias"] for row in rows]
    return [vector / math.sqrt((vector**2).sum()) for vector in vectors]


def crd(
    student: Rows,
    teacher: Rows,
    target: list[int],
    loss: nn.Module,
    index: list[int],
    width: int = 128,
    negatives: int = 16384,
    temperature: float = 0.07,
    momentum: float = 0.5,
) -> float:
    """The first value of a new loss: only the rows of this batch have been seen."""
    weights = arrays(loss)
    assert weights["bank_student"].shape[1] == width
    by_class = sorted(zip(target, index, strict=True))
    total = 0.0
    for own, other in (("student", "teacher"), ("teacher", "student")):
        vectors = embedded(student if own == "student" else teacher, weights, own)
        scores = []
        for vector, drawn, label, row in zip(vectors, draws(len(target), negatives), target, index, strict=True):
            others = [place for wanted, place in by_class if wanted != label]
            places = [row, *(others[number % len(others)] for number in drawn)] if others else [row]
            scores.append(np.exp(weights[f"bank_{other}"][places] @ vector / temperature))
        z = sum(each.sum() for each in scores) / sum(each.size for each in scores)
        for each in scores:
            ratio = each / z
            total -= math.log(ratio[0] / (ratio[0] + negatives))
            total -= float(np.log(negatives / (ratio[1:] + negatives)).sum())
    return total / len(target)


ORACLES: dict[str, Callable[..., float]] = {"crd": crd}

OPTIONS: dict[str, list[dict[str, Any]]] = {
    "crd": [{"negatives": 4, "width": 3}, {"negatives": 10, "temperature": 0.5, "momentum": 0.9}]
}

BEST: dict[str, Callable[[Tensor, Any], tuple[Tensor | None, Tensor, float]]] = {
    "crd": lambda s, _: (s.clone(), torch.zeros(len(s), dtype=torch.long), 0.0)
}

EXCEPT = {
    "crd": {
        "test_order_of_the_batch_is_irrelevant": "each row draws negatives of its own",
        "test_batch_given_twice_has_the_same_value": "each row draws negatives of its own",
        "test_gradient_is_that_of_the_value": "its first batch sets Z, a constant: see test_losses_memory.py",
        "test_is_at_its_least_where_it_says": "it hangs on what is remembered of other rows",
    }
}


def sample(name: str, *, rows: int = 6, width: int = 5, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    noise = torch.Generator().manual_seed(seed)
    student, teacher = (torch.randn(rows, size, generator=noise, dtype=torch.float64) for size in (width, 3))
    # With a width of 1 all rows are of one class, and there are no negatives.
    return student, teacher, torch.randint(min(width, 3), (rows,), generator=noise)
