"""Encoded bytes to RGB pixels, or a reason why not. Nothing in here trusts the bytes.

Type and size are read from the header before any pixel is decoded, so a tiny file that claims 60000 x
60000 pixels costs nothing. JPEG goes through libjpeg-turbo (simplejpeg) in strict mode: where the
library would warn and go on (data cut short, codes that make no sense), the image is refused. Other
types, and JPEG in CMYK, go through Pillow. `torchvision.io` is not used: on PNGs that libpng rejects it
ends the process with a segmentation fault.
"""

from __future__ import annotations

import io
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import numpy as np
import simplejpeg
from PIL import Image, ImageFile, UnidentifiedImageError

ORIENTATION_TAG = 0x0112

# EXIF orientation -> (swap the axes first, then reverse rows, then reverse columns).
ORIENTATIONS = {
    2: (False, False, True),
    3: (False, True, True),
    4: (False, True, False),
    5: (True, False, False),
    6: (True, False, True),
    7: (True, True, True),
    8: (True, True, False),
}

JPEG_STARTS_SCAN = 0xDA
JPEG_APP1 = 0xE1


class UnreadableImage(ValueError):
    """Bytes that cannot be decoded as an image that is whole and small enough."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def decode_rgb(encoded: bytes, *, pixels_max: int, shorter_side_min: int = 0) -> np.ndarray:
    """Decode an image as it is meant to be seen.

    JPEG, PNG, WebP, GIF (first frame) and BMP, told apart by their first bytes, never by a file name.
    EXIF orientation is applied. Transparent pixels are composited on white. Grey becomes three equal
    channels, and 16-bit grey is scaled by 255/65535, not clipped.

    Args:
        encoded: bytes of the file.
        pixels_max: largest height * width; checked on the header, before memory is reserved.
        shorter_side_min: a JPEG may come at 1/2, 1/4 or 1/8 of its size, as far as its shorter side keeps
            this many pixels: half the time for large photos. 0: never.

    Returns:
        (height, width, 3) uint8, C-contiguous.

    Raises:
        UnreadableImage: not one of these types, too large, cut short or corrupt. Changed bytes that
            still decode without complaint cannot be told from a photo; only a checksum beside the
            image could.
    """
    image_type = _sniff(encoded)
    if image_type == "JPEG":
        return _decode_jpeg(encoded, pixels_max, shorter_side_min)
    return _decode_with_pillow(encoded, image_type, pixels_max)


def _sniff(encoded: bytes) -> str:
    if encoded.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if encoded.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if encoded.startswith(b"RIFF") and encoded[8:12] == b"WEBP":
        return "WEBP"
    if encoded.startswith((b"GIF87a", b"GIF89a")):
        return "GIF"
    if encoded.startswith(b"BM"):
        return "BMP"
    if not encoded:
        raise UnreadableImage("empty: 0 bytes")
    raise UnreadableImage(f"not a JPEG, PNG, WebP, GIF or BMP: starts with {encoded[:8]!r}")


def check_pixels(width: int, height: int, pixels_max: int) -> None:
    """Refuse what a header claims, before memory is reserved for it.

    Raises:
        UnreadableImage: no pixel, or more than `pixels_max`.
    """
    if width < 1 or height < 1:
        raise UnreadableImage(f"header claims {width}x{height} pixels")
    if width * height > pixels_max:
        raise UnreadableImage(
            f"header claims {width}x{height} pixels, more than image_pixels_max {pixels_max}"
        )


def _decode_jpeg(encoded: bytes, pixels_max: int, shorter_side_min: int) -> np.ndarray:
    try:
        height, width, colourspace, _ = simplejpeg.decode_jpeg_header(encoded)
    except ValueError as error:
        raise UnreadableImage("JPEG without a readable header") from error
    check_pixels(width, height, pixels_max)
    inks = colourspace in ("CMYK", "YCCK")
    # Only powers of two: libjpeg-turbo also knows eighths between them, slower and further from the photo.
    factors = [factor for factor in (2, 4, 8) if min(height, width) >= factor * shorter_side_min > 0]
    rows_min, columns_min = (-(-height // factors[-1]), -(-width // factors[-1])) if factors else (0, 0)
    try:
        pixels = simplejpeg.decode_jpeg(
            encoded, "CMYK" if inks else "RGB", min_height=rows_min, min_width=columns_min
        )
    except ValueError as error:
        kind = "truncated" if str(error).startswith("Premature end") else "corrupt"
        raise UnreadableImage(f"{kind} JPEG ({error})") from error
    if inks:
        # Whole, as just seen; Pillow decodes it again because it knows Adobe's inverted inks.
        return _decode_with_pillow(encoded, "JPEG", pixels_max)
    exif = _jpeg_exif(encoded)
    return pixels if exif is None else _turned_upright(pixels, exif)


def _jpeg_exif(encoded: bytes) -> bytes | None:
    """The first EXIF block in front of the pixel data, by walking the marker segments."""
    position = 2
    while position + 4 <= len(encoded) and encoded[position] == 0xFF:
        marker = encoded[position + 1]
        if marker == 0xFF:  # padding
            position += 1
            continue
        if marker == JPEG_STARTS_SCAN:
            return None
        end = position + 2 + int.from_bytes(encoded[position + 2 : position + 4], "big")
        if marker == JPEG_APP1 and encoded.startswith(b"Exif\0\0", position + 4):
            return encoded[position + 4 : end]
        position = end
    return None


def _turned_upright(pixels: np.ndarray, exif: bytes) -> np.ndarray:
    """`pixels` after the EXIF orientation; unchanged where the EXIF block itself is broken."""
    tags = Image.Exif()
    try:
        with pillow_strict:  # without its warning of "Corrupt EXIF data": the pixels are fine
            tags.load(exif)
            orientation = tags.get(ORIENTATION_TAG)
    except Exception:  # any parse error of untrusted metadata
        return pixels
    if orientation not in ORIENTATIONS:
        return pixels
    swap, reverse_rows, reverse_columns = ORIENTATIONS[orientation]
    turned = pixels.transpose(1, 0, 2) if swap else pixels
    turned = turned[:: -1 if reverse_rows else 1, :: -1 if reverse_columns else 1]
    return np.ascontiguousarray(turned)


@contextmanager
def _strict_settings() -> Iterator[None]:
    size_limit, truncated = Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES
    Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES = None, False
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"PIL\.")
            yield
    finally:
        Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES = size_limit, truncated


class _PillowStrict:
    """See `pillow_strict`. Pillow's settings are the process's: the last thread to leave puts them back."""

    def __init__(self) -> None:
        self._lock, self._inside, self._settings = threading.Lock(), 0, ExitStack()

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._settings.enter_context(_strict_settings())
            self._inside += 1

    def __exit__(self, *exc: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                self._settings.close()


pillow_strict = _PillowStrict()
"""A context in which Pillow has our own limits instead of its process-wide ones, in all threads.

