"""Formats of files and the libraries that make them, which are looked for and not imported: that would take seconds."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from limbeck.core.errors import require


@dataclass(frozen=True, slots=True)
class Format:
    """A format of files; its name is also that of the extra that brings its libraries.

    Attributes:
        title: its name in a sentence.
        makes: libraries that make a float32 file.
        quantizes: libraries that make a quantized one of it.
        imports: modules that a process for float32 files imports beforehand; none where files are made in this process.
        quantizer_imports: those for quantized files.
    """

    title: str
    makes: tuple[str, ...]
    quantizes: tuple[str, ...] = ()
    imports: tuple[str, ...] = ()
    quantizer_imports: tuple[str, ...] = ()


FORMATS: Mapping[str, Format] = {
    "onnx": Format(
        "ONNX",
        ("onnx", "onnxscript", "onnxruntime"),
        ("onnxruntime", "onnx"),
        ("torch.onnx", "onnxscript", "onnxruntime"),
        ("onnxruntime.quantization",),
    ),
    "litert": Format(
        "LiteRT",
        ("litert_torch", "ai_edge_litert"),
        ("ai_edge_quantizer", "ai_edge_litert"),
        ("litert_torch",),
        ("ai_edge_quantizer",),
    ),
    "executorch": Format(
        "ExecuTorch",
        ("executorch", "torchao"),
        ("executorch", "torchao"),
        ("executorch.exir", "executorch.backends.xnnpack.partition.xnnpack_partitioner"),
        ("torchao.quantization.pt2e.quantize_pt2e",),
    ),
    "openvino": Format("OpenVINO", ("openvino",), ("openvino", "nncf"), ("torch", "openvino"), ("nncf",)),
    "keras": Format("Keras", ("keras", "h5py")),
}


def check_format(form: str) -> None:
    """Refuse where a library that makes float32 files of a format is missing.

    Raises:
        UserError: the extra of its name is not installed.
    """
    check_installed(FORMATS[form].makes, extra=form, purpose=f"export to {FORMATS[form].title}")


def check_quantizer(name: str) -> None:
    """Refuse where a library is missing that makes files of FORMAT-PRECISION, as `litert-int8`.

    Raises:
        UserError: the extra of the format is not installed.
    """
    form = name.partition("-")[0]
    check_format(form)
    check_installed(FORMATS[form].quantizes, extra=form, purpose=f"quantizing to {name}")


def check_installed(modules: Iterable[str], *, extra: str, purpose: str) -> None:
    """Refuse where a library is missing, without importing any: that takes seconds, and some stay in memory for good.

    Raises:
        UserError: one is missing; the message says which extra brings it.
    """
    for module in modules:
        if importlib.util.find_spec(module) is None:
            require(module, extra=extra, purpose=purpose)
