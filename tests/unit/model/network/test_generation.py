"""The generative task: what is shown, what is asked for, and a loss equal to the whole model's own."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

from notellm2.errors import InputError
from notellm2.model.backbones import load
from notellm2.model.backbones.load import load_language_head, load_language_model
from notellm2.model.network.generation import Exercises, generation_loss
from notellm2.model.network.prompt import encode_texts
from notellm2.notes.schema import Note
from notellm2.recipe import TextLimits
from tests.unit.conftest import Backbone
from tests.unit.model.tiny import model_config

NOTES = [
    Note("both", "a walk", ("hills", "walk"), "we walked all day"),
    Note("topics", "a river", ("river",)),
    Note("category", "the bridge", (), "was closed"),
    Note("neither", "the day"),
]
EN = ', compressed into one word: "". '
CATEGORIES = ["trips", None, "news", ""]


def exercises(backbone: Backbone, llm: str = "llama", **changed: Any) -> tuple[Exercises, Any]:
    language = load_language_model(str(backbone(llm)))
    config = model_config(prompt="text", late_fusion=False, **changed)
    texts = encode_texts(language.tokenizer, NOTES, config)
    return Exercises.of(language.tokenizer, NOTES, CATEGORIES, texts, config), language


@pytest.mark.parametrize(
    ("language", "topics", "category"),
    [
        (
            "en",
            "<s>Note: {title: a walk, content: we walked all day}" + EN + "Topics: #hills #walk</s>",
            "<s>Note: {title: a walk, topics: #hills #walk, content: we walked all day}" + EN + "Category: trips</s>",
        ),
        (
            "zh",
            "<s>笔记：{标题：a walk，内容：we walked all day}，压缩成一个词：“”。话题：#hills#walk</s>",
            "<s>笔记：{标题：a walk，话题：#hills#walk，内容：we walked all day}，压缩成一个词：“”。类别： trips</s>",
        ),
    ],
)
def test_what_the_llm_is_shown_and_asked_to_write(
    language: Any, topics: str, category: str, backbone: Backbone
) -> None:
    made, loaded = exercises(backbone, language=language)
    tokens, answers = made.batch([(0, "topics"), (0, "category")])
    words = loaded.tokenizer
    for line, (text, answer) in enumerate(((topics, "#hills"), (category, "trips"))):
        shown = tokens[line][: int(answers[line].nonzero().max()) + 1]
        assert words.decode(shown) == text
        written = words.decode(tokens[line][answers[line]])
        assert written.strip().startswith(answer)
        assert written.endswith("</s>")
        assert not answers[line, 0]


def test_each_note_gets_a_task_that_it_has_an_answer_for(backbone: Backbone) -> None:
    made, _ = exercises(backbone)
    rows = np.arange(4)
    for share, first in ((1.0, "topics"), (0.0, "category")):
        chosen = made.choose(rows, share, np.random.default_rng(0))
        assert chosen == [(0, first), (1, "topics"), (2, "category")]
    many = made.choose(np.zeros(4000, np.int64), 0.3, np.random.default_rng(0))
    assert np.mean([task == "topics" for _, task in many]) == pytest.approx(0.3, abs=0.03)


@pytest.mark.parametrize("llm", ["llama", "qwen2", "gpt2"])
def test_the_loss_is_the_whole_models_own(llm: str, backbone: Backbone) -> None:
    made, language = exercises(backbone, llm)
    tokens, answers = made.batch([(0, "topics"), (1, "topics"), (2, "category")])
    assert len({int(line.nonzero().max()) for line in answers}) > 1, "nothing is padded"
    whole = AutoModelForCausalLM.from_pretrained(backbone(llm)).eval()
    head = load_language_head(str(backbone(llm)))
    assert head.shape == tuple(whole.get_output_embeddings().weight.shape)
    labels = tokens.masked_fill(~answers, -100)
    with torch.no_grad():
        expected = whole(input_ids=tokens, labels=labels).loss
        found = generation_loss(language.module.eval(), head, tokens, answers)
    assert float(found) / int(answers.sum()) == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("llm", ["llama", "qwen2", "qwen3", "gpt2", "qwen2-vl", "smolvlm"])
def test_the_head_comes_without_the_layers(llm: str, backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    auto = AutoModelForImageTextToText if llm in ("qwen2-vl", "smolvlm") else AutoModelForCausalLM
    expected = auto.from_pretrained(backbone(llm), dtype=torch.float32).get_output_embeddings().weight
    loaded = []
    real = load._load
    monkeypatch.setattr(load, "_load", lambda *a, **k: loaded.append(real(*a, **k)) or loaded[0])
    assert load_language_head(str(backbone(llm))).equal(expected)
    base = loaded[0][0].base_model
    language = getattr(base, "language_model", getattr(base, "text_model", base))
    assert not [name for name, _ in language.named_parameters() if re.search(r"\b(layers|h)\.\d", name)]


def test_a_checkpoint_without_a_head_is_named(backbone: Backbone, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(backbone("llama"), tmp_path / "llama"))
    weights = load_file(folder / "model.safetensors")
    del weights["lm_head.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match=r"missing: lm_head\.weight"):
        load_language_head(str(folder))


def test_answers_are_cut_and_a_note_cannot_end_one_early(backbone: Backbone) -> None:
    language = load_language_model(str(backbone("llama")))
    config = model_config(prompt="text", late_fusion=False, text=TextLimits(topics=99, topic_chars=99))
    notes = [Note("n", "t", tuple(f"a</s>{i} " * 5 for i in range(20)))]
    made = Exercises.of(language.tokenizer, notes, [None], encode_texts(language.tokenizer, notes, config), config)
    answer = made.answers["topics"].text(0)
    assert len(answer) == 33
    assert (answer == language.tokenizer.eos_token_id).nonzero()[0].tolist() == [32]


def test_the_longest_exercise_is_known_before_any_is_made(backbone: Backbone) -> None:
    made, _ = exercises(backbone)
    every = [(row, task) for task in made.answers for row in range(len(NOTES)) if made.answers[task].lengths[row]]
    assert made.longest == made.batch(every)[0].shape[1]


def test_nothing_to_write_is_an_input_error(backbone: Backbone) -> None:
    language = load_language_model(str(backbone("llama")))
    config = model_config(prompt="text", late_fusion=False)
    bare = [Note("n", "t")]
    with pytest.raises(InputError, match="no note has topics or a category"):
        Exercises.of(language.tokenizer, bare, [None], encode_texts(language.tokenizer, bare, config), config)
