from __future__ import annotations

import io
import struct
import warnings
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from notellm2.notes.images import FORMATS, ImageProblem, decode_image
from notellm2.recipe import ImageLimits
from tests.unit.notes.exports import encoded, picture

LIMITS = ImageLimits()


def _reason(data: bytes, limits: ImageLimits = LIMITS) -> str:
    with pytest.raises(ImageProblem) as caught:
        decode_image(data, limits)
    assert caught.value.detail
    return caught.value.reason


@pytest.mark.parametrize("kind", FORMATS)
def test_each_format_becomes_rgb_of_its_size(kind: str) -> None:
    image = decode_image(encoded(kind, (9, 5)), LIMITS)
    assert (image.mode, image.size) == ("RGB", (9, 5))
    assert np.abs(np.asarray(image)[2, 3].astype(int) - (200, 30, 60)).max() <= 4


@pytest.mark.parametrize("kind", FORMATS)
def test_every_cut_of_a_file_is_a_problem_or_the_whole_picture(kind: str) -> None:
    whole = picture(3, kind)
    pixels = np.asarray(decode_image(whole, LIMITS))
    reasons = set()
    for length in range(0, len(whole) - 16, max(len(whole) // 60, 1)):
        try:
            image = decode_image(whole[:length], LIMITS)
        except ImageProblem as problem:
            reasons.add(problem.reason)
        else:
            assert np.array_equal(np.asarray(image), pixels), f"{kind} cut at {length} gave other pixels"
    assert "truncated" in reasons
    assert reasons <= {"truncated", "broken", "not-an-image"}


@pytest.mark.parametrize("kind", FORMATS)
def test_half_a_file_is_truncated(kind: str) -> None:
    whole = picture(1, kind, (64, 64))
    assert _reason(whole[: len(whole) // 2]) == "truncated"


@pytest.mark.parametrize(
    "data",
    [
        b"hello, no image",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"%PDF-1.7",
        b"\0" * 100,
        b"PK\x03\x04" + b"x" * 50,
    ],
)
def test_what_is_no_image(data: bytes) -> None:
    assert _reason(data) == "not-an-image"


def test_a_format_that_is_not_listed_is_no_image() -> None:
    assert _reason(encoded("TIFF")) == "not-an-image"


def test_an_empty_file_is_truncated() -> None:
    assert _reason(b"") == "truncated"


def test_a_damaged_file_is_broken() -> None:
    whole = bytearray(encoded("PNG", (64, 64)))
    start = whole.index(b"IDAT") + 4
    whole[start : start + 12] = b"\xff" * 12
    assert _reason(bytes(whole)) == "broken"


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP"])
def test_an_animation_is_refused(kind: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue", "green")]
    sink = io.BytesIO()
    frames[0].save(sink, kind, save_all=True, append_images=frames[1:], duration=50)
    assert _reason(sink.getvalue()) == "animated"


def test_a_photograph_with_further_pictures_counts_as_its_first() -> None:
    sink = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(sink, "MPO", save_all=True, append_images=[Image.new("RGB", (4, 4), "blue")])
    image = decode_image(sink.getvalue(), LIMITS)
    assert image.size == (8, 8)
    assert image.getpixel((0, 0))[0] > 240  # type: ignore[index]


def test_too_many_bytes_are_refused_unseen() -> None:
    data = encoded("BMP")
    assert _reason(data, ImageLimits(max_bytes=len(data) - 1)) == "oversized-bytes"
    assert decode_image(data, ImageLimits(max_bytes=len(data))).size == (8, 6)


def test_pixels_are_counted_by_the_header_before_anything_is_decoded() -> None:
    data = encoded("PNG", (8, 6))
    assert _reason(data, ImageLimits(max_pixels=47)) == "oversized-pixels"
    assert decode_image(data, ImageLimits(max_pixels=48)).size == (8, 6)


@pytest.mark.parametrize("side", [7_000, 11_000, 60_000])
def test_a_decompression_bomb_is_refused_without_warning_or_pixels(side: int) -> None:
    # 7,000: above our limit; 11,000: above Pillow's warning; 60,000: above its error. No pixel data at all behind.
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    data = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    data += struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert _reason(data) == "oversized-pixels"


def test_exif_orientation_is_respected() -> None:
    image = Image.new("RGB", (20, 10), "white")
    image.paste("black", (0, 0, 10, 10))  # left half black
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by 90 degrees clockwise: the left half comes up
    sink = io.BytesIO()
    image.save(sink, "JPEG", exif=exif, quality=95)
    upright = np.asarray(decode_image(sink.getvalue(), LIMITS))
    assert upright.shape == (20, 10, 3)
    assert upright[2].mean() < 20
    assert upright[17].mean() > 235


def test_damaged_metadata_do_not_cost_the_picture() -> None:
    sink = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(sink, "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\x7fgarbage")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert decode_image(sink.getvalue(), LIMITS).size == (8, 8)


def test_transparency_is_laid_on_white() -> None:
    assert decode_image(encoded("PNG", colour=(0, 0, 0, 0), mode="RGBA"), LIMITS).getpixel((0, 0)) == (255, 255, 255)
    half = decode_image(encoded("PNG", colour=(0, 0, 0, 128), mode="RGBA"), LIMITS).getpixel((0, 0))
    assert half == (127, 127, 127)
    assert decode_image(encoded("PNG", colour=(0, 0), mode="LA"), LIMITS).getpixel((0, 0)) == (255, 255, 255)


def test_a_transparent_palette_colour_is_white() -> None:
    image = Image.new("P", (4, 4), 1)
    image.putpalette([0, 0, 0, 10, 20, 30])
    image.putpixel((0, 0), 0)
    sink = io.BytesIO()
    image.save(sink, "PNG", transparency=0)
    decoded = decode_image(sink.getvalue(), LIMITS)
    assert (decoded.getpixel((0, 0)), decoded.getpixel((1, 1))) == ((255, 255, 255), (10, 20, 30))


def test_sixteen_bit_grey_keeps_its_brightness() -> None:
    image = decode_image(encoded("PNG", colour=128 * 256, mode="I;16"), LIMITS)
    assert image.getpixel((0, 0)) == (128, 128, 128)


@pytest.mark.parametrize(("mode", "colour"), [("L", 90), ("1", 1), ("P", 0)])
def test_grey_and_palette_become_rgb(mode: str, colour: int) -> None:
    assert decode_image(encoded("PNG", colour=colour, mode=mode), LIMITS).mode == "RGB"


def test_cmyk_becomes_rgb() -> None:
    image = decode_image(encoded("JPEG", (16, 16), colour=(0, 255, 255, 0), mode="CMYK"), LIMITS)
    red, green, blue = image.getpixel((4, 4))  # type: ignore[misc]
    assert red > 200
    assert max(green, blue) < 60


_SEEDS = [picture(2, kind, (16, 16)) for kind in FORMATS]


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(_SEEDS), st.lists(st.tuples(st.integers(0, 3000), st.integers(0, 255)), max_size=12), st.randoms()
)
def test_damaged_bytes_give_a_picture_or_a_problem_and_nothing_else(seed, changes, random) -> None:  # type: ignore[no-untyped-def]
    data = bytearray(seed)
    for place, value in changes:
        data[place % len(data)] = value
    if random.random() < 0.3:
        del data[random.randrange(len(data)) :]
    try:
        found = decode_image(bytes(data), ImageLimits(max_pixels=100_000)).mode
    except ImageProblem as problem:
        found = problem.reason
    assert found in {"RGB", "not-an-image", "broken", "truncated", "animated", "oversized-pixels"}
