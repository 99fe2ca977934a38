"""Prompts: how a note becomes one token sequence, and where its embeddings are read (NoteLLM-2, mICL).

A prompt is literal text around two slots: ``<IMG>``, replaced by the connector's Q visual tokens, and ``<IMG_EMB>``,
one new token whose row the model learns. Only the note's own text differs between notes, so everything before it is
encoded once (the `head` of a layout), and everything after it too (the `tail`). The text is cut at `max_tokens`
*before* the tail is appended: the compression position always exists.

    micl   Note: {image: <IMG>}, compressed into one word: "<IMG_EMB>". Note: {...}, compressed into one word: "
    basic  Note: {image: <IMG>, ...}, compressed into one word: "
    text   Note: {...}, compressed into one word: "
    vision no prompt and no LLM: the vision encoder alone

The authors' prompts are Chinese; `zh` carries their meaning.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from notellm2.notes.schema import Note
    from notellm2.recipe import ModelConfig, TextLimits

VISUAL_SLOT = -1
"""Stands in token ids for a visual token of the connector."""

IMAGE_WORD = -2
"""Stands in token ids for ``<IMG_EMB>``."""


_IMAGE_MARKS = (
    (("<|vision_start|>",), ("<|vision_end|>",)),  # Qwen2-VL and after
    (("<fake_token_around_image>", "<global-img>"), ("<fake_token_around_image>",)),  # Idefics3, SmolVLM
)


@dataclass(frozen=True)
class Wording:
    """The literal texts of a prompt in one language."""

    opening: str
    image: str
    compressed: str
    after_image_word: str
    separator: str
    title: str
    topics: str
    content: str
    topic_mark: str
    line_break: str

    def note_text(self, note: Note, limits: TextLimits) -> str:
        """Compose the note's own text, each field cut to its limit; a field without text is left out."""
        named = [topic[: limits.topic_chars] for topic in note.topics]
        topics = "".join(self.topic_mark + topic for topic in [t for t in named if t][: limits.topics])
        fields = (
            (self.title, note.title[: limits.title_chars]),
            (self.topics, topics),
            (self.content, note.content.replace("\r\n", "\n").replace("\n", self.line_break)[: limits.content_chars]),
        )
        return self.separator.join(name + value for name, value in fields if value)


WORDINGS: dict[Literal["en", "zh"], Wording] = {
    "en": Wording(
        opening="Note: {",
        image="image: ",
        compressed='}, compressed into one word: "',
        after_image_word='". ',
        separator=", ",
        title="title: ",
        topics="topics:",
        content="content: ",
        topic_mark=" #",
        line_break=" ",
    ),
    "zh": Wording(
        opening="笔记：{",
        image="图片：",
        compressed="}，压缩成一个词：“",
        after_image_word="”。",
        separator="，",
        title="标题：",
        topics="话题：",
        content="内容：",
        topic_mark="#",
        line_break="。",
    ),
}


@dataclass(frozen=True)
class Layout:
    """The token ids around a note's text.

    Attributes:
        head: int32[P], everything before the text, with `VISUAL_SLOT` and `IMAGE_WORD` in place.
        tail: int32[S], everything after it; its last token is the compression position.
        visual_position: index in `head` whose hidden state is n_v (the token before ``<IMG_EMB>``), or None.
    """

    head: NDArray[np.int32]
    tail: NDArray[np.int32]
    visual_position: int | None

    @property
    def visual_slots(self) -> NDArray[np.int64]:
        """int64[Q]: where in `head` the visual tokens go; empty when the LLM reads no image."""
        return np.flatnonzero(self.head == VISUAL_SLOT)


@dataclass(frozen=True)
class EncodedTexts:
    """The text tokens of many notes, ragged: note i owns ``tokens[offsets[i]:offsets[i + 1]]``.

    Attributes:
        tokens: int32[T].
        offsets: int64[N + 1].
        truncated: notes whose text was cut at the token limit.
    """

    tokens: NDArray[np.int32]
    offsets: NDArray[np.int64]
    truncated: int

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> NDArray[np.int64]:
        """int64[N], tokens of each note."""
        return np.diff(self.offsets)

    def text(self, note: int) -> NDArray[np.int32]:
        """Return the tokens of one note, int32[L]."""
        return self.tokens[self.offsets[note] : self.offsets[note + 1]]