Its size guard would warn below our limit, or refuse above its own; ours is applied right after the header is
read. A library that turned LOAD_TRUNCATED_IMAGES on would make it fill in half images. Its warnings concern
metadata (EXIF, palettes, animation), never missing pixels: those are errors.
"""


def _decode_with_pillow(encoded: bytes, image_type: str, pixels_max: int) -> np.ndarray:
    try:
        with pillow_strict, Image.open(io.BytesIO(encoded), formats=[image_type]) as image:
            check_pixels(*image.size, pixels_max)
            image.load()
            pixels = np.array(_as_rgb(image))
            exif = image.info.get("exif")
    except (UnreadableImage, MemoryError):
        raise
    except UnidentifiedImageError as error:
        raise UnreadableImage(f"{image_type} without a readable header") from error
    except Exception as error:  # Pillow's readers raise some ten types on bad bytes
        kind = "truncated" if "truncated" in str(error) else "corrupt"
        raise UnreadableImage(f"{kind} {image_type} ({type(error).__name__}: {error})") from error
    return pixels if exif is None else _turned_upright(pixels, exif)


def _as_rgb(image: Image.Image) -> Image.Image:
    """Any mode to RGB: alpha on white, 16-bit grey scaled; modes without a known range are refused."""
    if image.mode == "I" or image.mode.startswith("I;16"):
        grey16 = np.asarray(image).astype(np.int64)
        if grey16.size and not 0 <= grey16.min() <= grey16.max() <= 65535:
            raise UnreadableImage(f"mode {image.mode} with values outside 0..65535")
        return Image.fromarray(((grey16 + 128) // 257).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise UnreadableImage("mode F: floating point pixels have no known range")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, layer).convert("RGB")
    return image.convert("RGB")
