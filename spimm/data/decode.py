"""One image file, of any of the usual kinds, as 8-bit RGB pixels that stand upright.

| stored | becomes |
|---|---|
| 16 bits (grey, RGB; PNG, TIFF, PGM, JPEG 2000) | 8 bits: 65535 is 255 |
| floating point (TIFF, PFM) | 0..1 times 255; whole numbers in 0..255 as they are; refused otherwise |
| 32-bit integers, 16-bit signed ones | whole numbers in 0..255 as they are; refused otherwise |
| black and white, palette, CMYK, YCbCr | RGB |
| transparency | laid over white |
| EXIF orientation | applied |
| several frames (GIF, TIFF, WebP, APNG) | the first, said once |
"""

import io
import logging
import struct
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, features

from spimm.reading import require_regular

logger = logging.getLogger("spimm.data")

_PHOTOS = (".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".avif", ".jp2")
_DRAWINGS = (".png", ".apng", ".bmp", ".dib", ".ppm", ".pgm", ".pbm", ".pnm", ".pfm", ".tif", ".tiff", ".gif")
# Tried in this order. Others, such as EPS, would start other programs.
_FORMATS = ("JPEG", "PNG", "BMP", "DIB", "GIF", "PPM", "TIFF", "WEBP", "JPEG2000", "AVIF")
# Stored as integers of 32 bits by PIL and known to be of 16.
_SIXTEEN_BIT = ("PNG", "PPM")
WHITE = (255, 255, 255, 255)
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation -> what turns the image upright."""


class CorruptImage(ValueError):
    """A file that cannot be decoded as an image."""


@cache
def suffixes() -> tuple[str, ...]:
    """Ends of the names of files that are read as images here; `.avif` where PIL was built with it."""
    return tuple(suffix for suffix in (*_PHOTOS, *_DRAWINGS) if suffix != ".avif" or "AVIF" in _formats())


@cache
def tell_of_frames(what: str) -> None:
    """Says once for each `what` that its first frame is taken."""
    logger.warning("%s has several frames: of such images the first frame is read", what)


def decode(path: str | Path, *, several: Callable[[str], object] = tell_of_frames) -> Image.Image:
    """The image as RGB, see the table above. several: called with the path of an image of several frames.

    CorruptImage names the file that cannot be decoded.
    """
    try:
        return open_rgb(path, several=several)
    except ValueError as error:
        raise CorruptImage(f"{path} cannot be decoded as an image: {error}; corrupt=skip leaves such out") from error


def open_rgb(
    file: str | Path | io.BytesIO,
    *,
    formats: tuple[str, ...] | None = None,
    several: Callable[[str], object] = tell_of_frames,
) -> Image.Image:
    """`decode` of a path or an open file. formats: PIL's names of those to try. ValueError where it cannot be read."""
    try:
        if not isinstance(file, io.IOBase):
            require_regular(file)
        with Image.open(file, formats=formats or _formats()) as image:
            frames = image.format not in ("JPEG", "MPO") and getattr(image, "is_animated", False)
            image.load()
            rgb = _upright(_rgb(_eight_bits(image)), image)
    except FileNotFoundError:
        raise
    except (
        OSError,
        SyntaxError,
        EOFError,
        struct.error,
        Image.DecompressionBombError,
        RuntimeError,
        MemoryError,
    ) as error:
        raise ValueError(str(error) or "it needs more memory than there is") from error
    if frames:
        several(str(file))
    return rgb


@cache
def _formats() -> tuple[str, ...]:
    return tuple(name for name in _FORMATS if name != "AVIF" or "avif" in features.get_supported())


def _upright(pixels: Image.Image, image: Image.Image) -> Image.Image:
    """`pixels` turned as the EXIF data of `image` says; damaged EXIF data says nothing."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            turn = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except (OSError, SyntaxError, ValueError, EOFError, struct.error):
        return pixels
    return pixels if turn is None else pixels.transpose(turn)


def _eight_bits(image: Image.Image) -> Image.Image:
    """Grey images of more than 8 bits as 8 bits, others as they are. PIL itself cuts colours of 16 bits to 8.

    What a TIFF or PNG says of its numbers beside their size, PIL leaves to be looked at here.
    """
    bits, signed, white_is_zero = _tiff(image)
    clear = image.info.get("transparency")
    if signed and image.mode in ("L", "P"):
        raise ValueError("its values are signed bytes, expected unsigned ones (or 16 bits a pixel)")
    if white_is_zero and image.mode in ("I", "F"):
        raise ValueError(f"its values are of mode {image.mode} with white as 0, expected black as 0 (or 8 or 16 bits)")
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in _SIXTEEN_BIT):
        most = 2**bits - 1
        values = np.asarray(image).astype(np.uint32)
        grey = np.minimum((values * 255 + most // 2) // most, 255)
        grey = 255 - grey if white_is_zero else grey
        grey = np.where(values == clear, 255, grey) if isinstance(clear, int) else grey
    elif image.mode in ("I", "F"):
        values = np.asarray(image)
        low, high = values.min(), values.max()
        if image.mode == "F" and low >= 0 and high <= 1:
            grey = np.rint(values * 255)
        elif low >= 0 and high <= 255 and bool((values == np.rint(values)).all()):
            grey = values
        else:
            known = "0..1, or whole numbers in 0..255" if image.mode == "F" else "0..255"
            raise ValueError(f"its values go from {low:.6g} to {high:.6g}, expected {known} (or 8 or 16 bits a pixel)")
    else:
        return image
    return Image.fromarray(grey.astype(np.uint8))


def _tiff(image: Image.Image) -> tuple[int, bool, bool]:
    """Bits of a grey value, whether it is signed, and whether 0 is white; of other files than TIFF 16, no, no."""
    tags = getattr(image, "tag_v2", None) if image.format == "TIFF" else None
    if tags is None:
        return 16, False, False
    bits, kinds = (tags.get(tag, default) for tag, default in ((258, (16,)), (339, (1,))))
    first = int(bits[0]) if isinstance(bits, tuple) else int(bits)
    signed = 2 in (kinds if isinstance(kinds, tuple) else (kinds,))
    return (first if 8 < first <= 16 else 16), signed, tags.get(262) == 0


def _rgb(image: Image.Image) -> Image.Image:
    if not image.mode.endswith(("A", "a")) and "transparency" not in image.info:
        return image.convert("RGB")
    layers = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layers.size, WHITE), layers).convert("RGB")
