"""Formats of files: what each is called, which precisions it has, and the libraries that make and run it.

Libraries are looked for and not imported: that would take seconds.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple, cast

from limbeck.core.errors import UserError, did_you_mean, require
from limbeck.core.types import FileForm


@dataclass(frozen=True, slots=True)
class Format:
    """A format of files; its name is also that of the extra that brings its libraries.

    How a network becomes such a file stands in `export/formats/NAME/`.

    Attributes:
        title: its name in a sentence.
        runtime: the name of what runs it.
        suffix: of its files.
        makes: libraries that make a float32 file.
        runs: modules that a process which runs its files imports beforehand.
        installs: packages that run its files, for pip.
        beside: suffix of a second file that belongs to each.
        quantizes: libraries that make a quantized file of a float32 one.
        imports: modules that a process for float32 files imports beforehand; none where files are made in this process.
        quantizer_imports: those for quantized files.
        precisions: beside float32.
        searched: those that a search within a budget tries, the smallest files first.
        trained: whether a network that learned quantized can become its int8 file.
    """

    title: str
    runtime: str
    suffix: str
    makes: tuple[str, ...]
    runs: tuple[str, ...]
    installs: str
    beside: str = ""
    quantizes: tuple[str, ...] = ()
    imports: tuple[str, ...] = ()
    quantizer_imports: tuple[str, ...] = ()
    precisions: tuple[str, ...] = ()
    searched: tuple[str, ...] = ()
    trained: bool = False


# In the order of the report's tables.
FORMATS: Mapping[str, Format] = {
    "litert": Format(
        title="LiteRT",
        runtime="LiteRT",
        suffix=".tflite",
        makes=("litert_torch", "ai_edge_litert"),
        runs=("ai_edge_litert.interpreter",),
        installs="ai-edge-litert",
        quantizes=("ai_edge_quantizer", "ai_edge_litert"),
        imports=("litert_torch",),
        quantizer_imports=("ai_edge_quantizer",),
        precisions=("int8", "fp16", "w8", "w4"),
        searched=("int8", "w4", "fp16"),
        trained=True,
    ),
    "onnx": Format(
        title="ONNX",
        runtime="ONNX Runtime",
        suffix=".onnx",
        makes=("onnx", "onnxscript", "onnxruntime"),
        runs=("onnxruntime",),
        installs="onnxruntime",
        quantizes=("onnxruntime", "onnx"),
        imports=("torch.onnx", "onnxscript", "onnxruntime"),
        quantizer_imports=("onnxruntime.quantization",),
        precisions=("int8",),
        searched=("int8",),
        trained=True,
    ),
    "executorch": Format(
        title="ExecuTorch",
        runtime="ExecuTorch",
        suffix=".pte",
        makes=("executorch", "torchao"),
        runs=("torch", "executorch.extension.pybindings._C"),
        installs="executorch",
        quantizes=("executorch", "torchao"),
        imports=("executorch.exir", "executorch.backends.xnnpack.partition.xnnpack_partitioner"),
        quantizer_imports=("torchao.quantization.pt2e.quantize_pt2e",),
        precisions=("int8",),
        searched=("int8",),
        trained=True,
    ),
    "openvino": Format(
        title="OpenVINO",
        runtime="OpenVINO",
        suffix=".xml",
        makes=("openvino",),
        runs=("openvino",),
        installs="openvino",
        beside=".bin",
        quantizes=("openvino", "nncf"),
        imports=("torch", "openvino"),
        quantizer_imports=("nncf",),
        precisions=("int8", "fp16"),
        searched=("int8", "fp16"),
        trained=True,
    ),
    "keras": Format(
        title="Keras",
        runtime="Keras",
        suffix=".keras",
        makes=("keras", "h5py"),
        runs=("torch", "h5py", "keras"),
        installs="keras torch h5py",
    ),
}
QUANTIZED = tuple(f"{form}-{precision}" for form, row in FORMATS.items() for precision in row.precisions)
# What a network that learned quantized can become.
TRAINED = tuple(f"{form}-int8" for form, row in FORMATS.items() if row.trained)


class FileFormat(NamedTuple):
    """What a file is: its format, and the precision of its numbers, float32 unless the name says another."""

    form: FileForm
    precision: str = "float32"


def file_format(name: str) -> FileFormat:
    """What the name of a file's format says.

    Raises:
        UserError: there is no such format.

    Example:
        >>> file_format("litert-int8")
        FileFormat(form='litert', precision='int8')
    """
    form, _, precision = name.partition("-")
    if form not in FORMATS:
        raise UserError(f"unknown format {form!r}", where="export", hint=did_you_mean(form, FORMATS))
    return FileFormat(cast(FileForm, form), precision or "float32")


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
    form = file_format(name).form
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
