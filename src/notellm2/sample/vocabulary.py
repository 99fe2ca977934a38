"""The sample's vocabulary as typed records, read from ``vocabulary.yaml`` beside this file."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from importlib import resources
from typing import NamedTuple

import yaml


class Voice(NamedTuple):
    """One way of writing about a sub-interest; `lines` have the slots ``{a}`` and ``{b}`` for two of the `things`."""

    topics: tuple[str, ...]
    titles: tuple[str, ...]
    things: tuple[str, ...]
    lines: tuple[str, ...]


class Subject(NamedTuple):
    """What a note is about: a category and the voices in which it is written about."""

    category: str
    voices: tuple[Voice, ...]


class Vocabulary(NamedTuple):
    """Everything the sample's grammar draws from; `motif_names` maps a motif to the topics that name it."""

    subjects: tuple[Subject, ...]
    motif_names: Mapping[str, tuple[str, ...]]
    short_titles: tuple[str, ...]
    everyday_topics: tuple[str, ...]
    everyday_titles: tuple[str, ...]
    everyday_lines: tuple[str, ...]
    openers: tuple[str, ...]


@functools.cache
def vocabulary() -> Vocabulary:
    """Read the vocabulary, once a process: 8 subjects, 24 sub-interests, 48 voices."""
    tree = yaml.safe_load(resources.files("notellm2.sample").joinpath("vocabulary.yaml").read_text(encoding="utf-8"))
    return Vocabulary(
        subjects=tuple(
            Subject(subject["category"], tuple(_voice(voice) for voice in subject["voices"]))
            for subject in tree["subjects"]
        ),
        motif_names={motif: tuple(names) for motif, names in tree["motif_names"].items()},
        **{name: tuple(tree[name]) for name in Vocabulary._fields[2:]},
    )


def _voice(tree: Mapping[str, list[str]]) -> Voice:
    return Voice(**{name: tuple(tree[name]) for name in Voice._fields})
