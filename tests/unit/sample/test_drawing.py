"""The sample's pictures: every motif in every style, told apart by what they show and not by their colours."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from notellm2.sample.drawing import SIZE, STYLES, draw
from notellm2.sample.motifs import DRAWINGS, MOTIFS


def picture(seed: int, motif: str, style: str) -> np.ndarray:
    data = draw(np.random.Generator(np.random.PCG64(seed)), motif, style)
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"), dtype=np.float64)


@pytest.mark.parametrize("motif", MOTIFS)
def test_layers_stay_inside_the_square(motif: str) -> None:
    points = [point for layer in DRAWINGS[motif]() for point in layer.points]
    assert len(points) > 10
    assert max(abs(value) for point in points for value in point) <= 1.0
    assert all(round(value, 4) == value for point in points for value in point)


@pytest.mark.parametrize("style", STYLES)
def test_a_style_draws_every_motif_visibly(style: str) -> None:
    for number, motif in enumerate(MOTIFS):
        pixels = picture(number, motif, style)
        assert pixels.shape == (SIZE, SIZE, 3)
        # Contrast between the picture's parts, after 8-pixel averaging: what a small vision encoder gets to see.
        coarse = pixels.reshape(SIZE // 8, 8, SIZE // 8, 8, 3).mean(axis=(1, 3))
        assert coarse.std(axis=(0, 1)).max() > 8, (motif, style)


def test_the_same_random_numbers_give_the_same_bytes_and_others_do_not() -> None:
    def one(seed: int) -> bytes:
        return draw(np.random.Generator(np.random.PCG64(seed)), "fish", "wash")

    assert one(1) == one(1)
    assert one(1) != one(2)


def test_style_and_motif_change_the_picture_when_all_else_is_equal() -> None:
    seen = {picture(5, motif, style).tobytes() for motif in ("sun", "cup") for style in STYLES}
    assert len(seen) == 2 * len(STYLES)
