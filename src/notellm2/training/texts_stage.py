"""Stage "texts": the notes' own texts as tokens, made once for every run that reads them alike."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from notellm2.artifacts import Store
from notellm2.model.network.prompt import EncodedTexts, encode_texts, text_limit
from notellm2.notes.dataset import Dataset
from notellm2.recipe import ModelConfig

STAGE, VERSION = "texts", 1


def token_texts(store: Store, dataset: Dataset, data_md5: str, tokenizer: Any, model: ModelConfig) -> EncodedTexts:
    """Encode the data set's texts as tokens, in its order; from the store if any run has made them.

    They depend on the data, the tokenizer, the prompt's language and the text limits, and on nothing else of a recipe:
    variants, sweeps, retrains and the embedding of all notes share them.

    Files: ``tokens.npy`` int32[T] and ``offsets.npy`` int64[N + 1], see `EncodedTexts`; the tokens are memory-mapped.

    Args:
        store: where the artifact goes.
        dataset: the notes.
        data_md5: its version.
        tokenizer: of the LLM (transformers', which only the room model imports).
        model: its language and text limits count.
    """

    def write(folder: Path) -> dict[str, Any]:
        texts = encode_texts(tokenizer, dataset.texts(), model)
        np.save(folder / "tokens.npy", texts.tokens)
        np.save(folder / "offsets.npy", texts.offsets)
        return {"notes": len(texts), "tokens": len(texts.tokens), "truncated": texts.truncated}

    digest = tokenizer_digest(tokenizer)
    if digest is None:
        return encode_texts(tokenizer, dataset.texts(), model)
    limits = model.text.model_copy(update={"max_tokens": text_limit(tokenizer, model)})
    config = {"language": model.language, "text": limits.model_dump(mode="json")}
    made = store.build(STAGE, VERSION, config, {"data": data_md5, "tokenizer": digest}, write)
    return EncodedTexts(
        np.load(made.file("tokens.npy"), mmap_mode="r"),
        np.load(made.file("offsets.npy")),
        int(made.summary["truncated"]),
    )


def tokenizer_digest(tokenizer: Any) -> str | None:
    """Compute the SHA-256 (hex) of what a fast tokenizer does to a text; None if it cannot be written as JSON."""
    backend: Any = getattr(tokenizer, "backend_tokenizer", None)
    if not hasattr(backend, "to_str"):
        return None
    rules = json.loads(backend.to_str())
    # What the last call asked for; texts here are neither padded nor truncated by the tokenizer.
    rules = {name: value for name, value in rules.items() if name not in ("padding", "truncation")}
    return hashlib.sha256(json.dumps(rules, sort_keys=True).encode()).hexdigest()
