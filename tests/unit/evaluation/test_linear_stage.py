"""The linear baseline's stage: what it is fitted on, what it writes, and what it finds on real data."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from notellm2.artifacts import Store
from notellm2.embedding import vectors_stage
from notellm2.evaluation import linear_stage
from notellm2.evaluation.cases import MinedData, read_cases
from notellm2.evaluation.linear_stage import image_features, linear_vectors, text_features
from notellm2.evaluation.ranks import Cosine, count_ranks
from notellm2.notes.dataset import Dataset
from notellm2.notes.import_export import import_export
from notellm2.pairs.pairs_stage import mine
from notellm2.recipe import ImageLimits, PairsConfig, TextLimits
from tests.unit.evaluation.small_run import MD5, N_NOTES, TRAINING, SmallRun, note_ids, small_run

NOTES = np.asarray(TRAINING, np.int64)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> SmallRun:
    return small_run(tmp_path_factory.mktemp("run"))


def test_every_note_gets_an_embedding_once(run: SmallRun) -> None:
    made = linear_vectors(run.store, run.mined, run.features, TextLimits())
    rows = np.load(made.file("linear.npy"))
    assert rows.shape == (N_NOTES, 64)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=1e-5)
    assert json.loads(made.file("note_ids.json").read_text()) == note_ids()
    assert made.summary["pairs"] == 20
    assert linear_vectors(run.store, run.mined, run.features, TextLimits()) == made
    assert linear_vectors(run.store, run.mined, run.features, TextLimits(topics=0)).key != made.key


def test_nothing_is_learnt_from_notes_that_are_held_out(run: SmallRun) -> None:
    """Other texts and images of held-out notes change no training note's features."""
    changed = dataclasses.replace(run.mined, dataset=_Altered(run.dataset.path, run.dataset.info))
    texts = [text_features(data, TextLimits(), NOTES)[NOTES] for data in (run.mined, changed)]
    np.testing.assert_array_equal(texts[0], texts[1])
    tokens = np.load(run.features.file("features.npy"))
    tokens[: TRAINING[0]] *= 7
    altered = run.store.build("altered", 1, {}, {}, lambda into: np.save(into / "features.npy", tokens))
    images = [image_features(features, NOTES)[NOTES] for features in (run.features, altered)]
    np.testing.assert_array_equal(images[0], images[1])


class _Altered(Dataset):
    """The data set with another content of every held-out note."""

    def notes(self, columns: Sequence[str] = ("note_id", "title", "topics", "content")) -> pa.Table:
        rows = super().notes(columns).to_pylist()
        for row in rows[: TRAINING[0]]:
            row["content"] = "entirely other words, twice, twice"
        return pa.Table.from_pylist(rows)


def test_image_features_are_the_standardised_mean_patch_and_zero_without_image(run: SmallRun) -> None:
    rows = image_features(run.features, NOTES)
    assert rows.shape == (N_NOTES, 16)
    assert (rows[::7] == 0).all()
    pictured = NOTES[NOTES % 7 != 0]
    np.testing.assert_allclose(rows[pictured].mean(axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(rows[pictured].std(axis=0), 1, atol=1e-3)
    tokens = np.load(run.features.file("features.npy"))[:, :1]
    summary = run.store.build("summary", 1, {}, {}, lambda into: np.save(into / "features.npy", tokens))
    assert image_features(summary, NOTES).shape == (N_NOTES, 16), "an encoder without patches gives its summary"


def test_notes_without_any_word_have_no_text_features(run: SmallRun) -> None:
    nothing = TextLimits(title_chars=0, topics=0, content_chars=0)
    assert text_features(run.mined, nothing, NOTES).shape == (N_NOTES, 0)
    assert linear_vectors(run.store, run.mined, run.features, nothing).summary["text_width"] == 0


def test_the_features_stage_has_the_name_it_is_looked_up_by() -> None:
    assert linear_stage.FEATURES_STAGE == vectors_stage.FEATURES_STAGE


@pytest.mark.shared
def test_on_real_products_the_map_of_title_and_topics_finds_what_it_did_when_it_was_chosen(
    shared: Path, tmp_path: Path
) -> None:
    """The fair test of hm-products without its pictures, which take minutes to encode: three seeds differ by 0.6."""
    export = shared / "data" / "hm-products"
    if not export.is_dir():
        pytest.skip(f"needs {export}")
    import_export(export, tmp_path / "data", limits=ImageLimits(), progress=False)
    store, dataset = Store(tmp_path / "store", {}), Dataset.open(tmp_path / "data")
    settings = {"protocol": "best-partner", "score": "cosine", "direction": "symmetric", "target_events": ("buy",)}
    bounds = {"min_support": 2, "min_popularity": 5, "test_share": 0.3, "validation_share": 0.0, "history_cap": 100_000}
    data = MinedData(dataset, MD5, mine(store, dataset, MD5, PairsConfig(**settings, **bounds)))
    cases = read_cases(data, 10)
    assert (len(cases.query_rows), len(cases.pool_rows)) == (743, 1274)
    blank = store.build("vision-features", 1, {}, {}, lambda into: _blank(into, dataset.info.notes))
    text = TextLimits(title_chars=60, topics=13, topic_chars=40, content_chars=0)
    rows = np.load(linear_vectors(store, data, blank, text).file("linear.npy"))
    scorer = Cosine(rows[cases.query_rows], rows[cases.pool_rows])
    ranks = count_ranks(scorer, cases.columns(cases.target_rows), cases.columns(cases.query_rows))
    found = tuple(100 * float(ranks.recall(k).mean()) for k in (10, 100))
    assert found == (pytest.approx(33.8, abs=1.5), pytest.approx(67.2, abs=1.5))


def _blank(into: Path, notes: int) -> None:
    np.save(into / "features.npy", np.zeros((notes, 1, 4), np.float16))
