"""Oracles of the losses on one pair of features."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from layers import Array, aligned, convolved, normed, positive
from torch import Tensor, nn

from limbeck.losses import projection
from oracles import arrays

Maps = list[list[list[list[float]]]]


def fitnet(student: Maps, teacher: Maps, target: list[int], loss: nn.Module) -> float:
    s, t = aligned(student, teacher)
    if s.shape != t.shape:
        s = normed(s, arrays(loss), "projector")
    return float(np.mean([(a - b) ** 2 for a, b in zip(s.flat, t.flat, strict=True)]))


def attention(maps: Array) -> list[float]:
    """Of one row [channels, H, W], over its pixels."""
    energies = [sum(channel[at] ** 2 for channel in maps) / len(maps) for at in np.ndindex(maps.shape[1:])]
    length = math.sqrt(sum(energy**2 for energy in energies))
    return [energy / length for energy in energies]


def at(student: Maps, teacher: Maps, target: list[int]) -> float:
    rows = []
    for s, t in zip(*aligned(student, teacher), strict=True):
        squares = [(a - b) ** 2 for a, b in zip(attention(s), attention(t), strict=True)]
        rows.append(sum(squares) / len(squares))
    return sum(rows) / len(rows)


def kernel(one: Array, other: Array) -> float:
    """Of two rows [channels, H, W]."""
    values = []
    for a in one:
        for b in other:
            cosine = (a * b).sum() / math.sqrt((a * a).sum() * (b * b).sum())
            values.append(cosine**2)
    return sum(values) / len(values)


def nst(student: Maps, teacher: Maps, target: list[int]) -> float:
    pairs = list(zip(*aligned(student, teacher), strict=True))
    return sum(kernel(t, t) + kernel(s, s) - 2 * kernel(s, t) for s, t in pairs) / len(pairs)


def cwd(student: Maps, teacher: Maps, target: list[int], loss: nn.Module, temperature: float = 1.0) -> float:
    s, t = aligned(student, teacher)
    if s.shape != t.shape:
        s = convolved(s, arrays(loss)["projector.weight"], arrays(loss)["projector.bias"])
    divergences = []
    for row, channel in np.ndindex(t.shape[:2]):
        p, q = (np.exp(part[row, channel] / temperature) for part in (t, s))
        p, q = p / p.sum(), q / q.sum()
        divergences.append(sum(a * math.log(a / b) for a, b in zip(p.flat, q.flat, strict=True)))
    return temperature**2 * sum(divergences) / len(divergences)


def drawn(loss: Any, shape: tuple[int, ...]) -> Array:
    """The mask that the loss draws in the first step after the contract's seed."""
    cells = (*shape[:2], 1, 1) if loss.over == "channels" else (shape[0], 1, *shape[2:])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return (torch.rand(cells).numpy() >= loss.masked).astype(float)


def generated(student: Array, wanted: int, loss: Any) -> Array:
    weights = arrays(loss)
    if student.shape[1] != wanted:
        student = convolved(student, weights["projector.weight"], weights["projector.bias"])
    first = convolved(student * drawn(loss, student.shape), weights["generator.0.weight"], weights["generator.0.bias"])
    return convolved(positive(first), weights["generator.2.weight"], weights["generator.2.bias"])


def mgd(student: Maps, teacher: Maps, target: list[int], loss: nn.Module, **options: Any) -> float:
    s, t = aligned(student, teacher)
    made = generated(s, t.shape[1], loss)
    return sum((a - b) ** 2 for a, b in zip(made.flat, t.flat, strict=True)) / len(t)


def vid(student: Maps, teacher: Maps, target: list[int], loss: nn.Module, variance: float = 5.0) -> float:
    s, t = aligned(student, teacher)
    weights = arrays(loss)
    for layer in (0, 2):
        s = positive(convolved(s, weights[f"regressor.{layer}.weight"]))
    s = convolved(s, weights["regressor.4.weight"])
    values = []
    for at in np.ndindex(t.shape):
        spread = math.log(1 + math.exp(weights["log_scale"][at[1]])) + 1e-5
        values.append(((s[at] - t[at]) ** 2 / spread + math.log(spread)) / 2)
    return sum(values) / len(values)


ORACLES: dict[str, Callable[..., float]] = {"fitnet": fitnet, "at": at, "nst": nst, "cwd": cwd, "mgd": mgd, "vid": vid}

OPTIONS: dict[str, list[dict[str, Any]]] = {
    "cwd": [{"temperature": 4.0}],
    "mgd": [{"masked": 0.65, "over": "pixels"}, {"masked": 0}],
    "vid": [{"variance": 0.5}],
}

WIDTHS = dict.fromkeys(ORACLES, (1, 2, 4, 5))  # 4 are the teacher's

DRAWN = "the masks go by place in the batch, other rows get others"
EXCEPT = {
    "mgd": {"test_order_of_the_batch_is_irrelevant": DRAWN, "test_batch_given_twice_has_the_same_value": DRAWN},
}


def rowed(student: Tensor) -> Tensor:
    return torch.zeros(len(student), dtype=torch.long)


def projected(student: Tensor, loss: Any) -> Tensor:
    """What the loss makes of the student, at the size it compares: the teacher it wants."""
    with torch.no_grad():
        student, _ = projection.aligned(student, torch.zeros(len(student), 4, 2, 2))
        return (loss.regressor if hasattr(loss, "regressor") else loss.projector)(student)


def filled_in(student: Tensor, loss: Any) -> Tensor:
    s, _ = aligned(student.tolist(), np.zeros((len(student), 4, 2, 2)))
    return torch.from_numpy(generated(s, 4, loss))


def spread(loss: Any) -> float:
    """What vid costs where the teacher is as it expects: half the logarithm of the variance."""
    return math.log(1e-5 + math.log1p(math.exp(loss.log_scale[0].item()))) / 2


BEST: dict[str, Callable[[Tensor, Any], tuple[Tensor | None, Tensor, float]]] = {
    "fitnet": lambda s, loss: (projected(s, loss), rowed(s), 0.0),
    "at": lambda s, _: (s.clone(), rowed(s), 0.0),
    "nst": lambda s, _: (s.clone(), rowed(s), 0.0),
    "cwd": lambda s, loss: (projected(s, loss), rowed(s), 0.0),
    "mgd": lambda s, loss: (filled_in(s, loss), rowed(s), 0.0),
    "vid": lambda s, loss: (projected(s, loss), rowed(s), spread(loss)),
}


def sample(name: str, *, rows: int = 6, width: int = 5, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    noise = torch.Generator().manual_seed(seed)
    student = torch.randn(rows, width, 3, 1, generator=noise, dtype=torch.float64)
    teacher = torch.randn(rows, 4, 2, 2, generator=noise, dtype=torch.float64)
    return student, teacher, torch.randint(3, (rows,), generator=noise)
