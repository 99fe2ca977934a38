"""Frozen features that reach the embedding past the LLM."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from notellm2.model.network.notellm2 import NoteBatch
from notellm2.model.network.shortcuts import UNUSED, Shortcuts, TokenRuns, image_grid, token_runs
from notellm2.recipe import ModelConfig, ShortcutsConfig
from tests.unit.model.tiny import VISION

FIRST = 2


def _runs(texts: list[list[int]], longest: int = 3) -> list[set[int]]:
    """Codes of each text's runs, the texts between a head of two tokens and a tail of one."""
    length = FIRST + max(map(len, texts)) + 1
    tokens = torch.zeros(len(texts), length, dtype=torch.int64)
    for row, text in zip(tokens, texts, strict=True):
        row[:FIRST], row[FIRST : FIRST + len(text)], row[FIRST + len(text)] = 7, torch.tensor(text), 9
    end = torch.tensor([FIRST + len(text) for text in texts])
    found: list[set[int]] = [set() for _ in texts]
    for codes, inside in token_runs(tokens, FIRST, end, longest):
        for note, kept in enumerate(found):
            kept |= set(codes[note][inside[note]].tolist())
    return found


def test_equal_runs_have_equal_codes_wherever_they_stand() -> None:
    first, second, other = _runs([[3, 4, 5], [8, 3, 4, 5], [5, 4, 3]])
    assert first < second
    assert len(first) == 6
    # The three single tokens, and nothing that has an order.
    assert len(first & other) == 3


def test_runs_do_not_reach_into_the_prompt() -> None:
    (one,), (two,) = _runs([[3]]), _runs([[3, 3]], longest=1)
    assert one == two


def test_features_are_tf_idf_of_length_one() -> None:
    runs = TokenRuns(1, 4, 2)
    known = sorted(_runs([[3, 4, 5]], longest=1)[0])
    with torch.no_grad():
        runs.codes[:3] = torch.tensor(known)
        runs.rarity[:3] = torch.tensor([1.0, 2.0, 3.0])
    text = [3, 3, 5, 6]
    tokens = torch.tensor([[7, 7, *text, 9]])
    counts = Counter(text)
    expected = np.array([(1 + math.log(counts[3])) * 1, 0, 3, 0])
    found = runs.features(tokens, FIRST, torch.tensor([FIRST + len(text)]))
    np.testing.assert_allclose(found[0].numpy(), expected / np.linalg.norm(expected), rtol=1e-6)


def test_unused_rows_of_the_vocabulary_stand_for_nothing() -> None:
    runs = TokenRuns(2, 8, 2)
    assert (runs.codes == UNUSED).all()
    assert not runs.features(torch.tensor([[7, 7, 1, 2, 9]]), FIRST, torch.tensor([4])).any()


def test_the_grid_is_the_mean_and_the_mean_of_each_cell() -> None:
    patches = torch.arange(16.0).view(1, 16, 1)
    vision = torch.cat([torch.full((1, 1, 1), 99.0), patches], 1)
    assert image_grid(vision, 2)[0].tolist() == [7.5, 2.5, 4.5, 10.5, 12.5]
    assert image_grid(vision, 1)[0].tolist() == [7.5, 7.5]


def test_patches_of_no_square_have_no_cells() -> None:
    vision = torch.cat([torch.zeros(1, 1, 2), torch.ones(1, 3, 2)], 1)
    assert image_grid(vision, 2)[0].tolist() == [1.0] * 10


def test_a_note_without_image_gets_nothing_from_the_image_shortcut() -> None:
    from notellm2.model.network.prompt import Layout

    config = ModelConfig(dim=4, shortcuts=ShortcutsConfig(image_grid=1))
    shortcuts = Shortcuts(config, Layout(np.zeros(2, np.int32), np.zeros(1, np.int32), None), VISION[1])
    assert shortcuts.image is not None
    with torch.no_grad():
        shortcuts.image.bias.fill_(1.0)
    vision = torch.zeros(2, *VISION)
    vision[1] = 1.0
    batch = NoteBatch(torch.zeros(2, 4, dtype=torch.int64), torch.tensor([3, 3]), vision)
    found = shortcuts(batch.tokens_BL, batch.last_B, batch.vision_BPV)
    assert found.tolist() == [[0.0] * 4, [1.0] * 4]


def test_the_text_variant_reads_no_image_by_its_shortcut() -> None:
    config = ModelConfig(shortcuts=ShortcutsConfig(image_grid=2, runs=3))
    assert config.image_shortcut
    text = config.variant("text")
    assert not text.image_shortcut
    assert not text.reads_images
    assert text.shortcuts.runs == 3


@pytest.mark.parametrize("other", [{"centre": False}, {"head": "none", "start": "random", "log_scale": 3.0}])
def test_shortcuts_need_a_centred_head(other: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match="shortcuts"):
        ModelConfig.model_validate({"shortcuts": {"runs": 2}, **other})


def test_what_was_recorded_before_has_none(tmp_path: Path) -> None:
    recorded = {name: value for name, value in ModelConfig().model_dump().items() if name != "shortcuts"}
    assert not ModelConfig.model_validate(recorded).shortcuts.on
