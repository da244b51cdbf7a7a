"""Losses with products or layers of their own keep their precision under autocast."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

F = TypeVar("F", bound=Callable[..., Any])


def in_full_precision(loss: F) -> F:
    """Switch autocast off within a loss, a function or a module's `forward`.

    Autocast leaves sums, logarithms and differences alone, but computes every matrix product, convolution and distance
    in half precision, also of numbers that are float32.
    """

    @functools.wraps(loss)
    def exactly(*args: Any, **options: Any) -> Any:
        student = args[1] if isinstance(args[0], nn.Module) else args[0]
        kind = (student if isinstance(student, Tensor) else student[0]).device.type
        if not torch.is_autocast_enabled(kind):
            return loss(*args, **options)
        with torch.autocast(kind, enabled=False):
            return loss(*args, **options)

    return exactly  # type: ignore[return-value]
