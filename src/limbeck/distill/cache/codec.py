"""Outputs as arrays of numbers, and back: dense logits or values, or the largest logits and the mass of the rest."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from limbeck.core.types import Output
from limbeck.distill.cache.store import Array

FLOATS = {"float16": torch.float16, "float32": torch.float32}


def arrays_of(shape: Sequence[int], dtype: str, top_k: int | None, taps: Mapping[str, tuple[int, ...]]) -> list[Array]:
    """What is stored of outputs of one row, [..., C], and of taps (name -> shape of one row), by their names in order.

    A `top_k` of None, 0 or at least C keeps all of them.
    """
    *places, width = shape
    if top_k and top_k < width:
        numbers = "uint16" if width <= 2**16 else "int32"
        kept = (*places, top_k)
        values, classes = Array("values", dtype, kept), Array("classes", numbers, kept, below=width)
        found = [values, classes, Array("rest", "float32", tuple(places))]
    else:
        found = [Array("prediction", dtype, tuple(shape))]
    return found + [Array(f"tap{i}", dtype, tuple(taps[name])) for i, name in enumerate(sorted(taps))]


def size_bytes(
    rows: int,
    views: int,
    shape: Sequence[int],
    *,
    dtype: str = "float16",
    top_k: int | None = None,
    taps: Mapping[str, tuple[int, ...]] | None = None,
) -> int:
    """How much outputs take on the disk.

    Args:
        rows: rows of a view.
        views: how many views.
        shape: of the outputs of one row: [C] classes or [K] values, of tokens [L, C], of pixels [H, W, C].
        dtype: "float16" or "float32".
        top_k: how many logits of each row (token, pixel) are kept; None or 0 for all.
        taps: tap name -> shape of one row.
    """
    return rows * views * sum(array.row_bytes for array in arrays_of(shape, dtype, top_k, taps or {}))


def encode(output: Output, arrays: Sequence[Array], taps: Sequence[str]) -> dict[str, Tensor]:
    """What is stored of an output: array name -> [B, *shape]. torch knows little of uint16; int16 has the same bits."""
    parts = {f"tap{i}": output.features[name] for i, name in enumerate(taps)}
    if arrays[0].name == "prediction":
        parts["prediction"] = output.prediction
    else:
        logs = output.prediction.float().log_softmax(dim=-1)
        parts["values"], classes = logs.topk(arrays[0].shape[-1], dim=-1)
        parts["classes"] = classes.to(torch.int16 if arrays[1].dtype == "uint16" else torch.int32)
        parts["rest"] = logs.scatter(-1, classes, -math.inf).logsumexp(dim=-1)
    return {a.name: parts[a.name].to(FLOATS.get(a.dtype, parts[a.name].dtype)) for a in arrays}


def decode(parts: Mapping[str, Tensor], arrays: Sequence[Array], taps: Sequence[str]) -> Output:
    """The output of which these parts were stored, float32; without the features whose parts were not read."""
    features = {name: parts[f"tap{i}"].float() for i, name in enumerate(taps) if f"tap{i}" in parts}
    if arrays[0].name == "prediction":
        return Output(parts["prediction"].float(), features)
    values, classes, width = parts["values"].float(), parts["classes"].long(), arrays[1].below
    if arrays[1].dtype == "uint16":
        classes = classes & 0xFFFF
    each = parts["rest"] - math.log(width - values.shape[-1])
    return Output(each.unsqueeze(-1).repeat_interleave(width, -1).scatter_(-1, classes, values), features)
