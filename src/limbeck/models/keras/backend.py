"""Keras itself: imported so that it computes with PyTorch, asked on the CPU and in silence."""

from __future__ import annotations

import contextlib
import os
import random
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import torch

from limbeck.core.errors import UserError, require
from limbeck.core.formats import check_installed


def library() -> Any:
    """Keras 3, computing with PyTorch; imported when this is called first.

    Raises:
        UserError: it is not installed, or was imported by somebody else to compute with something else.
    """
    if "keras" not in sys.modules:
        with on_torch(), _quiet():
            require("h5py", extra="keras", purpose="a Keras model")
            require("keras", extra="keras", purpose="a Keras model")
    keras = sys.modules["keras"]
    if not keras.__version__.startswith("3."):
        raise UserError(f"Keras {keras.__version__} is not Keras 3", hint='pip install "limbeck[keras]"')
    if keras.backend.backend() != "torch":
        raise UserError(
            f"Keras was imported before, to compute with {keras.backend.backend()}, and cannot change that",
            where="keras",
            hint="import limbeck first, or set KERAS_BACKEND=torch before `import keras`",
        )
    return keras


@contextlib.contextmanager
def on_torch() -> Iterator[None]:
    """Let Keras compute with PyTorch if it is imported inside, which is when it reads what to compute with."""
    before = os.environ.get("KERAS_BACKEND")
    os.environ["KERAS_BACKEND"] = "torch"
    try:
        yield
    finally:
        if before is None:
            del os.environ["KERAS_BACKEND"]
        else:
            os.environ["KERAS_BACKEND"] = before


def is_keras(model: object) -> bool:
    """Whether something is a model of Keras; it is not imported for that."""
    keras = sys.modules.get("keras")
    return keras is not None and isinstance(model, keras.Model)


def check_keras() -> None:
    """Refuse where Keras is missing, without importing it.

    Raises:
        UserError: the extra `keras` is not installed.
    """
    check_installed(("keras", "h5py"), extra="keras", purpose="a Keras model")


@contextlib.contextmanager
def making(*, drawn: bool = True) -> Iterator[Any]:
    """Make Keras models inside: on the CPU and in silence.

    Keras draws first weights from Python's generator, which is given back as it was.

    Args:
        drawn: that generator is seeded from torch's, so that weights follow from that as they do elsewhere.

    Yields:
        Keras.
    """
    keras = library()
    before = random.getstate()
    if drawn:
        random.seed(int(torch.randint(2**62, ())))
    try:
        with keras.device("cpu"), _quiet():
            yield keras
    finally:
        random.setstate(before)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
