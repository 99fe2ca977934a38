"""Stage "comparison": compare candidate and champion, query by query, on one test set.

Two figures of one test set differ for two reasons: the models, and which queries the test happens to hold. Pairing the
queries and resampling them together takes the second out: a difference whose interval excludes zero is one that other
queries of the same kind would show too.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from notellm2.artifacts import Artifact, Store
from notellm2.errors import InputError
from notellm2.evaluation.bootstrap import resample
from notellm2.evaluation.metrics import RELIANCE, visual_reliance
from notellm2.evaluation.ranks import F64, Bool, Ranks
from notellm2.recipe import EvaluationConfig

VERSION = 1
TEST = "paired bootstrap"
METRICS = ("recall@10", "mrr", "ndcg@10", RELIANCE)


def compare(store: Store, candidate: Artifact, champion: Artifact, config: EvaluationConfig) -> Artifact:
    """Compare two evaluations of one test set.

    Args:
        store: where the artifact goes.
        candidate: evaluation of the version that wants to become champion.
        champion: evaluation of the version in use, on the same data, test pairs and pool.
        config: `resamples` is read.

    Returns:
        Stage "comparison". ``comparison.json``: {"candidate": key, "champion": key, "test": "paired bootstrap",
        "resamples": n, "slices": {slice: {"n", "wins", "losses", "ties", metric: {"candidate", "champion",
        "difference", "low", "high", "p"}}}} with the metrics recall@10, mrr, ndcg@10 and visual_reliance; a positive
        difference is in the candidate's favour; in a slice without queries the metrics are null. ``queries.parquet``:
        query_id, target_id, candidate_rank, champion_rank (expected, 1 the best), outcome (win, loss, tie: of the
        candidate).

    Raises:
        InputError: the evaluations are of different test sets.
    """

    def write(into: Path) -> Mapping[str, Any]:
        ours, theirs = _read(candidate), _read(champion)
        theirs = theirs.take(_partners(candidate, ours, champion, theirs))
        slices = list(json.loads(candidate.file("protocol.json").read_text())["slices"])
        masks = {name: ours[name].to_numpy(zero_copy_only=False) for name in slices}
        sides = (_Side.of(ours), _Side.of(theirs))
        compared = {name: _slice(*sides, mask, config.resamples) for name, mask in masks.items()}
        result = {
            "candidate": candidate.key,
            "champion": champion.key,
            "test": TEST,
            "resamples": config.resamples,
            "slices": compared,
        }
        (into / "comparison.json").write_text(json.dumps(result, indent=2, allow_nan=False) + "\n", encoding="utf-8")
        pq.write_table(_outcomes(ours, *sides), into / "queries.parquet")
        every = compared["all"]
        return {
            "candidate": candidate.key,
            "champion": champion.key,
            **{name: every[name] for name in ("n", "wins", "losses", "ties", "recall@10", RELIANCE)},
        }

    inputs = {"candidate": candidate, "champion": champion}
    return store.build("comparison", VERSION, {"resamples": config.resamples}, inputs, write)


class _Side:
    """One model's values for each query."""

    def __init__(self, both: Ranks, shuffled: Ranks) -> None:
        self.rank = both.expected()
        self.values: dict[str, F64] = {
            "recall@10": both.recall(10),
            "mrr": both.reciprocal(),
            "ndcg@10": both.ndcg(10),
            RELIANCE: visual_reliance(both, shuffled),
        }

    @classmethod
    def of(cls, queries: pa.Table) -> _Side:
        """The values of a row of queries.parquet each."""
        return cls(*(_ranks(queries, model) for model in ("both", "shuffled")))


def _ranks(queries: pa.Table, model: str) -> Ranks:
    columns = (queries[f"{model}_above"], queries[f"{model}_ties"], queries["candidates"])
    return Ranks(*(column.to_numpy().astype(np.int64) for column in columns))


def _slice(ours: _Side, theirs: _Side, mask: Bool, resamples: int) -> dict[str, Any]:
    n = int(mask.sum())
    better = (ours.rank < theirs.rank)[mask]
    worse = (ours.rank > theirs.rank)[mask]
    figures: dict[str, Any] = {
        "n": n,
        "wins": int(better.sum()),
        "losses": int(worse.sum()),
        "ties": int((~better & ~worse).sum()),
    }
    if n == 0:
        return figures | dict.fromkeys(METRICS)
    a, b = (np.column_stack([side.values[metric][mask] for metric in METRICS]) for side in (ours, theirs))
    spread = resample(a - b, resamples)
    for i, metric in enumerate(METRICS):
        figures[metric] = {
            "candidate": float(a[:, i].mean()),
            "champion": float(b[:, i].mean()),
            "difference": float((a - b)[:, i].mean()),
            "low": float(spread.low[i]),
            "high": float(spread.high[i]),
            "p": float(spread.p[i]),
        }
    return figures


def _read(evaluation: Artifact) -> pa.Table:
    return pq.read_table(evaluation.file("queries.parquet"))


def _partners(candidate: Artifact, ours: pa.Table, champion: Artifact, theirs: pa.Table) -> pa.Array:
    """Row of `theirs` for each row of `ours`: the same query and target."""
    tests = [json.loads(side.file("protocol.json").read_text()).get("test_set") for side in (candidate, champion)]
    if tests[0] is None or tests[0] != tests[1]:
        raise InputError(
            f"evaluation/{champion.key} is of test set {tests[1]}, evaluation/{candidate.key} of {tests[0]}: figures "
            "of different data, test pairs or pools do not compare; evaluate both versions on one test set"
        )
    keys = [_keys(table) for table in (ours, theirs)]
    partners = pc.index_in(keys[0], value_set=keys[1])
    if partners.null_count or len(ours) != len(theirs) or len(set(partners.to_pylist())) != len(partners):
        raise InputError(
            f"evaluation/{champion.key} and evaluation/{candidate.key} do not hold the same queries: "
            f"{len(theirs)} and {len(ours)}, {partners.null_count} without a partner; evaluate both again"
        )
    return partners


def _keys(queries: pa.Table) -> pa.Array:
    """One text a row, different for different (query, target)."""
    pairs = zip(queries["query_id"].to_pylist(), queries["target_id"].to_pylist(), strict=True)
    return pa.array([json.dumps(pair) for pair in pairs], pa.string())


def _outcomes(queries: pa.Table, ours: _Side, theirs: _Side) -> pa.Table:
    outcome = np.where(ours.rank < theirs.rank, "win", np.where(ours.rank > theirs.rank, "loss", "tie"))
    return pa.table(
        {
            "query_id": queries["query_id"],
            "target_id": queries["target_id"],
            "candidate_rank": pa.array(ours.rank, pa.float64()),
            "champion_rank": pa.array(theirs.rank, pa.float64()),
            "outcome": pa.array(outcome.tolist(), pa.string()),
        }
    )
