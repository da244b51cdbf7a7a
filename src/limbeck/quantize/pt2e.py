"""The one place that touches torchao's graph quantization, which changes without notice.

It rounds a traced graph for XNNPACK: int8 activations, weights by channel.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, fx

from limbeck.export.chatter import check_installed

_FINEST = 2.0**-23  # smallest step of weights; the library's own, 2**-12, is coarse for channels with small weights


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
        from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
            XNNPACKQuantizer,
            get_symmetric_quantization_config,
        )
        from torchao.quantization.pt2e.quantize_pt2e import prepare_pt2e, prepare_qat_pt2e

        largest = 2 ** (weight_bits - 1) - 1
        config = get_symmetric_quantization_config(
            is_per_channel=True, is_qat=trained, weight_qmin=-largest, weight_qmax=largest
        )
        quantizer = XNNPACKQuantizer().set_global(config)
        quantizer.set_filter_function(wanted)
        prepared: fx.GraphModule = (prepare_qat_pt2e if trained else prepare_pt2e)(graph, quantizer)
    modules: Iterable[Any] = prepared.modules()
    for module in modules:
        if _of_weights(module) and isinstance(getattr(module, "eps", None), Tensor):
            module.eps.fill_(_FINEST)
            module.averaging_constant = 1.0  # weights are known exactly: their range is that of now
    return prepared


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
    return _of_weights(module.activation_post_process)


def _of_weights(module: Any) -> bool:
    return getattr(module, "qscheme", None) in (torch.per_channel_symmetric, torch.per_channel_affine)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """A place where these libraries may warn about themselves unheard."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
