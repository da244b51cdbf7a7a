"""The nouns every other room speaks.

Shape letters, one legend for the whole project: B batch, C classes, K outputs, H W space, M members,
S/T student/teacher width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from torch import Tensor

IGNORED = -100  # PyTorch's label for "no label here"
Kind = Literal["classification", "multilabel", "regression", "segmentation"]
Predicts = Literal["classes", "labels", "values"]  # one class of C, a yes or no to each of C labels, K values
THRESHOLD = 0.5  # a label is said to be there where its probability is above it, the logit above 0
VOID = 255  # what a mask of bytes has where a pixel has no label (PASCAL VOC, Cityscapes)
UNLABELLED = -1  # the class index of a row without a label; measured values and yes or no have NaN
Framework = Literal["torch", "keras"]
Role = Literal[
    "teacher", "assistant", "student", "direct", "generation", "peer", "distilled", "compared",
    "compressed", "compressed-alone", "exported",
]  # fmt: skip
FileForm = Literal["onnx", "litert", "executorch", "openvino", "keras"]
ModelForm = Literal["pytorch", FileForm]


@dataclass(frozen=True, slots=True)
class Task:
    """What is predicted: a class out of `names`, a yes or no for each of `names`, or a value for each.

    Attributes:
        kind: classification, multilabel, regression or segmentation.
        names: of the classes, labels or values.
        predicts_variance: whether networks give K means, and then K logarithms of variances.
        weights: what each class counts in the losses on labels; empty where all count alike.
    """

    kind: Kind
    names: tuple[str, ...]
    predicts_variance: bool = False
    weights: tuple[float, ...] = ()

    @property
    def width(self) -> int:
        """How many things are told apart: C classes or labels, or K values."""
        return len(self.names)

    @property
    def outputs(self) -> int:
        """How many numbers a network's head gives."""
        return 2 * self.width if self.predicts_variance else self.width


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table as the user has it: numbers, or words out of `categories`.

    Attributes:
        name: of the column.
        categories: the words in the order of their inputs, of which the row's own is 1 and the others 0; None for a
            column of numbers, which is one input.
    """

    name: str
    categories: tuple[str, ...] | None = None

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the inputs it becomes."""
        if self.categories is None:
            return (self.name,)
        return tuple(f"{self.name}={word}" for word in self.categories)


@dataclass(frozen=True, slots=True)
class Batch:
    """Some rows of a data set, as the networks see them.

    Attributes:
        x: inputs, float32: pixels in [0, 1] as [B, channels, H, W], or table columns as [B, columns]; or token ids
            int64 [B, L].
        y: class indices int64 [B], or of each token int64 [B, L] or pixel int64 [B, H, W], -100 where there is none;
            class shares float32 [B, C] after mixup or cutmix; 1 for the labels a row has and 0 for the others, float32
            [B, C]; or standardised regression targets float32 [B, K]. A row without a label has `UNLABELLED`, or NaN.
        index: int64 [B], the row of each sample in the data set.
        view: which augmented view of the rows this is.
    """

    x: Tensor
    y: Tensor
    index: Tensor
    view: int = 0


@dataclass(frozen=True, slots=True)
class Output:
    """What a network, a teacher, an ensemble or a cache gives for a batch.

    Attributes:
        prediction: logits [B, C], or of each token [B, L, C] or pixel [B, H, W, C]; or values [B, K].
        features: tap name -> [B, ...].
    """

    prediction: Tensor
    features: Mapping[str, Tensor] = field(default_factory=dict)


Teacher = Callable[[Batch], Output]
Fetch = Callable[["Tensor", int], Batch]  # (rows int64 [B], view) -> Batch: that view of those rows
Loss = Callable[["Tensor", "Tensor", "Tensor"], "Tensor"]  # (student, teacher, target) -> scalar


@dataclass(frozen=True, slots=True)
class Cost:
    """What a model costs to ship and to run.

    Attributes:
        params: number of parameters, None where the format does not say.
        macs: multiply-accumulates for one sample.
        size_bytes: size of the file, None for what has none.
        latency_ms: median time for one sample on one thread, in milliseconds.
        fastest_ms: the shortest of these times.
        batch_ms: median time for 64 samples on one thread, in milliseconds.
        memory_mb: what a process that runs it takes at its peak, above the runtime with nothing loaded.
    """

    params: int | None
    macs: int | None
    size_bytes: int | None
    latency_ms: float | None
    fastest_ms: float | None = None
    batch_ms: float | None = None
    memory_mb: float | None = None


@dataclass(frozen=True, slots=True)
class Parity:
    """How far an exported file is from the PyTorch model it was made from, on real rows.

    Attributes:
        max_abs_error: largest difference of any output.
        agreement: share of rows with the same predicted class or labels; None for regression.
    """

    max_abs_error: float
    agreement: float | None


@dataclass(frozen=True, slots=True)
class Artifact:
    """One model and what was measured of it; a row of `models` in result.json.

    An ensemble has no file of its own, and a model from elsewhere none in the run directory.

    Attributes:
        precision: of a file's numbers: float32, fp16, int8, w8 or w4.
        source: the network that a file was made of.
        notes: what the user must be told.
        variant: of a student, its name in `compare` or `compress`, or "budget"; "" for that of `losses`.
        number: of a generation or a peer.
    """

    name: str
    role: Role
    seed: int | None
    format: ModelForm
    file: str | None
    metrics: Mapping[str, Any]
    cost: Cost
    parity: Parity | None = None
    precision: str = "float32"
    source: str | None = None
    notes: tuple[str, ...] = ()
    variant: str = ""
    number: int | None = None
