"""The baselines as scorers, and their figures on the real data set against the published ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from notellm2.evaluation.baselines import Popular, TfIdf, cut_text, terms, whole_text
from notellm2.evaluation.ranks import NOT_IN_POOL, count_ranks, nearest
from notellm2.recipe import TextLimits


def test_words_are_lower_cased_and_unspaced_scripts_read_in_pairs() -> None:
    assert terms("A Red-hot WOK, 3 x 42!") == ["red", "hot", "wok", "42"]
    assert terms("红烧肉 recipe") == ["红烧", "烧肉", "recipe"]
    assert terms("茶") == ["茶"]
    assert terms("Ünïcode Straße") == ["ünïcode", "straße"]
    assert terms("") == []


def test_text_is_cut_as_the_model_cuts_it() -> None:
    limits = TextLimits(title_chars=5, topics=2, topic_chars=3, content_chars=4)
    assert cut_text("abcdefg", ["xxxx", "yy", "zz"], "123456", limits) == "abcde xxx yy 1234"
    assert whole_text("abcdefg", ["xxxx", "yy", "zz"], "123456") == "abcdefg xxxx yy zz 123456"


def test_tfidf_finds_the_rare_word_first() -> None:
    pool = ["common words here", "common words zebra", "common other thing", ""]
    scorer = TfIdf(["a zebra of common words"], pool)
    assert nearest(scorer, 0, 1, NOT_IN_POOL)[0][0] == 1
    ranks = count_ranks(scorer, np.array([1]), np.array([NOT_IN_POOL]))
    assert (ranks.above[0], ranks.ties[0]) == (0, 0)
    assert scorer.at(np.array([3])).tolist() == [0.0]


def test_tfidf_without_any_words_is_chance() -> None:
    scorer = TfIdf(["", "?"], ["", "!", "..."])
    ranks = count_ranks(scorer, np.array([0, 1]), np.full(2, NOT_IN_POOL))
    assert ranks.above.tolist() == [0, 0]
    assert ranks.ties.tolist() == [2, 2]


def test_popular_ranks_by_users_for_every_query() -> None:
    scorer = Popular(2, np.array([5, 9, 5, 16_000_001]))
    ranks = count_ranks(scorer, np.array([0, 1]), np.array([1, NOT_IN_POOL]))
    assert ranks.above.tolist() == [1, 1]
    assert ranks.ties.tolist() == [1, 0]


@pytest.mark.shared
def test_baselines_reach_the_published_figures_on_real_data(shared: Path) -> None:
    """The fair test of movielens-posters: TF-IDF at least as good as published, popularity exactly."""
    folder = shared / "data" / "movielens-posters"
    notes = pq.read_table(folder / "notes.parquet", columns=["note_id", "title", "topics", "content"]).to_pylist()
    events = pq.read_table(folder / "interactions.parquet", columns=["user_id", "note_id", "event"])
    likes = events.filter(pc.equal(events["event"], "like")).group_by(["user_id", "note_id"]).aggregate([])
    row = {note["note_id"]: i for i, note in enumerate(notes)}
    users = likes["user_id"].combine_chunks().dictionary_encode().indices.to_numpy()
    liked = np.array([row[note_id] for note_id in likes["note_id"].to_pylist()])
    popularity = np.bincount(liked, minlength=len(notes))
    held_out = np.random.default_rng(1).random(len(notes)) < 0.3
    pool = np.flatnonzero(held_out & (popularity >= 10))
    matrix = np.zeros((users.max() + 1, len(pool)), np.float32)
    column = np.full(len(notes), -1)
    column[pool] = np.arange(len(pool))
    inside = column[liked] >= 0
    matrix[users[inside], column[liked[inside]]] = 1
    common = matrix.T @ matrix
    np.fill_diagonal(common, 0)
    size = popularity[pool].astype(np.float64)
    score = np.where(common >= 3, common / np.sqrt(size[:, None] * size), -1.0)
    queries = np.flatnonzero(score.max(axis=1) > 0)
    targets = score[queries].argmax(axis=1)
    assert (len(pool), len(queries)) == (867, 867)

    def recalls(scorer: TfIdf | Popular) -> tuple[float, float]:
        ranks = count_ranks(scorer, targets, queries)
        return 100 * ranks.recall(10).mean(), 100 * ranks.recall(100).mean()

    def tfidf(limits: TextLimits | None) -> TfIdf:
        texts = []
        for i in pool:
            title, topics, content = (notes[i][name] or "" for name in ("title", "topics", "content"))
            parts = topics.split("|")
            texts.append(cut_text(title, parts, content, limits) if limits else whole_text(title, parts, content))
        return TfIdf([texts[q] for q in queries], texts)

    cut = TextLimits(title_chars=30, topics=5, topic_chars=1000, content_chars=100)
    assert recalls(Popular(len(queries), popularity[pool])) == (
        pytest.approx(3.0, abs=0.1),
        pytest.approx(19.1, abs=0.1),
    )
    assert recalls(tfidf(cut)) == (pytest.approx(8.3, abs=0.4), pytest.approx(29.3, abs=0.7))
    assert recalls(tfidf(None)) == (pytest.approx(17.3, abs=0.5), pytest.approx(43.0, abs=1.0))
