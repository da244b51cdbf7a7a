"""Masks as pictures: the colours of classes, palette PNGs, and images beside what was made of them."""

from __future__ import annotations

import colorsys
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from limbeck.core.errors import UserError
from limbeck.core.files import write_bytes

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image as Picture

    Array = np.ndarray[Any, Any]

GOLDEN = 0.618033988749895  # of a turn: hues that follow each other so are never close
MOST_CLASSES = 256  # of a palette
SHADED = 0.55  # how much of a pixel's colour on a picture is its class's


def colours(count: int) -> list[tuple[int, int, int]]:
    """A colour for each class, 0 to 255 each: the first is black, as background is in PASCAL VOC's masks."""
    found = [(0, 0, 0)]
    for n in range(1, count):
        red, green, blue = colorsys.hsv_to_rgb((0.02 + (n - 1) * GOLDEN) % 1, 0.75, 0.95 if n % 2 else 0.7)
        found.append((round(255 * red), round(255 * green), round(255 * blue)))
    return found[:count]


def picture(mask: Array, count: int) -> Picture:
    """A mask [H, W] of class numbers as a palette image, whose numbers are the classes.

    Raises:
        UserError: more classes than a palette has colours.
    """
    import numpy as np
    from PIL import Image

    if count > MOST_CLASSES:
        raise UserError(f"{count} classes do not fit a palette, which has {MOST_CLASSES} colours", where="masks")
    made = Image.fromarray(mask.astype(np.uint8)).convert("P")
    made.putpalette([value for colour in colours(count) for value in colour])
    return made


def write_mask(path: Path, mask: Array, count: int, size: tuple[int, int]) -> Path:
    """Write a mask as a palette PNG, in the image's own size.

    Args:
        path: where to.
        mask: class numbers [H, W].
        count: number of classes.
        size: (width, height); pixels take the class of the nearest one.

    Raises:
        UserError: the file is there already, it cannot be written, or there are too many classes.
    """
    from PIL import Image

    if path.exists():
        raise UserError("is there already, and is not overwritten", where=str(path), hint="give another folder")
    buffer = io.BytesIO()
    picture(mask, count).resize(size, Image.Resampling.NEAREST).save(buffer, "PNG")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, buffer.getbuffer())
    return path


def contact_sheet(path: Path, images: Array, masks: Sequence[Array], count: int, *, ignored: int, side: int) -> Path:
    """Write images beside masks over them as one PNG: a row an image, the image alone in the first column.

    Args:
        path: where to; it is replaced.
        images: bytes [N, channels, H, W], of 1 or 3 channels.
        masks: one [N, H, W] a further column: class numbers, or `ignored`, which stays as it is in the image.
        count: number of classes.
        ignored: no class.
        side: of a cell, in pixels at least: small images are enlarged by whole times.
    """
    import numpy as np
    from PIL import Image

    seen = np.repeat(images, 3, axis=1) if images.shape[1] == 1 else images[:, :3]
    plain = seen.transpose(0, 2, 3, 1).astype(np.float32)
    table = np.array(colours(count), dtype=np.float32)
    columns = [plain]
    for mask in masks:
        known = (mask != ignored)[..., None]
        over = (1 - SHADED) * plain + SHADED * table[np.where(mask == ignored, 0, mask)]
        # Background is not shaded: what is found stands out, and the rest stays what it is.
        columns.append(np.where(known & (mask != 0)[..., None], over, plain))
    times = max(1, -(-side // max(images.shape[2:])))
    gap = 4
    cells = np.stack([column.round().astype(np.uint8) for column in columns], axis=1)
    cells = cells.repeat(times, axis=2).repeat(times, axis=3)
    cells = np.pad(cells, ((0, 0), (0, 0), (0, gap), (0, gap), (0, 0)), constant_values=255)
    rows, count_, height, width, _ = cells.shape
    sheet = cells.transpose(0, 2, 1, 3, 4).reshape(rows * height, count_ * width, 3)[:-gap, :-gap]
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(sheet)).save(buffer, "PNG", optimize=True)
    write_bytes(path, buffer.getbuffer())
    return path
