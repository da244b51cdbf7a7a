"""What a network's outputs depend on."""

from __future__ import annotations

import inspect

import torch
from torch import nn

from limbeck.core.hashing import fingerprint, fingerprint_tensors
from limbeck.models import Normalized, plain


def identify(network: nn.Module, dtype: torch.dtype) -> dict[str, object]:
    """What a network's outputs depend on, JSON-like.

    That is its weights and buffers; its modules with their settings, and the source of those that are not torch's own;
    the standardisation of its inputs; and the type that it computes in. Functions that the modules call are not looked
    at, nor is the version of torch.

    Args:
        network: plain, or with its input normalisation.
        dtype: what it is asked in.
    """
    inner = plain(network)
    tensors = {**dict(inner.named_parameters()), **dict(inner.named_buffers())}
    foreign = {name: module for name, module in inner.named_modules() if not _is_torchs(type(module))}
    settings = {name: {k: v for k, v in vars(m).items() if _is_setting(k, v)} for name, m in foreign.items()}
    sources = {f"{kind.__module__}.{kind.__qualname__}": _source(kind) for kind in set(map(type, foreign.values()))}
    found: dict[str, object] = {
        "network": type(inner).__name__,
        "architecture": fingerprint(repr(inner), settings, sources),
        "weights": fingerprint_tensors(tensors),
        "dtype": str(dtype).removeprefix("torch."),
    }
    if isinstance(network, Normalized):
        found |= {"mean": network.mean.tolist(), "std": network.std.tolist()}
        if network.bgr or network.order is not None:
            found |= {"bgr": network.bgr, "order": None if network.order is None else network.order.tolist()}
    return found


def _is_torchs(kind: type) -> bool:
    return kind.__module__.split(".")[0] == "torch"


def _is_setting(name: str, value: object) -> bool:
    if name.startswith("_") or name == "training":
        return False
    if isinstance(value, tuple | list):
        return all(_is_setting(name, v) for v in value)
    return value is None or isinstance(value, int | float | str)


def _source(kind: type) -> str:
    try:
        return inspect.getsource(kind)
    except (OSError, TypeError):  # typed into an interpreter
        return ""
