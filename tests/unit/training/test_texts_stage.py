from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from transformers import AutoTokenizer

from notellm2.artifacts import Store
from notellm2.model.network.prompt import encode_texts
from notellm2.recipe import TextLimits
from notellm2.training import texts_stage
from notellm2.training.texts_stage import token_texts, tokenizer_digest
from tests.unit.model.tiny import tokenizer
from tests.unit.training.small_run import MD5, MODEL, Stages


def test_tokens_from_the_store_are_those_of_the_notes(stages: Stages, tmp_path: Path) -> None:
    words = tokenizer()
    store = Store(tmp_path)
    expected = encode_texts(words, stages.dataset.texts(), MODEL)
    for _ in range(2):  # made, then found
        found = token_texts(store, stages.dataset, MD5, words, MODEL)
        np.testing.assert_array_equal(found.tokens, expected.tokens)
        np.testing.assert_array_equal(found.offsets, expected.offsets)
        assert found.truncated == expected.truncated
    assert isinstance(found.tokens, np.memmap)


def test_they_are_made_once_for_all_that_read_them_alike(
    stages: Stages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A variant, another width and a tokenizer that was saved and loaded share them; other limits or data do not."""
    made = []
    monkeypatch.setattr(texts_stage, "encode_texts", lambda *a: made.append(a[2]) or encode_texts(*a))
    store, words = Store(tmp_path / "store"), tokenizer()
    words.save_pretrained(tmp_path / "words")
    loaded = AutoTokenizer.from_pretrained(tmp_path / "words")
    words(["padded", "and truncated to the longest"], padding=True, truncation=True, max_length=3)
    variant = MODEL.model_copy(update={"prompt": "text", "late_fusion": False, "dim": 4, "tuning": "full"})
    for model, one in ((MODEL, words), (variant, words), (MODEL, loaded)):
        token_texts(store, stages.dataset, MD5, one, model)
    assert len(made) == 1
    token_texts(store, stages.dataset, MD5, words, MODEL.model_copy(update={"text": TextLimits(content_chars=7)}))
    token_texts(store, stages.dataset, MD5, words, MODEL.model_copy(update={"language": "zh"}))
    token_texts(store, stages.dataset, "f" * 32, words, MODEL)
    token_texts(store, stages.dataset, MD5, tokenizer(bos=False), MODEL)
    assert len(made) == 4, "the texts hold no special tokens: the last one reads them alike"


def test_another_vocabulary_is_another_tokenizer() -> None:
    words = tokenizer()
    before = tokenizer_digest(words)
    assert before == tokenizer_digest(tokenizer())
    words.add_tokens(["walked"])
    assert tokenizer_digest(words) != before
    assert tokenizer_digest(object()) is None
