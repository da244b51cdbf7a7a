"""Numbers that modules keep beside their weights: how wide they are. A pruned network must tell its true widths."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.compress.channel_groups import blank

# timm's names; torch's own layers are kept right by Torch-Pruning.
TOLD = (
    *("in_features", "in_channels", "in_chs", "in_chans", "dim"),
    *("num_features", "out_features", "out_channels", "out_chs", "embed_dim", "head_hidden_size", "hidden_size"),
)
Shapes = dict[str, list[tuple[int, ...]]]


def shapes(network: Any, shape: Sequence[int]) -> Shapes:
    """Of each module in one forward pass, by dotted name: the shapes of what goes in and what comes out.

    The network's own entry holds what timm's numbers of a network speak of: its features, and what its head reads.
    """
    found: Shapes = {}
    names = {module: name for name, module in network.named_modules()}

    def note(module: nn.Module, inputs: tuple[object, ...], output: object) -> None:
        found[names[module]] = [tuple(x.shape) for x in (*inputs[:1], output) if isinstance(x, Tensor)]

    modes = {module: module.training for module in network.modules()}
    handles = [module.register_forward_hook(note) for name, module in network.named_modules() if name]
    try:
        network.eval()
        with torch.no_grad():
            x = blank(network, shape)
            network(x)
            if hasattr(network, "forward_features") and hasattr(network, "forward_head"):
                features = network.forward_features(x)
                found[""] = [tuple(features.shape), tuple(network.forward_head(features, pre_logits=True).shape)]
    finally:
        for handle in handles:
            handle.remove()
        for module, mode in modes.items():
            module.training = mode
    return found


def correct(network: nn.Module, before: Shapes, after: Shapes) -> None:
    """Put right, in place, the numbers that said a width `before`, and `after` it is another."""
    for name, module in network.named_modules():
        for attribute in TOLD:
            width = module.__dict__.get(attribute)
            if isinstance(width, int):
                module.__dict__[attribute] = _now(width, before.get(name, []), after.get(name, []))
    infos = getattr(network, "feature_info", None)
    for info in infos if isinstance(infos, list) else []:
        name = info.get("module", "") if isinstance(info, dict) else ""
        if name and "num_chs" in info:
            info["num_chs"] = _now(info["num_chs"], before.get(name, [])[-1:], after.get(name, [])[-1:])


def _now(width: int, before: list[tuple[int, ...]], after: list[tuple[int, ...]]) -> int:
    """What has become of `width`, a number of channels: the second dimension, or the last."""
    for old, new in zip(before, after, strict=True):
        for dim in (1, -1):
            if len(old) > 1 and old[dim] == width != new[dim]:
                return new[dim]
    return width
