"""Candidate against champion on hand-made vectors: known winners, and tests that do not compare."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from notellm2.artifacts import Artifact
from notellm2.errors import InputError
from notellm2.evaluation.comparison import compare
from notellm2.evaluation.evaluation_stage import evaluate
from notellm2.recipe import EvaluationConfig, TextLimits
from tests.unit.evaluation.small_run import SmallRun, small_run

CONFIG = EvaluationConfig(ks=(5, 10, 50), short_text_chars=40, resamples=400)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> SmallRun:
    return small_run(tmp_path_factory.mktemp("run"))


def evaluated(run: SmallRun, vectors: Artifact) -> Artifact:
    return evaluate(run.store, run.mined, vectors, CONFIG, TextLimits())


@pytest.fixture(scope="module")
def sides(run: SmallRun) -> tuple[Artifact, Artifact]:
    """The run's model, and one that knows half as much."""
    return evaluated(run, run.vectors), evaluated(run, run.vectors_with("blurred", both=1.0))


def read(artifact: Artifact) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(artifact.file("comparison.json").read_text())
    return found


def test_the_difference_is_that_of_the_two_evaluations(run: SmallRun, sides: tuple[Artifact, Artifact]) -> None:
    candidate, champion = sides
    found = read(compare(run.store, candidate, champion, CONFIG))
    assert (found["candidate"], found["champion"]) == (candidate.key, champion.key)
    assert (found["test"], found["resamples"]) == ("paired bootstrap", 400)
    for name, part in found["slices"].items():
        ours, theirs = (json.loads(s.file("metrics.json").read_text())["both"][name] for s in sides)
        assert part["n"] == ours["n"] == part["wins"] + part["losses"] + part["ties"]
        for metric in ("recall@10", "mrr", "ndcg@10", "visual_reliance"):
            if part["n"] == 0:
                assert part[metric] is None
                continue
            assert part[metric]["candidate"] == pytest.approx(ours[metric])
            assert part[metric]["champion"] == pytest.approx(theirs[metric])
            assert part[metric]["difference"] == pytest.approx(ours[metric] - theirs[metric])
            assert part[metric]["low"] <= part[metric]["difference"] + 1e-9
            assert part[metric]["high"] >= part[metric]["difference"] - 1e-9
    every = found["slices"]["all"]["recall@10"]
    assert every["low"] > 0
    assert every["p"] < 0.05


def test_swapping_the_sides_turns_the_signs(run: SmallRun, sides: tuple[Artifact, Artifact]) -> None:
    forth, back = (read(compare(run.store, *pair, CONFIG))["slices"]["all"] for pair in (sides, sides[::-1]))
    assert forth["mrr"]["difference"] == pytest.approx(-back["mrr"]["difference"])
    assert forth["mrr"]["low"] == pytest.approx(-back["mrr"]["high"])
    assert (forth["wins"], forth["losses"]) == (back["losses"], back["wins"])


def test_a_model_against_itself_shows_no_difference(run: SmallRun, sides: tuple[Artifact, Artifact]) -> None:
    same = read(compare(run.store, sides[0], sides[0], CONFIG))["slices"]["all"]
    assert same["wins"] == same["losses"] == 0
    assert same["recall@10"]["difference"] == same["recall@10"]["low"] == same["recall@10"]["high"] == 0
    assert same["recall@10"]["p"] == 1.0


def test_every_query_has_its_outcome(run: SmallRun, sides: tuple[Artifact, Artifact]) -> None:
    comparison = compare(run.store, *sides, CONFIG)
    rows = pq.read_table(comparison.file("queries.parquet")).to_pylist()
    assert len(rows) == 30
    for row in rows:
        better = row["champion_rank"] - row["candidate_rank"]
        assert row["outcome"] == ("win" if better > 0 else "loss" if better < 0 else "tie")
    wins = sum(row["outcome"] == "win" for row in rows)
    assert read(comparison)["slices"]["all"]["wins"] == wins > 0


def test_queries_are_paired_by_name_not_by_place(run: SmallRun, sides: tuple[Artifact, Artifact]) -> None:
    candidate, champion = sides

    def reverse(into: Path) -> None:
        table = pq.read_table(champion.file("queries.parquet"))
        pq.write_table(table.take(np.arange(len(table))[::-1]), into / "queries.parquet")
        (into / "protocol.json").write_text(champion.file("protocol.json").read_text())

    turned = run.store.build("evaluation", 1, {"turned": True}, {}, reverse)
    found, expected = (read(compare(run.store, candidate, side, CONFIG)) for side in (turned, champion))
    assert found["slices"] == expected["slices"]


def test_evaluations_of_different_tests_are_refused(run: SmallRun, sides: tuple[Artifact, Artifact]) -> None:
    other = evaluate(run.store, dataclasses.replace(run.mined, md5="another.dir"), run.vectors, CONFIG, TextLimits())
    with pytest.raises(InputError, match=r"test set .* do not compare; evaluate both versions on one test set"):
        compare(run.store, sides[0], other, CONFIG)

    def cut(into: Path) -> None:
        pq.write_table(pq.read_table(sides[1].file("queries.parquet")).slice(1), into / "queries.parquet")
        (into / "protocol.json").write_text(sides[1].file("protocol.json").read_text())

    fewer = run.store.build("evaluation", 1, {"cut": True}, {}, cut)
    with pytest.raises(InputError, match="29 and 30, 1 without a partner"):
        compare(run.store, sides[0], fewer, CONFIG)
    assert not list(run.store.root.glob("comparison/.*tmp*"))


def test_it_is_made_once_for_two_evaluations(run: SmallRun, sides: tuple[Artifact, Artifact]) -> None:
    first = compare(run.store, *sides, CONFIG)
    assert compare(run.store, *sides, CONFIG) == first
    assert compare(run.store, *sides[::-1], CONFIG).key != first.key
    assert compare(run.store, *sides, CONFIG.model_copy(update={"resamples": 200})).key != first.key
