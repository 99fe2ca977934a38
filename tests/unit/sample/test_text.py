"""The sample's text reads like text, and its voices really differ in their words."""

from __future__ import annotations

import hashlib
import json
import re

import numpy as np
import pytest

from notellm2.recipe import SampleConfig
from notellm2.sample.generate import invent_notes
from notellm2.sample.motifs import MOTIFS
from notellm2.sample.text import chance, write_short, write_text
from notellm2.sample.vocabulary import Subject, Voice, vocabulary

SUBJECTS = vocabulary().subjects
NAMES_OF_MOTIFS = vocabulary().motif_names

LITTLE_WORDS = set(
    re.findall(
        r"\w+",
        "a an the and or of on in to for from by with my it is was at then but not no one two first next so both after "
        "before while until beside near over under all only day days",
    )
)


def rng(seed: int = 3) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(seed))


def words(voice: Voice) -> set[str]:
    return set(re.findall(r"[a-z0-9]+", " ".join(voice.topics + voice.titles + voice.things).lower())) - LITTLE_WORDS


def test_sentences_are_whole() -> None:
    for note in invent_notes(SampleConfig(notes=1500)):
        title, topics, content = note.text
        assert title == title.strip() != ""
        assert len(topics) == len(set(topics))
        assert all(topic == topic.strip() != "" and "|" not in topic for topic in topics)
        if not content:
            continue
        assert not re.search(r"[{}|]|  |\s[.,;:!?]|\.\.", content), content
        assert re.search(r"[.!?]$", content), content
        for sentence in re.split(r"(?<=[.!?])\s", content):
            assert sentence[0].isupper() or sentence[0].isdigit(), content
            assert len(sentence.split()) >= 1


def test_the_sample_is_written_in_the_same_words_as_ever() -> None:
    # data.dvc pins the sample's version: a change of the vocabulary that is meant changes this sum and that file.
    written = json.dumps([note.text for note in invent_notes(SampleConfig())], ensure_ascii=False)
    assert (
        hashlib.sha256(written.encode()).hexdigest()
        == "c24ec348654e375062d7d6a4281bc41b5fa1b21aed8a270a1377893aff381fea"
    )


@pytest.mark.parametrize("subject", SUBJECTS, ids=lambda subject: str(subject.category))
def test_titles_and_topics_fit_the_usual_limits(subject: Subject) -> None:
    assert len(subject.voices) == 6
    for voice in subject.voices:
        assert max(map(len, voice.titles)) <= 20
        assert max(map(len, voice.topics)) <= 16
        assert all("{a}" in line and "{b}" in line for line in voice.lines)
        assert len(set(voice.things)) == 6


def test_voices_of_a_subject_share_few_words() -> None:
    for subject in SUBJECTS:
        for i, one in enumerate(subject.voices):
            for other in subject.voices[i + 1 :]:
                shared = words(one) & words(other)
                assert len(shared) <= 3, (subject.category, shared)


def test_a_motif_is_named_only_when_asked_for() -> None:
    assert set(NAMES_OF_MOTIFS) == set(MOTIFS)
    voice = SUBJECTS[0].voices[0]
    named = write_text(rng(), voice, "cat")
    assert set(named.topics) & set(NAMES_OF_MOTIFS["cat"])
    plain = write_text(rng(), voice, None)
    assert not set(plain.topics) & {name for names in NAMES_OF_MOTIFS.values() for name in names}


def test_most_pictures_are_not_named_in_the_text() -> None:
    notes = [note for note in invent_notes(SampleConfig()) if note.motif >= 0]
    named = sum(bool(set(note.text.topics) & set(NAMES_OF_MOTIFS[MOTIFS[note.motif]])) for note in notes)
    assert 0.25 < named / len(notes) < 0.4


def test_short_notes_say_nothing_and_chance_is_a_share() -> None:
    generator = rng()
    assert all(len(write_short(generator).topics) <= 1 for _ in range(50))
    assert 0.27 < sum(chance(generator, 30) for _ in range(4000)) / 4000 < 0.33
