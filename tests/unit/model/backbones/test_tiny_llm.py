from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from notellm2.artifacts import digest_tree
from notellm2.errors import InputError
from notellm2.model.backbones.load import load_language_model
from notellm2.model.backbones.tiny_llm import build_tiny_llm
from notellm2.recipe import TinyLLMConfig

TEXTS = [f"Note: {{title: walk {i % 5}, content: over hill and river {i % 3}}}" for i in range(40)] + ["", "短文"]
CONFIG = TinyLLMConfig(vocabulary=320, width=16, layers=1, heads=2, steps=12, batch=8, lr=1e-2)


def test_a_built_one_loads_as_any_other_and_has_learnt(tmp_path: Path) -> None:
    seen = []
    figures = build_tiny_llm(TEXTS, tmp_path / "llm", CONFIG, 0, lambda step, loss: seen.append((step, loss)))
    language = load_language_model(str(tmp_path / "llm"))
    assert language.model(input_ids=torch.tensor([[3, 4]])).last_hidden_state.shape == (1, 2, 16)
    assert language.tokenizer.bos_token == "<s>"
    assert language.tokenizer.pad_token_id == 0
    for text in ("walk on 山", "line\nbreak", '}, compressed into one word: "'):
        assert language.tokenizer.decode(language.tokenizer(text, add_special_tokens=False)["input_ids"]) == text
    assert [step for step, _ in seen] == list(range(1, 13))
    assert figures["vocabulary"] <= 320
    assert figures["first_loss"] == seen[0][1] == pytest.approx(math.log(figures["vocabulary"]), rel=0.1)
    assert seen[-1][1] < figures["first_loss"] - 0.3


def test_the_seed_decides_every_byte(tmp_path: Path) -> None:
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        build_tiny_llm(TEXTS, tmp_path / name, CONFIG, seed)
        torch.rand(7)  # whatever else the process draws must not matter
    assert digest_tree(tmp_path / "a") == digest_tree(tmp_path / "b")
    assert digest_tree(tmp_path / "a") != digest_tree(tmp_path / "c")


@pytest.mark.parametrize("steps", [0, 1, 2])
def test_short_trainings_work(steps: int, tmp_path: Path) -> None:
    figures = build_tiny_llm(TEXTS, tmp_path, CONFIG.model_copy(update={"steps": steps}), 0)
    assert ("last_loss" in figures) == (steps > 0)
    assert all(math.isfinite(value) for value in figures.values())
    load_language_model(str(tmp_path))


def test_nothing_to_read_and_sizes_that_do_not_fit_are_input_errors(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no text to train on"):
        build_tiny_llm(["", " "], tmp_path, CONFIG, 0)
    with pytest.raises(InputError, match=r"width \(18\).*heads \(4\)"):
        build_tiny_llm(TEXTS, tmp_path, CONFIG.model_copy(update={"width": 18, "heads": 4}), 0)
