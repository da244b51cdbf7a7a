"""Image files as arrays of bytes."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from limbeck.core.errors import UserError

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp"})
FORMATS = ("PNG", "JPEG", "WEBP", "BMP")
BACKGROUNDS = {"white": 255, "black": 0, "grey": 128}


def read_images(paths: Sequence[Path], shape: tuple[int, ...], background: str = "white") -> NDArray[np.uint8]:
    """Images as uint8 [B, channels, H, W], prepared as those of a folder are.

    Args:
        paths: of the images.
        shape: of one, [channels, H, W]; H and W are the same.
        background: what shows through transparent parts.

    Raises:
        UserError: one cannot be read.
    """
    channels, height, width = shape
    if height != width or channels not in (1, 3):
        raise UserError(f"images of shape {tuple(shape)} are not made from files", hint="square ones are, grey or RGB")
    found = []
    with guarded():
        for path in paths:
            image = decode(path, height, channels, background)
            if isinstance(image, str):
                raise UserError(f"cannot be read ({image})", where=str(path), hint="give PNG, JPEG, WebP or BMP")
            found.append(image)
    return np.stack(found) if found else np.zeros((0, *shape), np.uint8)


def decode(path: Path, size: int, channels: int, background: str) -> NDArray[np.uint8] | str:
    """The image as uint8 [channels, size, size], or the reason why it cannot be read.

    Turned as its EXIF orientation says; transparent parts show `background`; 16-bit grey keeps its high byte (rounded);
    resized with antialiasing, without keeping the aspect ratio. Call it within `guarded`.
    """
    try:
        with Image.open(path, formats=FORMATS) as opened:
            image = _plain(opened, BACKGROUNDS[background]).convert("RGB" if channels == 3 else "L")
        if image.size != (size, size):
            image = image.resize((size, size), Image.Resampling.BILINEAR)
    except Exception as error:  # damaged files make decoders raise nearly anything
        return reason(path, error)
    array = np.asarray(image)
    return array[None] if channels == 1 else np.ascontiguousarray(array.transpose(2, 0, 1))


def image_size(path: Path) -> tuple[int, int]:
    """(width, height) of an image, upright; call it for what could be read."""
    with Image.open(path, formats=FORMATS) as image:
        return ImageOps.exif_transpose(image).size


def probe(path: Path) -> tuple[str, str, tuple[int, int]] | str:
    """Format, mode and (width, height) of an image that can be decoded, or the reason why it cannot be."""
    try:
        with Image.open(path, formats=FORMATS) as image:
            found = str(image.format), image.mode, image.size
            image.load()
            return found
    except Exception as error:
        return reason(path, error)


def reason(path: Path, error: Exception) -> str:
    """Why a file cannot be read, in a few words."""
    with contextlib.suppress(OSError):
        if path.stat().st_size == 0:
            return "empty file"
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        return "decompression bomb: far too many pixels"
    if isinstance(error, UnidentifiedImageError):
        return "not a PNG, JPEG, WebP or BMP image"
    return str(error) or type(error).__name__


@contextlib.contextmanager
def guarded() -> Iterator[None]:
    """Within it a suspiciously large image is an error, and Pillow's other warnings are quiet.

    Filters belong to the process, not to a thread: enter it once, outside of any pool.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def _plain(image: Image.Image, background: int) -> Image.Image:
    """Upright, 8 bits a channel and opaque."""
    if image.mode.startswith("I"):
        image = _eight_bits(image)
    with contextlib.suppress(Exception):  # broken EXIF does not make an image unreadable
        image = ImageOps.exif_transpose(image)
    if not image.has_transparency_data:
        return image
    image = image.convert("RGBA")
    opaque = Image.new("RGBA", image.size, (background, background, background, 255))
    return Image.alpha_composite(opaque, image)


def _eight_bits(image: Image.Image) -> Image.Image:
    """16-bit grey as 8-bit grey: a plain conversion would clip everything above 255 to white."""
    values = np.asarray(image).astype(np.int64)
    grey = Image.fromarray(np.clip((values + 128) // 257, 0, 255).astype(np.uint8))
    clear = image.info.get("transparency")
    if clear is None:
        return grey
    grey.putalpha(Image.fromarray(np.where(values == clear, 0, 255).astype(np.uint8)))
    return grey
