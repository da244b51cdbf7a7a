"""Where a quantized model loses: each layer's output beside that of the float model, on the same rows."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from limbeck.core.errors import UserError, did_you_mean

LARGEST_DB = 150.0  # of what is alike to the last bit of a float32


class Op(NamedTuple):
    """One operation of the float model.

    Attributes:
        name: what the quantizer knows it by.
        layer: dotted name of the layer it belongs to, as in the PyTorch model; its own name where that is lost.
        inputs: names of the tensors that it takes; weights may be among them.
        output: name of the tensor that it gives.
    """

    name: str
    layer: str
    inputs: tuple[str, ...]
    output: str


@dataclass(frozen=True, slots=True)
class LayerError:
    """What quantization does to one layer.

    Attributes:
        layer: its name, as `skip` takes it.
        sqnr_db: signal to quantization noise at its output, in decibels, with all the noise that came before it.
        noise: the share of the signal's power that is noise and was not there yet at its inputs; the order goes by it.
    """

    layer: str
    sqnr_db: float
    noise: float


@dataclass
class Comparison:
    """Powers of signal and noise of named tensors, summed over rows."""

    signal: dict[str, float] = field(default_factory=dict)
    noise: dict[str, float] = field(default_factory=dict)

    def add(self, exact: Mapping[str, Any], rounded: Mapping[str, Any]) -> None:
        """Compare the tensors that both have under one name and in one shape."""
        for name in exact.keys() & rounded.keys():
            a, b = (np.asarray(side[name], np.float64) for side in (exact, rounded))
            if a.shape == b.shape and a.size:
                finite = np.isfinite(a) & np.isfinite(b)  # what a largest value is taken of is padded with -inf
                self.signal[name] = self.signal.get(name, 0.0) + float(np.square(a[finite]).sum())
                self.noise[name] = self.noise.get(name, 0.0) + float(np.square(a[finite] - b[finite]).sum())

    def share(self, name: str) -> float | None:
        """Noise as a share of the signal; None for a tensor that was never compared."""
        if name not in self.signal:
            return None
        signal, noise = self.signal[name], self.noise[name]
        return noise / signal if signal else float(noise > 0)


def ranked(ops: Sequence[Op], compared: Comparison) -> list[dict[str, Any]]:
    """The layers, the one that adds most noise first, as `LayerError` takes them.

    A layer may hold several operations: it is as loud as its last one, and adds what the worst of them adds.
    """
    found: dict[str, dict[str, Any]] = {}
    shares: dict[str, float] = {}  # of what operations compute: the noise of weights is the layer's own
    for op in ops:
        before = max((shares[name] for name in op.inputs if name in shares), default=0.0)
        out = compared.share(op.output)
        shares[op.output] = before if out is None else out
        if out is None:  # fused with the next one
            continue
        added = max(out - before, found.get(op.layer, {}).get("noise", 0.0), 0.0)
        sqnr = min(-10 * math.log10(out), LARGEST_DB) if out else LARGEST_DB
        found[op.layer] = {"layer": op.layer, "sqnr_db": sqnr, "noise": added}
    return sorted(found.values(), key=lambda row: (-row["noise"], row["sqnr_db"], row["layer"]))


def names_of(ops: Iterable[Op], skip: Sequence[str]) -> list[str]:
    """The operations of some layers, by the names that the quantizer knows them by.

    Raises:
        UserError: there is no such layer.
    """
    ops = list(ops)
    layers = {op.layer for op in ops}
    for name in skip:
        if name not in layers:
            raise UserError(f"there is no layer '{name}'", where="skip", hint=did_you_mean(name, layers))
    return [op.name for op in ops if op.layer in set(skip)]
