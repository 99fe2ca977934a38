"""All figures of a run as tables: what MLflow's list of metrics is too small for.

``metrics.parquet`` has a row a number. ``queries.json`` has a row a query, in the form that MLflow shows as a table, so
that two runs can be compared query by query in its pages; it is cut to `MOST_QUERIES` rows, the file beside it is not.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from notellm2.artifacts import Artifact
from notellm2.registry.figures import read_json

METRICS, QUERIES, ALL_QUERIES = "metrics.parquet", "queries.json", "queries.parquet"
MOST_QUERIES = 1000
_COLUMNS = ("group", "row", "slice", "metric", "value", "low", "high")
_Line = tuple[str, str, str, str, float, float | None, float | None]


def write_tables(folder: Path, evaluation: Artifact, others: Sequence[Artifact]) -> None:
    """Write the tables of an evaluation, and of the comparison and the saliency that go with it.

    Args:
        folder: for `METRICS`, `QUERIES` and `ALL_QUERIES`.
        evaluation: of the run's model.
        others: of the stages comparison and saliency.
    """
    lines = [*_evaluation(evaluation)]
    for artifact in others:
        lines += _comparison(artifact) if artifact.stage == "comparison" else _saliency(artifact)
    columns = zip(*lines, strict=True) if lines else [()] * len(_COLUMNS)
    kinds = [pa.string()] * 4 + [pa.float64()] * 3
    arrays = [pa.array(list(column), kind) for column, kind in zip(columns, kinds, strict=True)]
    pq.write_table(pa.table(arrays, names=_COLUMNS), folder / METRICS)
    queries = _queries(evaluation, [one for one in others if one.stage == "comparison"])
    pq.write_table(queries, folder / ALL_QUERIES)
    shown = queries.slice(0, MOST_QUERIES).to_pydict()
    table = {"columns": list(shown), "data": [list(row) for row in zip(*shown.values(), strict=True)]}
    (folder / QUERIES).write_text(json.dumps(table), encoding="utf-8")


def _evaluation(evaluation: Artifact) -> Iterator[_Line]:
    intervals = read_json(evaluation, "intervals.json")
    for row, slices in read_json(evaluation, "metrics.json").items():
        for part, figures in slices.items():
            ends = intervals.get(row, {}).get(part, {})
            for name, value in figures.items():
                if _is_number(value):
                    end = ends.get(name, {})
                    yield "test", row, part, name, value, end.get("low"), end.get("high")
    for row, figures in read_json(evaluation, "space.json").items():
        for name, value in figures.items():
            if _is_number(value):
                yield "space", row, "", name, value, None, None


def _comparison(comparison: Artifact) -> Iterator[_Line]:
    for part, figures in read_json(comparison, "comparison.json")["slices"].items():
        for name, value in figures.items():
            if isinstance(value, Mapping):
                for side in ("candidate", "champion", "p"):
                    yield "comparison", side, part, name, value[side], None, None
                yield "comparison", "difference", part, name, value["difference"], value["low"], value["high"]
            elif _is_number(value):
                yield "comparison", "", part, name, value, None, None


def _saliency(saliency: Artifact) -> Iterator[_Line]:
    for number, layer in enumerate(read_json(saliency, "saliency.json")["layers"], start=1):
        for name, value in layer.items():
            yield "saliency", f"layer_{number:02d}", "", name, value, None, None


def _queries(evaluation: Artifact, comparisons: Sequence[Artifact]) -> pa.Table:
    """The rank of every query's target, by model and baseline; the champion's, and who won, where it was compared."""
    table = pq.read_table(evaluation.file(ALL_QUERIES))
    ranks = [name for name in table.column_names if name.endswith("_rank") and name != "random_rank"]
    table = table.select(["query_id", "target_id", *ranks])
    for comparison in comparisons:
        compared = pq.read_table(comparison.file(ALL_QUERIES))  # in the same order: it was made from this evaluation
        for name in ("champion_rank", "outcome"):
            table = table.append_column(name, compared[name])
    return table


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
