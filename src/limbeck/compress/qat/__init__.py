"""Quantization-aware training: a network learns with its numbers quantized, and becomes an integer file."""

from limbeck.compress.qat.lower import lower_qat
from limbeck.compress.qat.prepare import FakeQuantized, prepare_qat

__all__ = ["FakeQuantized", "lower_qat", "prepare_qat"]
