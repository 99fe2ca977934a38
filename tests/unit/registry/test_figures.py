"""The few figures that MLflow shows as metrics, and the tables that have all of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from notellm2.artifacts import Artifact, Store
from notellm2.evaluation.metrics import MODELS, SLICES
from notellm2.registry import names
from notellm2.registry.figures import figures_of
from notellm2.registry.tables import MOST_QUERIES, write_tables

CHANGE = {"candidate": 0.3, "champion": 0.2, "difference": 0.1, "low": 0.0, "high": 0.2, "p": 0.05}
COMPARED = {
    "all": {"n": 2, "wins": 2, "losses": 0, "ties": 0, "recall@10": CHANGE},
    "new_target": {"n": 0, "recall@10": None},
}


def artifact(root: Path, stage: str, **files: Any) -> Artifact:
    def write(into: Path) -> None:
        for name, value in files.items():
            if isinstance(value, pa.Table):
                pq.write_table(value, into / f"{name}.parquet")
            else:
                (into / f"{name}.json").write_text(json.dumps(value))

    return Store(root / "store").build(stage, 1, {}, {}, write)


@pytest.fixture
def comparison(tmp_path: Path) -> Artifact:
    queries = pa.table({"champion_rank": [3.0, 8.0], "outcome": ["win", "win"]})
    return artifact(tmp_path, "comparison", comparison={"candidate": "k", "slices": COMPARED}, queries=queries)


def test_all_that_can_be_measured_is_at_most_sixty_metrics_in_groups(tmp_path: Path, comparison: Artifact) -> None:
    figures = {f"{name}@{k}": 0.5 for name in ("recall", "ndcg") for k in (10, 20, 50, 100, 1000, 10000)}
    figures |= {"mrr": 0.2, "visual_reliance": 0.1, "image_gain": 0.1, "image_gain_over_text_variant": 0.1, "n": 9}
    parts = [*SLICES, "new_target", *(f"popularity_{tenth:02d}" for tenth in range(1, 11)), "category_food"]
    metrics = {row: dict.fromkeys(parts, figures) for row in MODELS}
    space = {"both": dict.fromkeys(("never_in_top_100_share", "duplicate_share", "effective_rank", "dim"), 1)}
    evaluation = artifact(tmp_path, "evaluation", metrics=metrics, space=space)
    costs = {f"seconds/{stage}" for stage in ("vision-features", "training", "vectors", "evaluation", "total")}
    found = {*figures_of(evaluation), *figures_of(comparison), *map(names.training_metric, names.CURVES), *costs}
    found.add("memory/peak_gb")
    assert names.MOST_METRICS - 5 <= len(found) <= names.MOST_METRICS
    assert all("/" in name for name in found)


def test_metrics_have_the_documented_names(evaluation: Callable[..., Artifact], comparison: Artifact) -> None:
    found = figures_of(evaluation())
    assert found["recall_at_10/all/both"] == 0.4
    assert found["recall_at_10/short_query/both"] == 0.35
    assert found["test/mrr"] == 0.2
    assert found["test/queries"] == 200
    assert found["space/effective_rank"] == 6.5
    assert "space/young_share" not in found
    compared = figures_of(comparison)
    assert compared == {f"comparison/{name}": value for name, value in CHANGE.items()} | {
        "comparison/wins": 2,
        "comparison/losses": 0,
    }


def test_the_tables_have_every_figure_and_every_query(
    tmp_path: Path, evaluation: Callable[..., Artifact], comparison: Artifact
) -> None:
    saliency = artifact(tmp_path, "saliency", saliency={"pairs": 4, "layers": [{"text": 0.7}, {"text": 0.2}]})
    write_tables(tmp_path, evaluation(), [comparison, saliency])
    rows = pq.read_table(tmp_path / "metrics.parquet").to_pylist()
    lines = {tuple(row.values()) for row in rows}
    assert ("test", "both", "all", "mrr", 0.2, 0.1, 0.3) in lines
    assert ("space", "both", "", "effective_rank", 6.5, None, None) in lines
    assert ("comparison", "difference", "all", "recall@10", 0.1, 0.0, 0.2) in lines
    assert ("comparison", "", "new_target", "n", 0.0, None, None) in lines
    assert ("saliency", "layer_02", "", "text", 0.2, None, None) in lines
    assert not [row for row in rows if row["value"] is None], "what is undefined is absent"
    assert json.loads((tmp_path / "queries.json").read_text()) == {
        "columns": ["query_id", "target_id", "both_rank", "tfidf_rank", "champion_rank", "outcome"],
        "data": [["a", "b", 1.0, 2.0, 3.0, "win"], ["b", "c", 7.5, 9.0, 8.0, "win"]],
    }


def test_a_page_shows_the_first_queries_and_the_file_has_all(tmp_path: Path) -> None:
    many = MOST_QUERIES + 5
    queries = pa.table({"query_id": list(map(str, range(many))), "target_id": ["t"] * many, "both_rank": [1.0] * many})
    trees: dict[str, Any] = {name: {} for name in ("metrics", "intervals", "space")}
    write_tables(tmp_path, artifact(tmp_path, "evaluation", queries=queries, **trees), [])
    assert len(json.loads((tmp_path / "queries.json").read_text())["data"]) == MOST_QUERIES
    assert pq.read_table(tmp_path / "queries.parquet").num_rows == many


def test_another_stage_has_no_figures(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected an evaluation"):
        figures_of(artifact(tmp_path, "pairs", pairs={}))
