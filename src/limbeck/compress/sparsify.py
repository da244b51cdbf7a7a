"""Sparsity: single weights become zero, and stay it while the network is trained on.

No runtime that Limbeck exports to computes faster for it; the file shrinks when it is compressed. 2:4 is for GPUs that
have sparse tensor cores.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from limbeck.compress.prune import check_names
from limbeck.compress.records import Edit, SparseWeight, SparsifyEdit
from limbeck.core.errors import UserError
from limbeck.models import plain


def plan_sparsify(
    model: nn.Module, *, amount: float | None = None, pattern: Literal["2:4"] | None = None, keep: Sequence[str] = ()
) -> SparsifyEdit:
    """How many weights of each convolution, linear layer and attention become zero: the smallest ones.

    Args:
        model: a network, with or without its input normalisation; not touched.
        amount: share of all these weights, from 0 to below 1; those that are smallest anywhere go (Han et al. 2015).
        pattern: "2:4" instead: two of every four that follow each other along the inputs (Mishra et al. 2021). Layers
            whose inputs are no multiple of 4 stay dense.
        keep: dotted names of modules that stay as they are, with all inside them.

    Raises:
        UserError: both or neither of `amount` and `pattern`, one out of its range, a name that is not there.
    """
    if (amount is None) == (pattern is None):
        raise UserError("give either `amount` or `pattern`", where="sparsify")
    if amount is not None and not 0 <= amount < 1:
        raise UserError(f"`amount` is from 0 to below 1, not {amount}", where="sparsify")
    if pattern not in (None, "2:4"):
        raise UserError(f"unknown pattern {pattern!r}", where="sparsify", hint="'2:4' is known")
    check_names(model, keep, "sparsify")
    weights = _weights(model, keep)
    if pattern:
        layers = [
            SparseWeight(name, list(w.shape), w.numel() // 2) for name, w in weights.items() if w.shape[1] % 4 == 0
        ]
    else:
        assert amount is not None
        sizes = torch.cat([w.detach().abs().flatten() for w in weights.values()]) if weights else torch.empty(0)
        gone = torch.zeros(len(sizes), dtype=torch.bool, device=sizes.device)
        gone[sizes.argsort(stable=True)[: round(amount * len(sizes))]] = True
        counts = [int(part.sum()) for part in torch.split(gone, [w.numel() for w in weights.values()])]
        layers = [
            SparseWeight(name, list(w.shape), count)
            for (name, w), count in zip(weights.items(), counts, strict=True)
            if count
        ]
    return SparsifyEdit(pattern=pattern, layers=layers)


def _weights(model: nn.Module, keep: Sequence[str]) -> dict[str, Tensor]:
    """The weights with two dimensions or more of the layers that may be sparse, by dotted name."""
    network = plain(model)
    kept = {p for name in keep for p in network.get_submodule(name).parameters()}
    layers = (nn.Linear, nn.modules.conv._ConvNd, nn.MultiheadAttention)
    own = {p for m in network.modules() if isinstance(m, layers) for p in m.parameters(recurse=False)}
    return {name: p for name, p in network.named_parameters() if p in own - kept and p.ndim > 1}


def apply_sparsify(model: nn.Module, edit: SparsifyEdit) -> nn.Module:
    """Make the smallest weights of each layer of the edit zero, in place.

    Raises:
        UserError: the edit does not fit the model.
    """
    named = dict(plain(model).named_parameters())
    for name, shape, count in edit.layers:
        weight = named.get(name)
        if weight is None or list(weight.shape) != shape:
            raise UserError(
                f"the edit does not fit: '{name}' is {'not there' if weight is None else list(weight.shape)} "
                f"where {shape} is expected",
                where="sparsify",
                hint="replay all edits in their order, onto a network built with the same options",
            )
        with torch.no_grad():
            gone = _two_of_four(weight) if edit.pattern else _smallest(weight, count)
            weight.masked_fill_(gone, 0)
    return model


def _smallest(weight: Tensor, count: int) -> Tensor:
    gone = torch.zeros(weight.numel(), dtype=torch.bool, device=weight.device)
    gone[weight.abs().flatten().argsort(stable=True)[:count]] = True
    return gone.view(weight.shape)


def _two_of_four(weight: Tensor) -> Tensor:
    """True for the two smallest of each four along the inputs, which are the second dimension."""
    last = weight.movedim(1, -1)
    fours = last.abs().reshape(-1, 4)
    gone = torch.zeros_like(fours, dtype=torch.bool)
    gone.scatter_(1, fours.argsort(dim=1, stable=True)[:, :2], True)
    return gone.view(last.shape).movedim(-1, 1)


class Zeros:
    """What keeps zeros zero; `remove` lets them go."""

    def __init__(self, handles: list[Any]) -> None:
        self._handles = handles

    def remove(self) -> None:
        """Take the hooks off the model."""
        for handle in self._handles:
            handle.remove()
        self._handles = []


def keep_zeros(model: nn.Module, edits: Iterable[Edit]) -> Zeros:
    """Let the sparse weights of `model` get no gradient, so that training leaves them zero.

    That holds for optimizers that begin with it: one that has already moved these weights goes on by its momentum.
    Weight decay leaves zeros zero.

    Args:
        model: a model to which `edits` were applied, with its weights.
        edits: of which those that sparsify count.

    Returns:
        A handle; its `remove()` ends it.
    """
    named = dict(plain(model).named_parameters())
    names = {row.name for edit in edits if isinstance(edit, SparsifyEdit) for row in edit.layers}
    handles = []
    for name in sorted(names & named.keys()):
        parameter = named[name]
        if parameter.requires_grad:
            handles.append(parameter.register_hook(_masking(parameter.detach() != 0)))  # type: ignore[no-untyped-call]
    return Zeros(handles)


def _masking(mask: Tensor) -> Any:
    def masked(gradient: Tensor) -> Tensor:
        return gradient.masked_fill(~mask.to(gradient.device), 0)

    return masked
