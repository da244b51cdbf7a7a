"""The one place that touches torchao's graph quantization, which changes without notice.

It rounds a traced graph for XNNPACK: int8 activations, weights by channel.
"""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import fx

from limbeck.core.formats import check_installed

_STEP, _WEIGHT_STEP = 2.0**-12, 2.0**-23  # the smallest ones


def check_pt2e(purpose: str) -> None:
    """Refuse where the libraries are missing.

    Raises:
        UserError: the extra `executorch` is not installed.
    """
    check_installed(("torchao", "executorch"), extra="executorch", purpose=purpose)


def prepare(
    graph: fx.GraphModule, *, trained: bool, weight_bits: int = 8, wanted: Callable[[fx.Node], bool] = lambda _: True
) -> fx.GraphModule:
    """A traced graph with what measures ranges in it and, where it is to be trained, what rounds to them.

    Args:
        graph: the module of an exported program; it is changed.
        trained: for quantization-aware training, rather than for calibration.
        weight_bits: 8 or fewer.
        wanted: which nodes are quantized.
    """
    with quiet():
        from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import XNNPACKQuantizer
        from torchao.quantization.pt2e.quantize_pt2e import prepare_pt2e, prepare_qat_pt2e

        quantizer = XNNPACKQuantizer().set_global(_config(trained, weight_bits))
        quantizer.set_filter_function(wanted)
        prepared: fx.GraphModule = (prepare_qat_pt2e if trained else prepare_pt2e)(graph, quantizer)
    return prepared


def _config(trained: bool, weight_bits: int) -> Any:
    """XNNPACK's own symmetric configuration but for what rounds in training and for the steps of weights.

    Its fused rounding chooses other steps than those that are converted to; its moving average of weights lags behind
    them; and its smallest step is coarse for channels with small weights.
    """
    from torchao.quantization import pt2e
    from torchao.quantization.pt2e.quantizer import QuantizationConfig, QuantizationSpec

    if trained:
        moving = pt2e.MovingAverageMinMaxObserver, pt2e.MovingAveragePerChannelMinMaxObserver
        ranges = pt2e.FakeQuantize.with_args(observer=moving[0], eps=_STEP)
        weight_ranges = pt2e.FakeQuantize.with_args(observer=moving[1], eps=_WEIGHT_STEP, averaging_constant=1.0)
    else:
        ranges = pt2e.HistogramObserver.with_args(eps=_STEP)
        weight_ranges = pt2e.PerChannelMinMaxObserver.with_args(eps=_WEIGHT_STEP)
    activations = QuantizationSpec(
        dtype=torch.int8,
        quant_min=-128,
        quant_max=127,
        qscheme=torch.per_tensor_affine,
        observer_or_fake_quant_ctr=ranges,
    )
    largest = 2 ** (weight_bits - 1) - 1
    weights = QuantizationSpec(
        dtype=torch.int8,
        quant_min=-largest,
        quant_max=largest,
        qscheme=torch.per_channel_symmetric,
        ch_axis=0,
        observer_or_fake_quant_ctr=weight_ranges,
    )
    return QuantizationConfig(activations, activations, weights, None, trained)


def convert(prepared: fx.GraphModule, *, fold: bool = True) -> fx.GraphModule:
    """The graph with rounding nodes in place of what measured; weights become integers where `fold`."""
    with quiet():
        from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e

        converted: fx.GraphModule = convert_pt2e(prepared, fold_quantize=fold)
    for switch in ("train", "eval"):  # theirs refuse; nothing in it depends on the mode any more
        converted.__dict__.pop(switch, None)
    return converted


def register() -> None:
    """Make torch know the operators that round, without which a saved graph with them cannot be loaded."""
    with quiet():
        import torch.ao.quantization.fx._decomposed  # noqa: F401


def roundings(prepared: fx.GraphModule) -> Iterable[Any]:
    """The modules of a graph prepared for training that round, each once."""
    return (module for module in prepared.modules() if hasattr(module, "fake_quant_enabled"))


def rounds_weights(module: Any) -> bool:
    """Whether a rounding module stands behind weights rather than activations."""
    return bool(module.qscheme == torch.per_channel_symmetric)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """A place where these libraries may warn about themselves unheard."""
    theirs = logging.getLogger("torch.utils._pytree")
    level = theirs.level
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs.setLevel(logging.ERROR)
        try:
            yield
        finally:
            theirs.setLevel(level)
