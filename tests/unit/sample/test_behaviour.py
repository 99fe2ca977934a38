"""The sample's behaviour asks for text and picture at once: relatedness that neither shows alone."""

from __future__ import annotations

from collections import defaultdict

import numpy as np

from notellm2.recipe import SampleConfig
from notellm2.sample.behaviour import EXACT, OTHER_STYLE, Hidden, Interest, popularity, score_notes
from notellm2.sample.generate import behave, invent_notes


def hidden(*rows: tuple[int, int, int]) -> Hidden:
    subject, motif, style = (np.array(column, dtype=np.int64) for column in zip(*rows, strict=True))
    return Hidden(subject, motif, style, np.zeros(len(rows), dtype=np.int64))


def test_a_note_is_wanted_for_subject_and_motif_together() -> None:
    notes = hidden((1, 2, 3), (1, 2, 0), (1, 5, 3), (4, 2, 3), (-1, 2, 3), (4, 5, 3), (1, -1, -1))
    scores = score_notes(notes, Interest(1, 2, 3)).tolist()
    assert scores[:2] == [EXACT, OTHER_STYLE]
    assert max(scores[2:]) <= EXACT // 10
    assert scores[5] == 0
    assert scores[6] > scores[2] > 0


def test_a_wordless_interest_wants_wordless_notes_of_the_motif() -> None:
    notes = hidden((-1, 2, 3), (-1, 2, 0), (-1, 5, 3), (4, 2, 3), (4, 5, 3))
    scores = score_notes(notes, Interest(-1, 2, 3)).tolist()
    assert scores == sorted(scores[:2], reverse=True) + scores[2:]
    assert scores[0] == EXACT
    assert max(scores[2:]) <= EXACT // 10
    assert scores[4] == 0


def test_popularity_is_a_skewed_permutation() -> None:
    weights = np.sort(popularity(np.random.Generator(np.random.PCG64(1)), 900))[::-1]
    assert weights[0] == 1000
    assert weights[-1] >= 30
    assert 0.25 < weights[:90].sum() / weights.sum() < 0.6


def test_clicks_after_views_relate_notes_by_text_and_picture_at_once() -> None:
    config = SampleConfig(notes=600, users=1500)
    notes = invent_notes(config)
    together = np.zeros((config.notes, config.notes))
    viewed: dict[int, set[int]] = defaultdict(set)
    for event in behave(notes, config):
        if event.event == "click":
            together[list(viewed[event.user] - {event.note}), event.note] += 1
        viewed[event.user].add(event.note)
    subject, motif = (np.array([getattr(note, name) for note in notes]) for name in ("subject", "motif"))
    same_subject, same_motif = subject[:, None] == subject, motif[:, None] == motif
    apart = ~np.eye(config.notes, dtype=bool)
    neither = together[~same_subject & ~same_motif].mean()
    both = together[same_subject & same_motif & apart].mean() - neither
    one = [together[same_subject & ~same_motif].mean(), together[~same_subject & same_motif].mean()]
    assert min(one) > neither > 0
    # Neither half alone comes near the whole.
    assert both > 5 * max(one) - 5 * neither
