"""Oracles of the losses on logits."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from oracles import arrays
from oracles.decoupled import Rows, counted, dkd, kl, softmax


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


def kd(
    student: Rows,
    teacher: Rows,
    target: list[Any],
    temperature: float = 4.0,
    divergence: str = "forward",
    beta: float = 0.5,
) -> float:
    rows = []
    for z_s, z_t, _ in counted(student, teacher, target):
        p_s, p_t = softmax(z_s, temperature), softmax(z_t, temperature)
        middle = [beta * t + (1 - beta) * s for s, t in zip(p_s, p_t, strict=True)]
        if divergence == "forward":
            rows.append(kl(p_t, p_s))
        elif divergence == "reverse":
            rows.append(kl(p_s, p_t))
        else:
            rows.append(beta * kl(p_t, middle) + (1 - beta) * kl(p_s, middle))
    return temperature**2 * sum(rows) / len(rows)


def soft_cross_entropy(student: Rows, teacher: Rows, target: list[Any], temperature: float = 4.0) -> float:
    rows = []
    for z_s, z_t, _ in counted(student, teacher, target):
        p_s, p_t = softmax(z_s, temperature), softmax(z_t, temperature)
        rows.append(-sum(t * math.log(s) for s, t in zip(p_s, p_t, strict=True)))
    return temperature**2 * sum(rows) / len(rows)


def lskd(
    student: Rows,
    teacher: Rows,
    target: list[Any],
    temperature: float = 2.0,
    wraps: str = "kd",
    alpha: float = 1.0,
    beta: float = 8.0,
) -> float:
    def standardised(rows: Rows) -> Rows:
        found = []
        for row in rows:
            mean = sum(row) / len(row)
            deviation = math.sqrt(sum((z - mean) ** 2 for z in row) / (len(row) - 1))
            found.append([(z - mean) / (deviation + 1e-7) for z in row])
        return found

    student, teacher = standardised(student), standardised(teacher)
    if wraps == "kd":
        return kd(student, teacher, target, temperature)
    return dkd(student, teacher, target, alpha, beta, temperature)


def wsld(student: Rows, teacher: Rows, target: list[Any], temperature: float = 2.0) -> float:
    rows = []
    for z_s, z_t, wanted in counted(student, teacher, target):
        h_s, h_t = (hard([z], [], [wanted]) for z in (z_s, z_t))
        weight = 1 - math.exp(-h_s / (h_t + 1e-7))
        rows.append(weight * kl(softmax(z_t, temperature), softmax(z_s, temperature)))
    return temperature**2 * sum(rows) / len(rows)


def tf_kd(
    student: Rows, teacher: Rows, target: list[Any], temperature: float = 20.0, probability: float = 0.99
) -> float:
    rows = []
    for logits, _, wanted in counted(student, student, target):
        classes = len(logits)
        shares = wanted if isinstance(wanted, list) else [1.0 if c == wanted else 0.0 for c in range(classes)]
        others = (1 - probability) / (classes - 1) if classes > 1 else 0.5
        powers = [(q * probability + (1 - q) * others) ** (1 / temperature) for q in shares]
        rows.append(kl([p / sum(powers) for p in powers], softmax(logits, temperature)))
    return temperature**2 * sum(rows) / len(rows)


def ctkd(
    student: Rows,
    teacher: Rows,
    target: list[Any],
    loss: nn.Module,
    start: float = 1.0,
    end: float = 21.0,
    epochs: float = 10.0,
) -> float:
    temperature = start + (end - start) / (1 + math.exp(-float(arrays(loss)["weight"])))
    return kd(student, teacher, target, temperature)


ORACLES: dict[str, Callable[..., float]] = {
    "hard": hard,
    "kd": kd,
    "soft_cross_entropy": soft_cross_entropy,
    "lskd": lskd,
    "wsld": wsld,
    "tf_kd": tf_kd,
    "ctkd": ctkd,
}

OPTIONS: dict[str, list[dict[str, Any]]] = {
    "hard": [{"label_smoothing": 0.1}, {"label_smoothing": 1}],
    "kd": [
        {"temperature": 1.0},
        {"temperature": 20},
        {"divergence": "reverse"},
        {"divergence": "js", "beta": 0.2},
        {"divergence": "js", "temperature": 1.0},
    ],
    "soft_cross_entropy": [{"temperature": 1.0}],
    "lskd": [{"temperature": 4}, {"wraps": "dkd", "alpha": 0.5, "beta": 2.0}],
    "wsld": [{"temperature": 1.0}],
    "tf_kd": [{"temperature": 1.0, "probability": 0.9}],
    "ctkd": [{"start": 2.0, "end": 4.0, "epochs": 0.0}],
}


def entropy(student: Tensor) -> float:
    rows = [-sum(p * math.log(p) for p in softmax(row)) for row in student.tolist()]
    return sum(rows) / len(rows)


def first_class(student: Tensor) -> Tensor:
    return torch.zeros(len(student), dtype=torch.long)


def teacher_made_up(student: Tensor, probability: float = 0.99) -> Tensor:
    """Shares of the classes for which the teacher that `tf_kd` makes up is the student itself."""
    others = (1 - probability) / (student.shape[1] - 1)
    return (student.softmax(dim=-1) - others) / (probability - others)


BEST: dict[str, Callable[[Tensor, nn.Module], tuple[Tensor | None, Tensor, float]]] = {
    "hard": lambda s, _: (None, s.softmax(dim=-1), entropy(s)),
    "kd": lambda s, _: (s.clone(), first_class(s), 0.0),
    "soft_cross_entropy": lambda s, _: (s.clone(), first_class(s), 16 * entropy(s / 4)),
    "lskd": lambda s, _: (3 * s + 7, first_class(s), 0.0),
    "wsld": lambda s, _: (s.clone(), first_class(s), 0.0),
    "tf_kd": lambda s, _: (None, teacher_made_up(s), 0.0),
    "ctkd": lambda s, _: (s.clone(), first_class(s), 0.0),
}

WIDTHS = {"lskd": (3, 5)}

EXCEPT = {
    "wsld": {
        "test_gradient_is_that_of_the_value": "the weight of a row depends on the student, and is a constant for the "
        "gradient, as published",
    },
}


def sample(name: str, *, rows: int = 6, width: int = 5, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    noise = torch.Generator().manual_seed(seed)
    student, teacher = 2 * torch.randn(2, rows, width, generator=noise, dtype=torch.float64)
    return student, teacher, torch.randint(width, (rows,), generator=noise)
