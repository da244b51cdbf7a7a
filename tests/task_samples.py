"""A small data set of each task, and what its tests hold against each other."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from limbeck.core.types import Kind
from limbeck.data import Data, from_arrays

SIDE = 16
SHAPES = ("background", "bright", "dark")


def scenes(rows: int = 60, seed: int = 0, side: int = SIDE) -> tuple[np.ndarray, np.ndarray]:
    """Grey images with a bright or a dark square, or both, and their masks; a square's rim does not count."""
    random = np.random.default_rng(seed)
    x = random.integers(100, 140, (rows, 1, side, side))
    y = np.zeros((rows, side, side), np.int64)
    for row in range(rows):
        for label, value in ((1, 220), (2, 20)):
            if random.random() < 0.8:
                size = int(random.integers(side // 4, side // 2))
                top, left = (int(v) for v in random.integers(0, side - size, 2))
                x[row, 0, top : top + size, left : left + size] = value + random.integers(-15, 15, (size, size))
                y[row, top : top + size, left : left + size] = label
                y[row, top, left : left + size] = -100
    return x.astype(np.uint8), y


def sample(kind: Kind, rows: int = 60, seed: int = 0) -> Data:
    """A data set of a task."""
    random = np.random.default_rng(seed)
    if kind == "segmentation":
        x, y = scenes(rows, seed)
        return from_arrays(x, y, kind=kind, names=SHAPES)
    x = random.normal(size=(rows, 4)).astype(np.float32)
    if kind == "classification":
        return from_arrays(x, np.arange(rows) % 3, kind=kind, names=("a", "b", "c"))
    if kind == "multilabel":
        return from_arrays(x, (x[:, :3] > 0.3).astype(np.int64), kind=kind, names=("a", "b", "c"))
    return from_arrays(x, x[:, :2] + 2, kind=kind, names=("a", "b"))


def right(data: Data, target: Tensor) -> Tensor:
    """Predictions that say what the targets say, as sure as can be without infinities."""
    if target.is_floating_point():
        return 20 * target - 10 if data.task.kind == "multilabel" else target.clone()
    return 20.0 * torch.nn.functional.one_hot(target.clamp_min(0), data.task.width)


def guessed(data: Data, rows: int, seed: int = 0) -> Tensor:
    """Predictions that know nothing, [rows, ..., outputs]."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, *data.places, data.task.outputs, generator=generator)
