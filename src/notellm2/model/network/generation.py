"""NoteLLM's generative task: the LLM also writes a note's topics or its category (arXiv 2403.01744).

Its collaborative supervised fine-tuning: it writes after the same compression that the embedding is read from.

    Note: {title, content}, compressed into one word: "". Topics: #a #b</s>
    Note: {title, topics, content}, compressed into one word: "". Category: food</s>

Text alone, as in that paper: the image's path is not trained by it. Only the answer's tokens are in the loss, so the
language-model head meets a few positions a note and no others. That head is not part of the network or of a bundle.

Shape suffixes: B notes, L tokens, A answer tokens of the batch, H LLM width, W words of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from notellm2.errors import InputError
from notellm2.model.network.prompt import WORDINGS, EncodedTexts, encode_strings, text_limit, token_ids

if TYPE_CHECKING:
    from notellm2.notes.schema import Note
    from notellm2.recipe import ModelConfig

Task = Literal["topics", "category"]
GUIDANCE: dict[str, dict[Task, str]] = {
    "en": {"topics": '". Topics:', "category": '". Category:'},
    "zh": {"topics": "”。话题：", "category": "”。类别："},
}
ANSWER_TOKENS = 32
"""Of an answer, at most; longer ones are cut."""


@dataclass(frozen=True)
class Exercises:
    """What each of N notes can be asked to write.

    Attributes:
        opening: int32, the tokens before a note's text.
        guidance: int32 by task, the tokens between text and answer.
        texts: by task, what the LLM is shown: for topics without them.
        answers: by task, N answers with their end; empty where a note has none.
    """

    opening: NDArray[np.int32]
    guidance: dict[Task, NDArray[np.int32]]
    texts: dict[Task, EncodedTexts]
    answers: dict[Task, EncodedTexts]

    @classmethod
    def of(
        cls,
        tokenizer: Any,
        notes: Sequence[Note],
        categories: Sequence[str | None],
        texts: EncodedTexts,
        config: ModelConfig,
    ) -> Exercises:
        """Encode the exercises of a data set.

        Args:
            tokenizer: of the LLM.
            notes: N notes; images are not looked at.
            categories: theirs, where known.
            texts: their whole texts, encoded already.
            config: language and text limits.

        Raises:
            InputError: no note has a topic or a category.
        """
        words = WORDINGS[config.language]
        if not any(note.topics for note in notes) and not any(categories):
            raise InputError("training.generation: no note has topics or a category to write; set its weight to 0")
        limits = config.text
        bare = [words.note_text(replace(note, topics=()), limits) for note in notes]
        kept = [[t[: limits.topic_chars] for t in note.topics if t][: limits.topics] for note in notes]
        topics = ["".join(words.topic_mark + topic for topic in some) for some in kept]
        end = [] if tokenizer.eos_token_id is None else [int(tokenizer.eos_token_id)]
        bos = [] if tokenizer.bos_token_id is None else [int(tokenizer.bos_token_id)]
        guidance: dict[Task, NDArray[np.int32]] = {
            task: np.array(token_ids(tokenizer, words.compressed + text), np.int32)
            for task, text in GUIDANCE[config.language].items()
        }
        strings = {"topics": topics, "category": [f" {name}" if name else "" for name in categories]}
        return cls(
            opening=np.array(bos + token_ids(tokenizer, words.opening), np.int32),
            guidance=guidance,
            texts={"topics": encode_strings(tokenizer, bare, text_limit(tokenizer, config)), "category": texts},
            answers={
                "topics": encode_strings(tokenizer, strings["topics"], ANSWER_TOKENS, end),
                "category": encode_strings(tokenizer, strings["category"], ANSWER_TOKENS, end),
            },
        )

    @property
    def longest(self) -> int:
        """Tokens of the longest exercise."""
        tasks = [task for task, answers in self.answers.items() if len(answers.tokens)]
        around = {task: len(self.opening) + len(self.guidance[task]) for task in tasks}
        return max(around[task] + int((self.texts[task].lengths + self.answers[task].lengths).max()) for task in tasks)

    def choose(self, rows: NDArray[np.int64], topic_share: float, rng: np.random.Generator) -> list[tuple[int, Task]]:
        """Choose a task for each row that has one: topics for about `topic_share` of those that could do either."""
        wish = rng.random(len(rows)) < topic_share
        chosen: list[tuple[int, Task]] = []
        for row, topics_first in zip(rows.tolist(), wish, strict=True):
            order: tuple[Task, Task] = ("topics", "category") if topics_first else ("category", "topics")
            able = [task for task in order if self.answers[task].lengths[row]]
            chosen += [(row, able[0])] if able else []
        return chosen

    def batch(self, chosen: Sequence[tuple[int, Task]], pad: int = 0) -> tuple[Tensor, Tensor]:
        """Return the tokens int64[B, L], right-padded, and which of them are answers, bool[B, L]."""
        rows = []
        for row, task in chosen:
            asked = np.concatenate([self.opening, self.texts[task].text(row), self.guidance[task]])
            rows.append((asked, self.answers[task].text(row)))
        longest = max(len(asked) + len(answer) for asked, answer in rows)
        tokens = np.full((len(rows), longest), pad, np.int64)
        answers = np.zeros((len(rows), longest), np.bool_)
        for line, (asked, answer) in enumerate(rows):
            tokens[line, : len(asked)] = asked
            tokens[line, len(asked) : len(asked) + len(answer)] = answer
            answers[line, len(asked) : len(asked) + len(answer)] = True
        return torch.from_numpy(tokens), torch.from_numpy(answers)


def generation_loss(llm: nn.Module, head_WH: Tensor, tokens_BL: Tensor, answers_BL: Tensor) -> Tensor:
    """Sum over answer tokens of -log p(token | all before it), nats (NoteLLM, the generative loss).

    Args:
        llm: without head, adapters included.
        head_WH: the language-model head's weight, frozen.
        tokens_BL: int64[B, L].
        answers_BL: bool[B, L]; never the first token.
    """
    embeddings = llm.get_input_embeddings()  # type: ignore[operator]
    h_BLH = llm(inputs_embeds=embeddings(tokens_BL), use_cache=False).last_hidden_state
    h_AH = h_BLH[:, :-1][answers_BL[:, 1:]]
    logits_AW = (h_AH @ head_WH.T.to(h_AH.dtype)).float()
    return functional.cross_entropy(logits_AW, tokens_BL[answers_BL], reduction="sum")
