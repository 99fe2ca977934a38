"""Safe image decoding: bounded in bytes and pixels, a fixed list of formats, one RGB picture or a named reason.

Every image of the project, at import as in training and serving, is decoded here, so that a hostile or damaged file
costs one `ImageProblem` and never a worker. The size in the header is judged before a single pixel is decoded.
"""

from __future__ import annotations

import io
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from PIL import Image, UnidentifiedImageError

from notellm2.recipe import ImageLimits

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
"""What is decoded; Pillow's other readers are never tried, since each one is more surface for an attack."""

_ORIENTATION_TAG = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_PNG_END = b"IEND"


class ImageProblem(ValueError):
    """An image that cannot be used.

    Attributes:
        reason: one of not-an-image, broken, truncated, animated, oversized-bytes, oversized-pixels; the importer adds
            missing, outside-folder, not-a-file and unreadable.
        detail: what is wrong, for a person.
    """

    def __init__(self, reason: str, detail: str):
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


def decode_image(data: bytes, limits: ImageLimits) -> Image.Image:
    """Decode one encoded image to RGB, upright by its EXIF orientation, transparency laid on white.

    Palette, grey, CMYK and 16-bit images become 8-bit RGB. A JPEG that carries further pictures (MPO, as some
    cameras write) counts as its first one.

    Args:
        data: the encoded file.
        limits: most bytes of the file and most pixels of the picture.

    Returns:
        A loaded image of mode RGB.

    Raises:
        ImageProblem: it cannot be used, with the reason.
    """
    if len(data) > limits.max_bytes:
        raise ImageProblem("oversized-bytes", f"{len(data)} bytes, at most {limits.max_bytes} are read")
    try:
        with _quiet(), Image.open(io.BytesIO(data), formats=FORMATS) as image:
            width, height = image.size
            if width * height > limits.max_pixels:
                raise ImageProblem(
                    "oversized-pixels", f"{width} x {height} pixels, at most {limits.max_pixels} are decoded"
                )
            if image.format != "MPO" and getattr(image, "is_animated", False):
                raise ImageProblem("animated", f"{image.format} with several frames; a note has one still image")
            if image.format == "PNG" and _PNG_END not in data[-64:] and _PNG_END not in data:
                raise ImageProblem("truncated", "PNG without its end marker")
            image.load()
            return _rgb(_upright(image))
    except ImageProblem:
        raise
    except Image.DecompressionBombError as error:
        raise ImageProblem("oversized-pixels", str(error)) from None
    except UnidentifiedImageError:
        raise _unidentified(data) from None
    except Exception as error:
        # On damaged bytes decoders raise nearly everything (OSError, SyntaxError, struct.error, ValueError, ...);
        # what they say is kept, and the caller has one type to deal with.
        text = str(error) or type(error).__name__
        cut = isinstance(error, EOFError) or "truncat" in text.lower() or _ends_early(data)
        raise ImageProblem("truncated" if cut else "broken", text) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """No warnings from Pillow: what matters (too many pixels) is a problem here, the rest (odd metadata) is not.

    Warning filters are shared by threads; that is why only Pillow's are touched.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        yield


def _unidentified(data: bytes) -> ImageProblem:
    if not data:
        return ImageProblem("truncated", "an empty file")
    if data.startswith((b"\xff\xd8\xff", b"\x89PNG\r\n", b"GIF8")) or (data[:4] == b"RIFF" and data[8:12] == b"WEBP"):
        return ImageProblem("truncated" if _ends_early(data) else "broken", "its header cannot be read")
    return ImageProblem("not-an-image", f"no {', '.join(FORMATS[:-1])} or {FORMATS[-1]} by its first bytes")


def _ends_early(data: bytes) -> bool:
    """Whether the file misses the end that its format prescribes."""
    if data.startswith(b"\xff\xd8"):
        return b"\xff\xd9" not in data[2:]
    if data.startswith(b"\x89PNG"):
        return _PNG_END not in data
    if data.startswith(b"GIF8"):
        return not data.rstrip(b"\0").endswith(b";")
    if data.startswith(b"RIFF") and len(data) >= 8:
        return bool(struct.unpack("<I", data[4:8])[0] + 8 > len(data))
    return False


def _upright(image: Image.Image) -> Image.Image:
    try:
        orientation = image.getexif().get(_ORIENTATION_TAG)
    except (SyntaxError, ValueError, OSError, struct.error, KeyError, TypeError, IndexError):
        return image  # damaged metadata beside sound pixels: the picture is usable as it lies
    method = _UPRIGHT.get(orientation) if isinstance(orientation, int) else None
    return image if method is None else image.transpose(method)


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        # Pillow clips 16-bit grey to white when it converts; the high byte is the picture.
        high = np.asarray(image).astype(np.int64) >> 8
        image = Image.fromarray(np.clip(high, 0, 255).astype(np.uint8))
    if image.has_transparency_data:
        layers = image.convert("RGBA")
        paper = Image.new("RGB", layers.size, (255, 255, 255))
        paper.paste(layers, mask=layers.getchannel("A"))
        return paper
    return image.convert("RGB")
