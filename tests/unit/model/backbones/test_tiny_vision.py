from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from notellm2.artifacts import digest_tree
from notellm2.errors import InputError
from notellm2.model.backbones.load import load_vision_encoder
from notellm2.model.backbones.tiny_vision import VisionCorpus, build_tiny_vision
from notellm2.recipe import TinyVisionConfig

CONFIG = TinyVisionConfig(image_px=16, patch_px=8, width=16, layers=1, heads=2, steps=10, batch=8, lr=3e-3)
GROUPS = np.arange(24) % 8
IMAGES = np.repeat(np.random.default_rng(0).integers(0, 256, (8, 1, 1, 3), dtype=np.uint8), 16, 1).repeat(16, 2)[GROUPS]
TEXTS = [np.array([g, g + 8], np.int32) if i % 5 else np.zeros(0, np.int32) for i, g in enumerate(GROUPS)]


def build(folder: Path, seed: int = 0, **changed: Any) -> dict[str, float]:
    return build_tiny_vision(VisionCorpus(IMAGES, TEXTS, 20), folder, CONFIG.model_copy(update=changed), seed)


def test_a_built_one_loads_as_any_other(tmp_path: Path) -> None:
    figures = build(tmp_path)
    assert all(math.isfinite(value) for value in figures.values())
    vision = load_vision_encoder(str(tmp_path))
    assert (vision.tokens, vision.width) == (5, 16)
    red, blue = (Image.new("RGB", (50, 20), colour) for colour in ((255, 0, 0), (0, 0, 255)))
    features = vision.features([red, blue])
    assert float((features[0] - features[1]).abs().max()) > 1e-2
    pixels = vision.processor([red], return_tensors="pt")["pixel_values"]
    assert pixels.shape == (1, 3, 16, 16)
    torch.testing.assert_close(pixels[0, :, 0, 0], torch.tensor([1.0, -1.0, -1.0]))  # as the training saw it


def test_it_learns_to_tell_images_apart(tmp_path: Path) -> None:
    losses: list[float] = []
    build_tiny_vision(
        VisionCorpus(IMAGES, TEXTS, 20),
        tmp_path,
        CONFIG.model_copy(update={"steps": 60}),
        0,
        lambda step, loss: losses.append(loss),
    )
    assert np.mean(losses[-10:]) < np.mean(losses[:5]) - 0.3


def test_the_seed_decides_every_byte(tmp_path: Path) -> None:
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        build(tmp_path / name, seed, steps=3)
        torch.rand(7)
    assert digest_tree(tmp_path / "a") == digest_tree(tmp_path / "b")
    assert digest_tree(tmp_path / "a") != digest_tree(tmp_path / "c")


@pytest.mark.parametrize("steps", [0, 1, 2])
def test_short_trainings_work(steps: int, tmp_path: Path) -> None:
    assert bool(build(tmp_path, steps=steps)) == (steps > 0)
    load_vision_encoder(str(tmp_path))


def test_images_without_any_text_will_do(tmp_path: Path) -> None:
    figures = build_tiny_vision(VisionCorpus(IMAGES, [np.zeros(0, np.int32)] * 24, 20), tmp_path, CONFIG, 0)
    assert math.isfinite(figures["last_loss"])


def test_too_few_images_and_sizes_that_do_not_fit_are_input_errors(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="fewer than two images"):
        build_tiny_vision(VisionCorpus(IMAGES[:1], TEXTS[:1], 20), tmp_path, CONFIG, 0)
    with pytest.raises(InputError, match="multiple of patch_px"):
        build(tmp_path, patch_px=7)
    with pytest.raises(InputError, match=r"width \(18\) of heads \(4\)"):
        build(tmp_path, width=18, heads=4)
