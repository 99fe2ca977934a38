"""The sample's text: titles, topics and bodies from a small grammar of our own.

A note with text is written in one voice (`vocabulary`), mixed with phrases that everybody uses. Some notes name what
their picture shows; most do not. A note without a subject gets a word or two that fit any picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypeVar

import numpy as np

from notellm2.sample.vocabulary import Voice, vocabulary

T = TypeVar("T")

SHARE_EVERYDAY_TITLE = 15  # per cent of the notes with a subject
SHARE_OPENER = 15  # per cent
SHARE_SHORT_WITH_TOPIC = 35  # per cent of the notes without subject


class Text(NamedTuple):
    """What is written in a note."""

    title: str
    topics: tuple[str, ...]
    content: str


def pick(rng: np.random.Generator, choices: Sequence[T]) -> T:
    """Draw one of `choices`, uniformly."""
    return choices[int(rng.integers(len(choices)))]


def chance(rng: np.random.Generator, per_cent: int) -> bool:
    """Return True in `per_cent` of 100 cases; integers only, so that no platform rounds differently."""
    return int(rng.integers(100)) < per_cent


def write_text(rng: np.random.Generator, voice: Voice, motif: str | None) -> Text:
    """Write about a subject in one voice; a `motif` (a key of `motif_names`) is named among the topics."""
    shared = vocabulary()
    titles = shared.everyday_titles if chance(rng, SHARE_EVERYDAY_TITLE) else voice.titles
    chosen = [voice.topics[i] for i in rng.permutation(len(voice.topics))[: int(rng.integers(1, 4))]]
    if motif is not None:
        chosen.append(pick(rng, shared.motif_names[motif]))
    everyday = rng.permutation(len(shared.everyday_topics))[: int(rng.integers(0, 3))]
    chosen.extend(shared.everyday_topics[i] for i in everyday)
    return Text(pick(rng, titles), tuple(chosen[i] for i in rng.permutation(len(chosen))), _body(rng, voice))


def write_short(rng: np.random.Generator) -> Text:
    """Write a note that says next to nothing: a generic title, at most one generic topic, no content."""
    shared = vocabulary()
    topics = (pick(rng, shared.everyday_topics),) if chance(rng, SHARE_SHORT_WITH_TOPIC) else ()
    return Text(pick(rng, shared.short_titles), topics, "")


def _body(rng: np.random.Generator, voice: Voice) -> str:
    shared, lines, things = vocabulary(), voice.lines, voice.things
    sentences = [pick(rng, shared.openers)] if chance(rng, SHARE_OPENER) else []
    for line in rng.permutation(len(lines))[: int(rng.integers(1, 3))]:
        a, b = rng.permutation(len(things))[:2]
        sentence = lines[line].format(a=things[a], b=things[b])
        sentences.append(sentence[0].upper() + sentence[1:])
    everyday = rng.permutation(len(shared.everyday_lines))[: int(rng.integers(1, 4))]
    sentences.extend(shared.everyday_lines[line].format(n=int(rng.integers(3, 60))) for line in everyday)
    return " ".join(sentences)
