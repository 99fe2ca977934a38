"""Choosing a variant: who is ahead on validation pairs, by how much, and how sure that is."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from notellm2.artifacts import Artifact
from notellm2.errors import InputError
from notellm2.evaluation.cases import MinedData
from notellm2.evaluation.choice_stage import choice_sentence, compare_variants, survivors
from tests.unit.evaluation.small_run import N_NOTES, SmallRun, small_run


@pytest.fixture
def run(tmp_path: Path) -> SmallRun:
    return small_run(tmp_path)


@pytest.fixture
def mined(run: SmallRun) -> MinedData:
    """The small run's test pairs as validation pairs."""

    def write(into: Path) -> None:
        for name in ("notes", "test", "pool"):
            (into / f"{name}.parquet").write_bytes(run.pairs.file(f"{name}.parquet").read_bytes())
        (into / "validation.parquet").write_bytes(run.pairs.file("test.parquet").read_bytes())
        (into / "validation_pool.parquet").write_bytes(run.pairs.file("pool.parquet").read_bytes())

    pairs = run.store.build("pairs", 9, {}, {}, write)
    return MinedData(run.mined.dataset, run.mined.md5, pairs)


def trial(run: SmallRun, name: str, noise: float) -> Artifact:
    """Vectors of all notes, as a trial of the validation notes has them."""
    made = run.vectors_with(name, both=noise)

    def write(into: Path) -> None:
        np.save(into / "rows.npy", np.arange(N_NOTES))
        np.save(into / "both.npy", np.load(made.file("both.npy")))

    return run.store.build("trial-vectors", 9, {"name": name}, {"vectors": made}, write)


def test_the_variant_that_finds_more_is_first_with_its_margin(run: SmallRun, mined: MinedData) -> None:
    trials = {"text": trial(run, "text", 2.0), "notellm2": trial(run, "notellm2", 0.05)}
    outcome = compare_variants(run.store, mined, trials, 0.25)
    first, second = outcome.summary["variants"]
    assert (first["name"], second["name"]) == ("notellm2", "text")
    assert first["behind"] == 0
    assert second["behind"] == pytest.approx(first["score"] - second["score"], abs=1e-4)
    assert 0 < second["low"] <= second["behind"] <= second["high"]
    assert json.loads(outcome.file("choice.json").read_text()) == outcome.summary
    sentence = choice_sentence(outcome.summary)
    assert sentence.startswith("notellm2 was chosen on 30 validation queries: recall@10 ")
    assert "over text (95 % interval +" in sentence
    assert "chance" not in sentence


def test_of_two_that_find_equally_many_the_simpler_is_taken_and_said_to_be_chance(
    run: SmallRun, mined: MinedData
) -> None:
    same = trial(run, "one", 0.4)
    outcome = compare_variants(run.store, mined, {"text": same, "basic": same}, 1.0)
    assert [one["name"] for one in outcome.summary["variants"]] == ["text", "basic"]
    assert choice_sentence(outcome.summary).endswith("which may be chance")


def test_without_validation_pairs_it_says_what_to_change(run: SmallRun, mined: MinedData) -> None:
    import pyarrow.parquet as pq

    def write(into: Path) -> None:
        for file in ("notes", "validation_pool"):
            (into / f"{file}.parquet").write_bytes(mined.pairs.file(f"{file}.parquet").read_bytes())
        pq.write_table(pq.read_table(mined.pairs.file("validation.parquet")).slice(0, 0), into / "validation.parquet")

    pairs = run.store.build("pairs", 10, {}, {}, write)
    with pytest.raises(InputError, match=r"validation\.parquet: no validation pairs.*raise pairs\.validation_share"):
        compare_variants(run.store, MinedData(mined.dataset, mined.md5, pairs), {"text": trial(run, "a", 1.0)}, 1.0)


@pytest.mark.parametrize(("count", "left"), [(4, 2), (3, 2), (2, 1), (1, 1)])
def test_the_better_half_goes_on(count: int, left: int) -> None:
    assert survivors(count) == left
