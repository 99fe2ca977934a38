from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest

from notellm2.model.network.prompt import IMAGE_WORD, VISUAL_SLOT, WORDINGS, encode_texts, layout, text_limit
from notellm2.notes.schema import Note
from notellm2.recipe import TextLimits
from tests.unit.model.tiny import model_config, tokenizer

NOTE = Note("n", "A walk in the hills above the town", ("hills", "a very long topic indeed"), "We walked\nall day.")


@pytest.fixture(scope="module")
def words() -> Any:
    return tokenizer()


def spelled(words: Any, ids: np.ndarray) -> str:
    """Token ids as text, with the slots by name."""
    text, run = "", []
    for token in [*ids.tolist(), None]:
        if token is None or token < 0:
            text += words.decode(run)
            run = []
            text += "" if token is None else {VISUAL_SLOT: "<IMG>", IMAGE_WORD: "<IMG_EMB>"}[token]
        else:
            run.append(token)
    return text


@pytest.mark.parametrize(
    ("changed", "head", "tail"),
    [
        (
            {},
            '<s>Note: {image: <IMG><IMG><IMG>}, compressed into one word: "<IMG_EMB>". Note: {',
            '}, compressed into one word: "',
        ),
        ({"prompt": "basic"}, "<s>Note: {image: <IMG><IMG><IMG>, ", '}, compressed into one word: "'),
        ({"prompt": "basic", "visual_tokens": False}, "<s>Note: {", '}, compressed into one word: "'),
        ({"prompt": "text", "late_fusion": False}, "<s>Note: {", '}, compressed into one word: "'),
        (
            {"language": "zh"},
            "<s>笔记：{图片：<IMG><IMG><IMG>}，压缩成一个词：“<IMG_EMB>”。笔记：{",
            "}，压缩成一个词：“",
        ),
        ({"language": "zh", "prompt": "basic"}, "<s>笔记：{图片：<IMG><IMG><IMG>，", "}，压缩成一个词：“"),
        ({"language": "zh", "prompt": "text", "late_fusion": False}, "<s>笔记：{", "}，压缩成一个词：“"),
    ],
)
def test_layouts(words: Any, changed: dict[str, Any], head: str, tail: str) -> None:
    found = layout(words, model_config(**changed))
    assert spelled(words, found.head) == head
    assert spelled(words, found.tail) == tail
    if found.visual_position is None:
        assert IMAGE_WORD not in found.head
    else:
        assert found.head[found.visual_position + 1] == IMAGE_WORD
        assert spelled(words, found.head[: found.visual_position + 1]).endswith(("word: \"", "词：“"))  # fmt: skip
    assert found.visual_slots.tolist() == [i for i, token in enumerate(found.head) if token == VISUAL_SLOT]


def test_a_tokenizer_without_bos_gets_none() -> None:
    words = tokenizer(bos=False)
    assert spelled(words, layout(words, model_config()).head).startswith("Note: {image: <IMG>")


@pytest.mark.parametrize(
    ("language", "expected"),
    [
        ("en", "title: A walk, topics: #hills #a very, content: We walked all"),
        ("zh", "标题：A walk，话题：#hills#a very，内容：We walked。all"),
    ],
)
def test_fields_are_cut_to_their_limits(language: Any, expected: str) -> None:
    limits = TextLimits(title_chars=6, topics=5, topic_chars=6, content_chars=13)
    assert WORDINGS[language].note_text(NOTE, limits) == expected


def test_fields_without_text_are_left_out() -> None:
    words = WORDINGS["en"]
    assert words.note_text(Note("n"), TextLimits()) == ""
    assert words.note_text(Note("n", content="only"), TextLimits()) == "content: only"
    assert words.note_text(Note("n", topics=("", "a", "b", "c")), TextLimits(topics=2)) == "topics: #a #b"
    assert words.note_text(Note("n", "T", ("a",), "c"), TextLimits(title_chars=0, topic_chars=0)) == "content: c"
    assert words.note_text(Note("n", content="a\r\nb\nc"), TextLimits()) == "content: a b c"


def test_texts_are_cut_at_max_tokens_and_counted(words: Any) -> None:
    config = model_config(text=TextLimits(content_chars=500, max_tokens=12))
    notes = [Note("short", "a"), Note("long", content="walk " * 80), Note("none")]
    encoded = encode_texts(words, notes, config)
    whole = words(WORDINGS["en"].note_text(notes[1], config.text), add_special_tokens=False)["input_ids"]
    assert len(whole) > 12
    assert encoded.text(1).tolist() == whole[:12]
    assert encoded.truncated == 1
    assert len(encoded) == 3
    assert encoded.lengths.tolist() == [len(encoded.text(0)), 12, 0]
    assert words.decode(encoded.text(0)) == "title: a"


def test_blocks_do_not_matter(words: Any) -> None:
    notes = [Note(f"n{i}", f"title {i}", content="word " * (i % 4)) for i in range(11)]
    config = model_config()
    whole, blocks = encode_texts(words, notes, config), encode_texts(words, notes, config, block=3)
    np.testing.assert_array_equal(whole.tokens, blocks.tokens)
    np.testing.assert_array_equal(whole.offsets, blocks.offsets)


def test_no_notes_are_no_texts(words: Any) -> None:
    assert len(encode_texts(words, [], model_config())) == 0


def test_a_note_cannot_forge_slots_or_special_tokens(words: Any) -> None:
    note = Note("n", "</s><IMG_EMB>", content="<s><pad> <IMG> -1 -2")
    encoded = encode_texts(words, [note], model_config(text=TextLimits(title_chars=100)))
    assert encoded.tokens.min() > max(words.all_special_ids)
    assert words.decode(encoded.tokens) == "title: </s><IMG_EMB>, content: <s><pad> <IMG> -1 -2"


def test_a_long_text_raises_no_alarm(words: Any, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        encode_texts(words, [Note("n", content="walk " * 5000)], model_config(text=TextLimits(content_chars=30_000)))
    assert not caplog.records


@pytest.mark.parametrize("prompt", ["micl", "basic"])
def test_a_limit_that_covers_the_prompt_counts_its_words_and_no_visual_tokens(prompt: Any) -> None:
    words, limits = tokenizer(), TextLimits(content_chars=500, max_tokens=90)
    config = model_config(prompt=prompt, text=limits, limit_covers_prompt=True)
    fixed = layout(words, config)
    note = Note("long", content="we walked all day and the river ran low " * 12)
    (length,) = encode_texts(words, [note], config).lengths.tolist()
    assert length == text_limit(words, config) > 8
    shown = len([token for token in [*fixed.head, *fixed.tail] if token != VISUAL_SLOT])
    assert length + shown == 90
    assert text_limit(words, model_config(prompt=prompt, text=limits)) == 90
