"""Quantization-aware training: a network that rounds as its file will, and is trained like any other."""

from __future__ import annotations

import copy
import operator
from typing import Any

import torch
from torch import Tensor, fx, nn

from limbeck.errors import UserError
from limbeck.export.trace import trace
from limbeck.quantize import pt2e

_MEAN, _VARIANCE, _TRAINING, _MOMENTUM, _EPS = 3, 4, 5, 6, 7  # arguments of aten.batch_norm
_LIBRARY_EPS = 1e-5  # the only one that torchao folds into a convolution
_MODES = {  # operations that act otherwise while they are trained, and the argument that says which
    torch.ops.aten.batch_norm.default: _TRAINING,
    torch.ops.aten.dropout.default: 2,
    torch.ops.aten.dropout_.default: 2,
    torch.ops.aten.feature_dropout.default: 2,
    torch.ops.aten.alpha_dropout.default: 2,
}


class FakeQuantized(nn.Module):
    """A traced network that rounds weights and activations as its integer file will; gradients pass straight through.

    It trains in any loop: `train()` and `eval()` switch batch norm, dropout and the measuring of ranges; what it gives
    in eval mode is what the files made of it give. Its state dict, with ranges, fits every module that `prepare_qat`
    makes of the same network. Submodules of the network are gone, so there is nothing to tap inside it.

    Args:
        graph: prepared for training.
        folded: of each batch norm that is folded into its convolution, by the name of its variance: eps.
        example: some rows of input.
    """

    example: Tensor

    def __init__(self, graph: fx.GraphModule, folded: dict[str, float], example: Tensor) -> None:
        super().__init__()
        self.graph = graph
        self.folded = folded
        self.register_buffer("example", example, persistent=False)
        self.register_load_state_dict_post_hook(_settle)  # type: ignore[no-untyped-call]

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, C] or values [B, K] of inputs [B, ...]."""
        given: Tensor = self.graph(x)
        return given

    def train(self, mode: bool = True) -> FakeQuantized:
        """Switch between training and evaluation."""
        self.training = mode  # not for submodules: of the graph's own switch only parts would work
        _switch(self.graph, mode)
        self._measure(activations=mode, weights=True)
        if not mode:
            with torch.no_grad():
                self.graph(self.example)  # the ranges of the weights as they are now
            self._measure(activations=False, weights=False)
            for rounding in pt2e.roundings(self.graph):
                scale, zero_point = rounding.calculate_qparams()
                rounding.scale.resize_(scale.shape).copy_(scale)
                rounding.zero_point.resize_(zero_point.shape).copy_(zero_point)
        return self

    def _measure(self, *, activations: bool, weights: bool) -> None:
        for rounding in pt2e.roundings(self.graph):
            rounding.observer_enabled.fill_(int(weights if pt2e.rounds_weights(rounding) else activations))
            rounding.fake_quant_enabled.fill_(1)  # an average of integers may have lost it


def _settle(module: nn.Module, _: Any) -> None:
    """What was loaded may come from the other mode."""
    module.train(module.training)


def _switch(graph: fx.GraphModule, training: bool) -> None:
    """Write the mode into the operations that depend on it. torchao would write its own eps and dropout rate too."""
    changed = False
    for node in graph.graph.nodes:
        if (place := _MODES.get(node.target)) is not None and node.args[place] != training:
            node.update_arg(place, training)
            changed = True
    if changed:
        graph.recompile()


def prepare_qat(model: nn.Module, example: Tensor, *, weight_bits: int = 8) -> FakeQuantized:
    """A copy of a network that is trained to bear being quantized (Jacob et al. 2018), in eval mode.

    Convolutions with their batch norm, linear layers and sums round as XNNPACK has them: int8 activations, weights by
    channel. Layers for which the traced graph has no integer form stay float.

    Args:
        model: maps one tensor [B, ...] to one tensor [B, C] or [B, K]; it is left as it is.
        example: rows of training input, [B, ...]; the ranges of activations start from theirs.
        weight_bits: 8, or 4 for weights that only take 15 values (the files still hold bytes).

    Returns:
        The same module, to the last bit, for the same network and example.

    Raises:
        UserError: a library is missing, or the network cannot be traced or quantized.
    """
    pt2e.check_pt2e("quantization-aware training")
    if weight_bits not in (4, 8):
        raise UserError(f"weights of {weight_bits} bits", where="weight_bits", hint="8 or 4")
    if not len(example):
        raise UserError("there are no rows to start from", where="example")
    rows = example.detach().to("cpu", torch.float32 if example.is_floating_point() else example.dtype)
    rows = rows.clone(memory_format=torch.contiguous_format)
    graph: Any = trace(model, rows).module(check_guards=False)
    before = {_name(node.args[_VARIANCE]): node.args for node in _batch_norms(graph)}
    try:
        graph = pt2e.prepare(graph, trained=True, weight_bits=weight_bits)
    except Exception as error:
        raise UserError(f"it cannot be prepared for training in integers ({error})", where="prepare_qat") from error
    folded = _restore_constants(graph, before)
    if not any(True for _ in pt2e.roundings(graph)):
        raise UserError("nothing in it can be quantized", where="prepare_qat")
    graph.requires_grad_(True)
    made = FakeQuantized(graph, folded, rows[:2].clone())
    _switch(graph, False)
    made._measure(activations=True, weights=True)
    with torch.no_grad():
        graph(rows)
    return made.eval()


def converted(module: FakeQuantized, *, fold: bool) -> fx.GraphModule:
    """What a trained module computes, as a graph with its roundings written out; the module is left as it is.

    Args:
        module: as `prepare_qat` made it.
        fold: whether weights become integers in it.
    """
    own = copy.deepcopy(module).cpu().eval()
    graph = own.graph
    with torch.no_grad():
        for node in _batch_norms(graph):
            variance = _name(node.args[_VARIANCE])
            if variance in own.folded:
                # The library folds with its own eps: what ours has more goes into the variance, which gives the same.
                operator.attrgetter(variance)(graph).add_(own.folded[variance] - _LIBRARY_EPS)
                _set_eps(node, _LIBRARY_EPS)
    graph.recompile()
    return pt2e.convert(graph, fold=fold)


def _restore_constants(graph: fx.GraphModule, before: dict[str, tuple[Any, ...]]) -> dict[str, float]:
    """Give batch norms the momentum and eps that they had: torchao writes its defaults. Returns eps of folded ones."""
    folded = {}
    for node in _batch_norms(graph):
        variance = _name(node.args[_VARIANCE])
        node.update_arg(_MOMENTUM, before[variance][_MOMENTUM])
        if _scaling(node):
            folded[variance] = float(before[variance][_EPS])
        _set_eps(node, before[variance][_EPS])
    graph.recompile()
    return folded


def _batch_norms(graph: fx.GraphModule) -> list[fx.Node]:
    return [node for node in graph.graph.nodes if node.target is torch.ops.aten.batch_norm.default]


def _scaling(node: fx.Node) -> list[fx.Node]:
    """Where the convolution before a folded batch norm takes its scale from: variance + eps."""
    variance: Any = node.args[_VARIANCE]
    return [user for user in variance.users if user.target is torch.ops.aten.add.Tensor]


def _set_eps(node: fx.Node, eps: Any) -> None:
    node.update_arg(_EPS, eps)
    for scaling in _scaling(node):
        scaling.update_arg(1, eps)


def _name(node: Any) -> str:
    return str(node.target)
