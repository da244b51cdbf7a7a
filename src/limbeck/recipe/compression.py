"""How a trained student becomes smaller, step by step or by a search within a budget; and what its files are like."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from limbeck.recipe.sources import Count, Fraction, Positive, Strict, only_with

Deployable = Literal[
    "litert", "litert-fp16", "litert-int8", "litert-w8", "litert-w4", "onnx", "onnx-int8",
    "executorch", "executorch-int8", "openvino", "openvino-fp16", "openvino-int8", "keras",
]  # fmt: skip


class Files(Strict):
    """What exported files take, and how their integers are chosen.

    Attributes:
        input: `float32` takes pixels in [0, 1] (or a table's columns), `uint8` raw pixels.
        layout: of images.
        batches: of LiteRT files, one signature for each; the others take any number of rows.
        calibration: training rows that the ranges of integer files are measured on.
        max_drop: the worst layers of an integer file stay float until it loses no more than this of the main metric on
            validation. Without it every layer is quantized.
        every_seed: export the students of all seeds, not only the best.
    """

    input: Literal["float32", "uint8"] = "float32"
    layout: Literal["nchw", "nhwc"] = "nchw"
    batches: list[Count] = [1]
    calibration: Count = 256
    max_drop: Annotated[float, Field(ge=0, lt=1)] | None = None
    every_seed: bool = False


class Prune(Strict):
    """Whole channels and attention heads taken out.

    Attributes:
        ratio: share of the channels of each layer that go.
        macs: or: what shall be left of the multiply-accumulates, as a share.
        params: or: what shall be left of the parameters.
        latency: or: what shall be left of the time for one sample in ONNX Runtime on one thread.
        importance: what says which channels matter least.
        scope: `uniform` takes the same ratio out of every layer, `global` what is least important in all of them,
            `isomorphic` in those that are built alike.
        cap: but for `uniform`, the largest share of one layer that may go.
        round_to: widths are multiples of this.
        steps: so many rounds, with recovery after each.
        keep: dotted names of layers that stay as they are; the head always does.
    """

    ratio: Fraction | None = None
    macs: Fraction | None = None
    params: Fraction | None = None
    latency: Fraction | None = None
    importance: Literal["taylor", "magnitude", "random"] = "taylor"
    scope: Literal["uniform", "global", "isomorphic"] = "uniform"
    cap: Fraction = 0.9
    round_to: Count = 8
    steps: Count = 1
    keep: list[str] = []

    @model_validator(mode="after")
    def _takes_effect(self) -> Prune:
        given = [name for name in ("ratio", "macs", "params", "latency") if getattr(self, name) is not None]
        if len(given) != 1:
            named = " and ".join(given) if given else "none of them"
            raise ValueError(f"one of `ratio`, `macs`, `params` and `latency` says how much, not {named}")
        only_with(self, self.scope, {"cap": ("global", "isomorphic")}, f"`scope: {self.scope}`")
        return self


class Sparsify(Strict):
    """Single weights set to zero. No runtime here is faster for it; only the compressed download shrinks.

    Attributes:
        amount: share of the weights that go, the smallest of all layers first.
        pattern: or: two of every four in a row, as some accelerators want it.
        keep: dotted names of layers that stay as they are.
    """

    amount: Fraction | None = None
    pattern: Literal["2:4"] | None = None
    keep: list[str] = []

    @model_validator(mode="after")
    def _one_way(self) -> Sparsify:
        if (self.amount is None) == (self.pattern is None):
            raise ValueError("give `amount` or `pattern`")
        return self


class Factorise(Strict):
    """Layers replaced by two or three thinner ones in a row.

    Attributes:
        method: for convolutions, which `svd` leaves alone; linear layers are split by SVD always.
        ranks: `energy` keeps that share of a weight's squared singular values; `evbmf` what stands out of noise;
            `sensitivity` as little of each layer as costs no more than `drop` on validation, all layers together.
        energy: for `ranks: energy`.
        drop: for `ranks: sensitivity`, the loss of the main metric that is accepted before recovery.
        check_latency: leave a layer whose factors are not faster in ONNX Runtime.
        keep: dotted names of layers that stay as they are.
    """

    method: Literal["spatial", "channel", "tucker", "svd"] = "spatial"
    ranks: Literal["energy", "evbmf", "sensitivity"] = "energy"
    energy: Fraction = 0.9
    drop: Positive = 0.02
    check_latency: bool = True
    keep: list[str] = []

    @model_validator(mode="after")
    def _takes_effect(self) -> Factorise:
        belongs = {"energy": ("energy",), "drop": ("sensitivity",)}
        only_with(self, self.ranks, belongs, f"`ranks: {self.ranks}`")
        return self


class Quantize(Strict):
    """Quantization-aware training: the student learns with its weights and activations quantized.

    Attributes:
        weights: bits of a weight; activations have 8.
    """

    weights: Literal[8, 4] = 8


class Recover(Strict):
    """Training after a step, by the student's plan but for what is said here.

    Attributes:
        epochs: how many; 0 measures the statistics of batch norms anew and trains nothing.
        lr: the learning rate; by default the student's.
    """

    epochs: Annotated[int, Field(ge=0)] = 1
    lr: Positive | None = None


class Step(Strict):
    """One thing done to the student, and how it recovers."""

    prune: Prune | None = None
    sparsify: Sparsify | None = None
    factorise: Factorise | None = None
    quantize: Quantize | None = None
    recover: Recover = Recover(epochs=0)

    @field_validator("prune", mode="before")
    @classmethod
    def _ratio_alone(cls, value: Any) -> Any:
        return {"ratio": float(value)} if _number(value) else value

    @field_validator("sparsify", mode="before")
    @classmethod
    def _amount_alone(cls, value: Any) -> Any:
        return {"amount": float(value)} if _number(value) else {"pattern": value} if isinstance(value, str) else value

    @field_validator("factorise", mode="before")
    @classmethod
    def _energy_alone(cls, value: Any) -> Any:
        return {"energy": float(value)} if _number(value) else {"method": value} if isinstance(value, str) else value

    @field_validator("quantize", mode="before")
    @classmethod
    def _bits_alone(cls, value: Any) -> Any:
        return {"weights": value} if _number(value) else value

    @field_validator("recover", mode="before")
    @classmethod
    def _epochs_alone(cls, value: Any) -> Any:
        return {"epochs": value} if _number(value) else value

    @model_validator(mode="after")
    def _one_thing(self) -> Step:
        given = [name for name in ("prune", "sparsify", "factorise", "quantize") if getattr(self, name) is not None]
        if len(given) != 1:
            named = "has " + " and ".join(given) if given else "has none"
            raise ValueError(f"a step is one of prune, sparsify, factorise and quantize; this one {named}")
        if self.quantize and not self.recover.epochs:
            raise ValueError("quantization-aware training is training: give `recover`, its number of epochs")
        return self

    @property
    def rounds(self) -> int:
        """How often it is done, with recovery after each."""
        return self.prune.steps if self.prune else 1


class Budget(Strict):
    """What the smallest model must keep to; a chain of steps is searched for that does, on validation.

    Attributes:
        accuracy_drop: how much of the main metric of the uncompressed student may be lost: a difference of accuracies
            (or what else is the main metric of classes and labels), a share of the error for regression.
        size_kb: of the file.
        latency_ms: of one sample on one thread.
        runtime: whose files size, latency and metric are those of; how many bits they have is searched.
        trials: how many chains are tried.
        recover: epochs after each step of a trial, and of the chain that is found.
    """

    accuracy_drop: Annotated[float, Field(ge=0, lt=1)] = 0.01
    size_kb: Positive | None = None
    latency_ms: Positive | None = None
    runtime: Literal["litert", "onnx", "executorch", "openvino"] = "litert"
    trials: Count = 20
    recover: Recover = Recover(epochs=2)

    @field_validator("recover", mode="before")
    @classmethod
    def _epochs_alone(cls, value: Any) -> Any:
        return {"epochs": value} if _number(value) else value


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
