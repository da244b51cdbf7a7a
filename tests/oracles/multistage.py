"""Oracles of the losses on all stages at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from layers import Array, aligned, averaged, convolved, nearest, normed
from torch import Tensor, nn

from limbeck.losses import projection
from oracles import arrays

Stages = list[list[list[list[list[float]]]]]


def ofd(student: Stages, teacher: Stages, target: list[int], loss: nn.Module) -> float:
    total = 0.0
    for stage, pair in enumerate(zip(student, teacher, strict=True)):
        s, t = aligned(*pair)
        s = normed(s, arrays(loss), f"connectors.{stage}")
        of_stage = 0.0
        for channel in range(t.shape[1]):
            negative = [value for value in t[:, channel].flat if value < 0]
            margin = sum(negative) / len(negative) if negative else 0.0
            for a, b in zip(s[:, channel].flat, t[:, channel].flat, strict=True):
                wanted = max(b, margin)
                of_stage += (a - wanted) ** 2 if wanted > 0 or a > wanted else 0.0
        total += of_stage / len(t) / 2 ** (len(student) - 1 - stage)
    return total


def at_all_sizes(s: Array, t: Array) -> float:
    height, width = s.shape[2:]
    sizes = [(height, width)]
    for size in (4, 2, 1):
        if size < max(height, width):
            sizes.append((min(size, height), min(size, width)))
    shares = [0.5**n for n in range(len(sizes))]
    values = [np.mean((averaged(s, size) - averaged(t, size)) ** 2) for size in sizes]
    return float(sum(a * b for a, b in zip(shares, values, strict=True)) / sum(shares))


def reviewkd(student: Stages, teacher: Stages, target: list[int], loss: nn.Module, width: int = 512) -> float:
    weights = arrays(loss)
    ours, theirs = ([np.array(stage) for stage in side] for side in (student, teacher))
    if ours[-1][0, 0].size > 1 or theirs[-1][0, 0].size > 1:
        ours, theirs = ([*side, averaged(side[-1], (1, 1))] for side in (ours, theirs))
    assert weights["entries.0.0.weight"].shape[0] == min(width, ours[-1].shape[1])
    deeper, total = None, 0.0
    for n in reversed(range(len(ours))):
        x = normed(ours[n], weights, f"entries.{n}")
        if deeper is not None:
            y = nearest(deeper, x.shape[2:])
            both = convolved(np.concatenate([x, y], axis=1), weights[f"shares.{n}.weight"], weights[f"shares.{n}.bias"])
            share = 1 / (1 + np.exp(-both))
            x = x * share[:, [0]] + y * share[:, [1]]
        deeper = nearest(x, theirs[n].shape[2:])
        total += at_all_sizes(normed(deeper, weights, f"exits.{n}"), theirs[n])
    return total


def flow(one: Array, other: Array) -> Array:
    """Of two rows [channels, H, W] of one size."""
    return np.array([[(a * b).mean() for a in one] for b in other])


def fsp(student: Stages, teacher: Stages, target: list[int], loss: nn.Module) -> float:
    ours, theirs = ([np.array(stage) for stage in side] for side in (student, teacher))
    for n, (s, t) in enumerate(zip(ours, theirs, strict=True)):
        if s.shape[1] != t.shape[1]:
            ours[n] = normed(s, arrays(loss), f"projectors.{n}")
    total = 0.0
    for n in range(len(ours) - 1):
        s_pairs, t_pairs = (zip(*aligned(side[n], side[n + 1]), strict=True) for side in (ours, theirs))
        total += np.mean([(flow(*s) - flow(*t)) ** 2 for s, t in zip(s_pairs, t_pairs, strict=True)])
    return float(total)


ORACLES: dict[str, Callable[..., float]] = {"ofd": ofd, "reviewkd": reviewkd, "fsp": fsp}

OPTIONS: dict[str, list[dict[str, Any]]] = {"reviewkd": [{"width": 1}]}

WIDTHS = {"ofd": (1, 2, 3), "reviewkd": (1, 2, 3), "fsp": (1, 2, 3)}  # the teacher has 3 and 4

EXCEPT = {
    "reviewkd": {
        "test_is_at_its_least_where_it_says": "the last stage and its mean are both compared, so 0 is out of reach",
    },
}


def labels(student: Sequence[Tensor]) -> Tensor:
    return torch.zeros(len(student[0]), dtype=torch.long)


def connected(student: Sequence[Tensor], loss: Any) -> tuple[list[Tensor], Tensor, float]:
    sizes = [torch.zeros(len(stage), 1, 2, 2) for stage in student]
    pairs = zip(loss.connectors, student, sizes, strict=True)
    with torch.no_grad():
        return [connect(projection.aligned(stage, size)[0]) for connect, stage, size in pairs], labels(student), 0.0


def projected(student: Sequence[Tensor], loss: Any) -> tuple[list[Tensor], Tensor, float]:
    with torch.no_grad():
        return [project(x) for project, x in zip(loss.projectors, student, strict=True)], labels(student), 0.0


BEST: dict[str, Callable[[Any, Any], tuple[list[Tensor], Tensor, float]]] = {
    "ofd": connected,
    "reviewkd": lambda s, _: ([torch.zeros(len(s[0]), c, 2, 2) for c in (3, 4)], labels(s), 0.0),
    "fsp": projected,
}


def sample(name: str, *, rows: int = 6, width: int = 5, seed: int = 0) -> tuple[list[Tensor], list[Tensor], Tensor]:
    noise = torch.Generator().manual_seed(seed)
    sizes = [(width, 1, 3), (2, 2, 1)], [(3, 2, 2), (4, 2, 1)]
    student, teacher = (
        [torch.randn(rows, *size, generator=noise, dtype=torch.float64) for size in side] for side in sizes
    )
    return student, teacher, torch.randint(3, (rows,), generator=noise)
