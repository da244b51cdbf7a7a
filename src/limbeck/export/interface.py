"""What a file takes: floats or raw bytes, channels first or last, how many rows at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from limbeck.core.errors import UserError, did_you_mean

LARGEST_BATCH = 64  # rows one call gets at most: ExecuTorch files are planned for it, and the others need no more

Rows = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class Interface:
    """What a file takes.

    Attributes:
        input: `float32` takes what the network takes, pixels in [0, 1] or a table's columns; `uint8` takes raw bytes,
            and divides them by 255 inside.
        layout: of images, and of logits of pixels: [B, channels, H, W] or [B, H, W, channels].
        batches: of LiteRT files: one signature for each number of rows, `b1`, `b64`; all share their weights. The other
            formats take any number of rows up to 64 whatever stands here.
    """

    input: Literal["float32", "uint8"] = "float32"
    layout: Literal["nchw", "nhwc"] = "nchw"
    batches: tuple[int, ...] = (1,)

    def __post_init__(self) -> None:
        for name, value, known in (
            ("input", self.input, ("float32", "uint8")),
            ("layout", self.layout, ("nchw", "nhwc")),
        ):
            if value not in known:
                raise UserError(f"unknown {name} {value!r}", where="export", hint=did_you_mean(str(value), known))
        wrong = [b for b in self.batches if isinstance(b, bool) or not isinstance(b, int) or b < 1]
        if wrong or not self.batches or len(set(self.batches)) < len(self.batches):
            raise UserError(
                f"batches {list(self.batches)!r} cannot be made", where="export", hint="whole numbers from 1, each once"
            )


def as_given(x: Rows, interface: Interface) -> Rows:
    """Rows as the file takes them, of rows as the network takes them: float32 [N, ...], bytes as multiples of 1/255."""
    rows = np.asarray(x, dtype=np.float32)
    if interface.layout == "nhwc" and rows.ndim == 4:
        rows = rows.transpose(0, 2, 3, 1)
    if interface.input == "uint8":
        rows = np.rint(rows * 255).clip(0, 255).astype(np.uint8)
    return np.ascontiguousarray(rows)


def classes_last(outputs: Rows, interface: Interface) -> Rows:
    """What a file gives in the normal form, [N, ..., C]: it has the classes of pixels first, but with `nhwc`."""
    return outputs.transpose(0, 2, 3, 1) if outputs.ndim == 4 and interface.layout == "nchw" else outputs


def as_seen(rows: Rows, interface: Interface) -> Rows:
    """Rows as the network behind the file sees them, of rows as the file takes them: the inverse of `as_given`."""
    x = np.asarray(rows)
    if interface.input == "uint8":
        x = x.astype(np.float32) / np.float32(255)
    if interface.layout == "nhwc" and x.ndim == 4:
        x = x.transpose(0, 3, 1, 2)
    return np.ascontiguousarray(x, dtype=np.float32)
