"""Where a network comes from: what the text after `model:` means, read once."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import PurePath
from typing import ClassVar

ESTIMATORS = ("sklearn", "xgboost", "lightgbm")  # libraries of what is fitted rather than trained
CALLABLE = "callable"


@dataclass(frozen=True, slots=True)
class FileKind:
    """A kind of whole models in files.

    Attributes:
        name: of the library or format.
        suffixes: by which it is known.
        runs_code: whether opening one may run code that stands in it.
        keyed: whether it answers for the rows of the data set alone, known by their number.
        trainable: whether it is a network that can be trained further.
    """

    name: str
    suffixes: tuple[str, ...]
    runs_code: bool = False
    keyed: bool = False
    trainable: bool = False


KINDS = (
    FileKind("onnx", (".onnx",)),
    FileKind("litert", (".tflite",)),
    FileKind("exported", (".pt2",), runs_code=True),
    FileKind("keras", (".keras", ".h5"), trainable=True),
    FileKind("skops", (".skops",)),
    FileKind("pickle", (".joblib", ".pkl"), runs_code=True),
    FileKind("xgboost", (".ubj", ".json")),
    FileKind("lightgbm", (".txt",)),
    FileKind("stored", (".npy", ".npz", ".csv", ".parquet"), keyed=True),
)
FILES = {suffix: kind for kind in KINDS for suffix in kind.suffixes}


@dataclass(frozen=True, slots=True)
class Reference:
    """A network of this package, by name."""

    name: str
    external: ClassVar[bool] = False  # made elsewhere
    fixed: ClassVar[bool] = False  # it can only be asked, or fitted by its own rules
    keyed: ClassVar[bool] = False  # it answers for the rows of the data set as they are, known by their number
    runs_code: ClassVar[bool] = False  # making it may run code of the user's
    without_effect: ClassVar[tuple[str, ...]] = ("outputs", "classes")  # keys of a recipe


@dataclass(frozen=True, slots=True)
class Timm(Reference):
    """A model of timm, as `timm/NAME`."""


@dataclass(frozen=True, slots=True)
class KerasApplication(Reference):
    """A model of keras.applications, as `keras/NAME`."""


@dataclass(frozen=True, slots=True)
class Code:
    """What a function in a file of Python makes, as `PATH.py:FUNCTION`."""

    path: str
    function: str
    external: ClassVar[bool] = True
    fixed: ClassVar[bool] = False
    keyed: ClassVar[bool] = False
    runs_code: ClassVar[bool] = True
    without_effect: ClassVar[tuple[str, ...]] = ("pretrained",)


@dataclass(frozen=True, slots=True)
class ModelFile:
    """A whole model in a file, or stored predictions."""

    path: str
    kind: FileKind
    external: ClassVar[bool] = True

    @property
    def fixed(self) -> bool:
        """Whether it can only be asked."""
        return not self.kind.trainable

    @property
    def keyed(self) -> bool:
        """Whether it answers for the rows of the data set alone."""
        return self.kind.keyed

    @property
    def runs_code(self) -> bool:
        """Whether opening it may run code."""
        return self.kind.runs_code

    @property
    def without_effect(self) -> tuple[str, ...]:
        """Keys of a recipe that cannot do anything for it."""
        built = ("options", "weights", "pretrained")
        return (*built, "preprocess", "mean", "std") if self.keyed else built


@dataclass(frozen=True, slots=True)
class Estimator:
    """What is fitted on the training rows by its own rules, as `sklearn/NAME`."""

    library: str
    name: str
    external: ClassVar[bool] = True
    fixed: ClassVar[bool] = True
    keyed: ClassVar[bool] = True
    runs_code: ClassVar[bool] = False
    without_effect: ClassVar[tuple[str, ...]] = (
        "weights", "pretrained", "preprocess", "mean", "std", "classes", "outputs",
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Function:
    """A function that is given in Python, as `callable`."""

    external: ClassVar[bool] = True
    fixed: ClassVar[bool] = True
    keyed: ClassVar[bool] = False
    runs_code: ClassVar[bool] = False
    without_effect: ClassVar[tuple[str, ...]] = ("options", "weights", "pretrained")


ModelSource = Reference | Code | ModelFile | Estimator | Function


@lru_cache(1024)
def read_model(text: str) -> ModelSource:
    """Where a network comes from.

    Example:
        >>> read_model("forest.skops").kind.name
        'skops'
        >>> read_model("timm/resnet18")
        Timm(name='resnet18')
    """
    if re.search(r"\.py:\w+$", text):
        path, _, function = text.rpartition(":")
        return Code(path, function)
    if kind := FILES.get(PurePath(text).suffix.lower()):
        return ModelFile(text, kind)
    if text == CALLABLE:
        return Function()
    library, _, name = text.partition("/")
    if library in ESTIMATORS:
        return Estimator(library, name)
    if library == "timm":
        return Timm(name)
    return KerasApplication(name) if library == "keras" else Reference(text)
