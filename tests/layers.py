"""Layers in NumPy, for the oracles of losses that have some: loops over pixels, nothing of torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

Array = np.ndarray
Weights = dict[str, Array]


def convolved(x: Array, weight: Array, bias: Array | None = None) -> Array:
    """Maps [B, in, H, W] through a kernel [out, in, k, k] with zeros around them: [B, out, H, W]."""
    around = weight.shape[-1] // 2
    padded = np.pad(x, ((0, 0), (0, 0), (around, around), (around, around)))
    out = np.zeros((len(x), len(weight), *x.shape[2:]))
    for row in range(x.shape[2]):
        for column in range(x.shape[3]):
            window = padded[:, :, row : row + weight.shape[2], column : column + weight.shape[3]]
            out[:, :, row, column] = np.einsum("bihw,oihw->bo", window, weight)
    return out if bias is None else out + bias[None, :, None, None]


def normalised(x: Array, weight: Array, bias: Array) -> Array:
    """Batch norm in training."""
    out = np.empty_like(x)
    for channel in range(x.shape[1]):
        values = x[:, channel]
        spread = np.mean((values - np.mean(values)) ** 2)
        out[:, channel] = weight[channel] * (values - np.mean(values)) / math.sqrt(spread + 1e-5) + bias[channel]
    return out


def normed(x: Array, weights: Weights, name: str) -> Array:
    """Convolution and batch norm, the first two of the layers called `name`."""
    out = convolved(x, weights[f"{name}.0.weight"])
    return normalised(out, weights[f"{name}.1.weight"], weights[f"{name}.1.bias"])


def averaged(x: Array, size: Sequence[int]) -> Array:
    """Maps averaged to `size`: each new pixel over all old ones it touches."""
    height, width = x.shape[2:]
    out = np.empty((*x.shape[:2], *size))
    for row in range(size[0]):
        for column in range(size[1]):
            rows = slice(math.floor(row * height / size[0]), math.ceil((row + 1) * height / size[0]))
            columns = slice(math.floor(column * width / size[1]), math.ceil((column + 1) * width / size[1]))
            out[:, :, row, column] = x[:, :, rows, columns].mean(axis=(2, 3))
    return out


def aligned(student: Any, teacher: Any) -> tuple[Array, Array]:
    """Both maps averaged to the smaller height and the smaller width."""
    student, teacher = np.array(student), np.array(teacher)
    size = [min(a, b) for a, b in zip(student.shape[2:], teacher.shape[2:], strict=True)]
    return averaged(student, size), averaged(teacher, size)


def nearest(x: Array, size: Sequence[int]) -> Array:
    """Maps enlarged or thinned to `size` by repeating or leaving out pixels."""
    rows = [row * x.shape[2] // size[0] for row in range(size[0])]
    columns = [column * x.shape[3] // size[1] for column in range(size[1])]
    return x[:, :, rows][:, :, :, columns]


def positive(x: Array) -> Array:
    """ReLU."""
    return np.where(x > 0, x, 0.0)
