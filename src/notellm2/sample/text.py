"""The sample's text: titles, topics and bodies from a small grammar of our own.

A note with text speaks in one voice (`sample_words`), mixed with phrases that everybody uses. Some notes name what
their picture shows; most do not. A note without a subject gets a word or two that fit any picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypeVar

import numpy as np

from notellm2.sample.words import Voice

T = TypeVar("T")

SHORT_TITLES = (
    "look",
    "today",
    "hm",
    "again",
    "this one",
    "mood",
    "hello",
    "new",
    "no words",
    "so nice",
    "Monday",
    "Friday",
    "evening",
    "just this",
    "for you",
    "untitled",
    "see?",
    "a moment",
    "still here",
    "wow",
)
EVERYDAY_TOPICS = ("daily", "weekend", "ideas", "diary", "inspo", "slow living", "joy", "my week", "notes")
EVERYDAY_TITLES = ("Small update", "Weekend notes", "What I learned", "Finally!", "A good day", "Try this")
OPENERS = ("Hello again!", "Small update.", "Finally.", "A quick one today.", "Happy weekend!")
EVERYDAY_LINES = (
    "It took me about {n} minutes, most of them happy.",
    "Save this for later and tell me how it went.",
    "Would you try it?",
    "I asked {n} friends and nobody agreed.",
    "Next time I will start earlier.",
    "Attempt number {n}, and the best so far.",
    "Ask me anything in the comments.",
    "Not perfect, but I am pleased.",
    "More of this next week.",
    "My best tip: do less, and do it slowly.",
    "It cost less than {n} euros in total.",
    "Thank you for {n} kind messages yesterday.",
)
NAMES_OF_MOTIFS = {
    "sun": ("sunshine", "sunny", "golden sun"),
    "wave": ("waves", "surf", "ocean swell"),
    "leaf": ("leaf", "foliage", "green leaves"),
    "cup": ("teacup", "mug", "coffee cup"),
    "cat": ("kitten", "cat", "whiskers"),
    "mountain": ("mountain", "peaks", "alpine summit"),
    "house": ("little house", "cottage", "cabin"),
    "moon": ("moon", "moonlight", "crescent"),
    "fish": ("fish", "goldfish", "little trout"),
    "flower": ("flower", "blossom", "in bloom"),
}
"""Motif to the words with which some notes name it among their topics."""
SHARE_EVERYDAY_TITLE = 15  # per cent of the notes with a subject
SHARE_OPENER = 15  # per cent
SHARE_SHORT_WITH_TOPIC = 35  # per cent of the notes without subject


class Text(NamedTuple):
    """What is written in a note."""

    title: str
    topics: tuple[str, ...]
    content: str


def pick(rng: np.random.Generator, choices: Sequence[T]) -> T:
    """One of `choices`, uniformly."""
    return choices[int(rng.integers(len(choices)))]


def chance(rng: np.random.Generator, per_cent: int) -> bool:
    """True in `per_cent` of 100 cases; integers only, so that no platform rounds differently."""
    return int(rng.integers(100)) < per_cent


def write_text(rng: np.random.Generator, voice: Voice, motif: str | None) -> Text:
    """Write about a subject in one voice; name `motif` (a key of `NAMES_OF_MOTIFS`) among the topics if given."""
    titles = EVERYDAY_TITLES if chance(rng, SHARE_EVERYDAY_TITLE) else voice.titles.split("|")
    topics = voice.topics.split("|")
    chosen = [topics[i] for i in rng.permutation(len(topics))[: int(rng.integers(1, 4))]]
    if motif is not None:
        chosen.append(pick(rng, NAMES_OF_MOTIFS[motif]))
    everyday = rng.permutation(len(EVERYDAY_TOPICS))[: int(rng.integers(0, 3))]
    chosen.extend(EVERYDAY_TOPICS[i] for i in everyday)
    return Text(pick(rng, titles), tuple(chosen[i] for i in rng.permutation(len(chosen))), _body(rng, voice))


def write_short(rng: np.random.Generator) -> Text:
    """A note that says next to nothing: a generic title, at most one generic topic, no content."""
    topics = (pick(rng, EVERYDAY_TOPICS),) if chance(rng, SHARE_SHORT_WITH_TOPIC) else ()
    return Text(pick(rng, SHORT_TITLES), topics, "")


def _body(rng: np.random.Generator, voice: Voice) -> str:
    lines, things = voice.lines.split("|"), voice.things.split("|")
    sentences = [pick(rng, OPENERS)] if chance(rng, SHARE_OPENER) else []
    for line in rng.permutation(len(lines))[: int(rng.integers(1, 3))]:
        a, b = rng.permutation(len(things))[:2]
        sentence = lines[line].format(a=things[a], b=things[b])
        sentences.append(sentence[0].upper() + sentence[1:])
    everyday = rng.permutation(len(EVERYDAY_LINES))[: int(rng.integers(1, 4))]
    sentences.extend(EVERYDAY_LINES[line].format(n=int(rng.integers(3, 60))) for line in everyday)
    return " ".join(sentences)