def layout(tokenizer: PreTrainedTokenizerBase, config: ModelConfig) -> Layout:
    """Encode the fixed parts of the prompt that `config` names; without LLM a single token that nobody reads."""
    if not config.reads_text:
        return Layout(np.zeros(0, np.int32), np.zeros(1, np.int32), None)
    words = WORDINGS[config.language]
    bos = [] if tokenizer.bos_token_id is None else [int(tokenizer.bos_token_id)]
    visual = [VISUAL_SLOT] * config.connector.queries if config.visual_tokens and config.prompt != "text" else []
    if visual and config.connector.kind == "none":
        before, after = _around_images(tokenizer)
        visual = [*before, *visual, *after]
    visual_position = None
    if config.prompt == "micl":
        seen = bos + token_ids(tokenizer, words.opening + words.image) + visual + token_ids(tokenizer, words.compressed)
        visual_position = len(seen) - 1
        head = [*seen, IMAGE_WORD, *token_ids(tokenizer, words.after_image_word + words.opening)]
    else:
        head = bos + token_ids(tokenizer, words.opening)
        if visual:
            head += token_ids(tokenizer, words.image) + visual + token_ids(tokenizer, words.separator)
    tail = token_ids(tokenizer, words.compressed)
    return Layout(np.array(head, np.int32), np.array(tail, np.int32), visual_position)


def text_limit(tokenizer: PreTrainedTokenizerBase, config: ModelConfig) -> int:
    """Return the most tokens of a note's own text: ``config.text.max_tokens``, less the prompt's where it counts them.

    Visual tokens are not counted: they take the place of one word after the cut.
    """
    if not config.limit_covers_prompt:
        return config.text.max_tokens
    fixed = layout(tokenizer, config)
    return max(0, config.text.max_tokens - len(fixed.head) + len(fixed.visual_slots) - len(fixed.tail))


def encode_texts(
    tokenizer: PreTrainedTokenizerBase, notes: Sequence[Note], config: ModelConfig, *, block: int = 4096
) -> EncodedTexts:
    """Tokenise the notes' own texts, cut at `text_limit` tokens.

    Args:
        tokenizer: a fast tokenizer.
        notes: N notes; images are not looked at.
        config: prompt language and text limits.
        block: notes tokenised at once; bounds memory.
    """
    words = WORDINGS[config.language]
    texts = (words.note_text(note, config.text) for note in notes)
    return encode_strings(tokenizer, texts, text_limit(tokenizer, config), block=block)


def encode_strings(
    tokenizer: PreTrainedTokenizerBase,
    texts: Iterable[str],
    limit: int,
    end: Sequence[int] = (),
    *,
    block: int = 4096,
) -> EncodedTexts:
    """Tokenise texts, each cut at `limit` tokens and followed by `end` unless it is empty.

    Args:
        tokenizer: a fast tokenizer.
        texts: any number.
        limit: tokens of a text, `end` apart.
        end: tokens put after each text that has any.
        block: texts tokenised at once; bounds memory.
    """
    rows: list[NDArray[np.int32]] = []
    truncated = 0
    waiting = iter(texts)
    while some := list(itertools.islice(waiting, block)):
        # Split: a note that spells "</s>" means the characters, not the token.
        encoded: Any = tokenizer(some, add_special_tokens=False, split_special_tokens=True)
        for ids in encoded["input_ids"]:
            truncated += len(ids) > limit
            rows.append(np.array([*ids[:limit], *end] if ids else [], np.int32))
    offsets = np.zeros(len(rows) + 1, np.int64)
    np.cumsum([len(row) for row in rows], out=offsets[1:])
    return EncodedTexts(np.concatenate([np.zeros(0, np.int32), *rows]), offsets, truncated)


def _around_images(tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
    """What a pretrained multimodal LLM is used to see before and after an image: nothing where it has no such words."""
    known = tokenizer.get_vocab()
    for before, after in _IMAGE_MARKS:
        if all(word in known for word in (*before, *after)):
            return [known[word] for word in before], [known[word] for word in after]
    return [], []


def token_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Encode a prompt's fixed part, special words by their names."""
    encoded: Any = tokenizer(text, add_special_tokens=False)
    return [int(i) for i in encoded["input_ids"]]
