"""A small causal LM with its own tokenizer, trained on a data set's text: the default where no hub is at hand.

Saved as an ordinary Hugging Face folder and loaded by the same code as any other backbone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from notellm2.errors import InputError
from notellm2.recipe import TinyLLMConfig

PAD, BOS, EOS = "<pad>", "<s>", "</s>"
_LONGEST = 256
"""Tokens of a text that pretraining reads; longer ones are cut at a random place each time."""


def build_tiny_llm(
    texts: Sequence[str],
    folder: Path,
    config: TinyLLMConfig,
    seed: int,
    progress: Callable[[int, float], None] = lambda step, loss: None,
) -> dict[str, float]:
    """Train tokenizer and model on `texts` and save both into `folder`.

    Args:
        texts: the corpus, one text a note.
        folder: written as a Hugging Face model folder.
        config: sizes and schedule.
        seed: of initialisation and order.
        progress: called with (step, loss) after each step.

    Returns:
        Figures: tokens of the vocabulary, first and last loss (nats a token; absent without steps).

    Raises:
        InputError: there is no text to train on, or sizes that do not fit.
    """
    if not any(text.strip() for text in texts):
        raise InputError("tiny LLM: the data set has no text to train on; name a pretrained LLM in backbones.llm")
    if config.width % (2 * config.heads):
        raise InputError(
            f"backbones.llm: width ({config.width}) must be a multiple of twice the heads ({config.heads}): rotary "
            "positions need heads of even width"
        )
    tokenizer = _train_tokenizer(texts, config.vocabulary)
    torch.manual_seed(seed)
    model = _new_model(config, tokenizer)
    rows = [
        np.array([tokenizer.bos_token_id, *ids, tokenizer.eos_token_id]) for ids in tokenizer(list(texts))["input_ids"]
    ]
    losses = _pretrain(model, rows, config, seed, progress)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    figures = {"first_loss": losses[0], "last_loss": float(np.mean(losses[-10:]))} if losses else {}
    return {"vocabulary": len(tokenizer), **figures}


def _train_tokenizer(texts: Sequence[str], vocabulary: int) -> Any:
    """Train a byte-level BPE tokenizer."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        min_frequency=2,
        special_tokens=[PAD, BOS, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=core, pad_token=PAD, bos_token=BOS, eos_token=EOS)


def _new_model(config: TinyLLMConfig, tokenizer: Any) -> Any:
    """Make an untrained Llama that fits the tokenizer."""
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=config.width,
            intermediate_size=8 * config.width // 3 // 8 * 8,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            max_position_embeddings=1024,
            tie_word_embeddings=True,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )


def _pretrain(
    model: torch.nn.Module,
    rows: list[np.ndarray],
    config: TinyLLMConfig,
    seed: int,
    progress: Callable[[int, float], None],
) -> list[float]:
    rng = np.random.default_rng(seed)
    optimiser = torch.optim.AdamW(model.parameters(), lr=config.lr, weight_decay=0.01, betas=(0.9, 0.98))
    # A rise of exactly one step would divide by zero, so short trainings rise for one and a half.
    steps = max(config.steps, 2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, config.lr, total_steps=steps, pct_start=max(0.1, 1.5 / steps)
    )
    losses = []
    for step in range(config.steps):
        chosen = rng.choice(len(rows), size=min(config.batch, len(rows)), replace=False)
        # In two parts by length: a batch of long and one of short texts waste far fewer pads than one of both.
        windows = sorted((_window(rows[i], rng) for i in chosen), key=len)
        middle = len(windows) // 2
        optimiser.zero_grad()
        total = torch.zeros(())
        for part in (windows[:middle], windows[middle:]):
            if part:
                loss = _next_token_loss(model, part) * (len(part) / len(chosen))
                loss.backward()
                total += loss.detach()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        losses.append(float(total))
        progress(step + 1, losses[-1])
    return losses


def _window(row: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    start = int(rng.integers(0, max(1, len(row) - _LONGEST + 1)))
    return row[start : start + _LONGEST]


def _next_token_loss(model: torch.nn.Module, rows: list[np.ndarray]) -> Tensor:
    ids = torch.nn.utils.rnn.pad_sequence([torch.from_numpy(row) for row in rows], batch_first=True)
    targets = torch.nn.utils.rnn.pad_sequence(
        [torch.from_numpy(row) for row in rows], batch_first=True, padding_value=-100
    )
    logits = model(input_ids=ids[:, :-1], use_cache=False).logits
    return functional.cross_entropy(logits.flatten(0, 1), targets[:, 1:].flatten(), ignore_index=-100)
