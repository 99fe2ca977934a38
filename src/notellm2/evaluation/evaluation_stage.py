"""The stage "evaluation": every figure of a model on its test set, beside the baselines'."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from notellm2.artifacts import Artifact, Store
from notellm2.evaluation import examples
from notellm2.evaluation.baselines import Popular, TfIdf
from notellm2.evaluation.cases import Cases, read_cases, read_vectors
from notellm2.evaluation.metrics import RELIANCE, headline, measure, usable_ks
from notellm2.evaluation.ranks import Bool, Cosine, Ranks, Scorer, count_ranks
from notellm2.evaluation.slices import images_read, slice_queries
from notellm2.evaluation.space import Space, describe_space
from notellm2.notes.dataset import Dataset
from notellm2.recipe import EvaluationConfig, TextLimits

EVALUATION_VERSION = 3

TIE_RULE = "equal scores are in random order; figures are expectations over that order"
_NOT_MEASURED_HERE = {"saliency_pairs", "variants"}
_MODALITIES = {"both": "both", "text_only": "text", "image_only": "image", "shuffled": "shuffled", "vision": "vision"}


def evaluate(
    store: Store,
    dataset: Dataset,
    data_md5: str,
    pairs: Artifact,
    vectors: Artifact,
    config: EvaluationConfig,
    text: TextLimits,
    variants: Mapping[str, Artifact] | None = None,
) -> Artifact:
    """Rank every test target in the whole pool, with the tuned model and the baselines.

    Args:
        store: where the artifact goes.
        dataset: the notes.
        data_md5: their version.
        pairs: test pairs, pool, popularity.
        vectors: embeddings of all notes (both.npy, text.npy, image.npy, shuffled.npy, vision.npy).
        config: cut-offs, bounds of the slices, resamples, and the text the TF-IDF baseline may read.
        text: how much text the model reads; what TF-IDF reads when `config` says nothing else.
        variants: vectors of the variants shown beside the model, by name: "text" gives the row `variant_text`.

    Returns:
        Stage "evaluation": metrics.json and intervals.json (see `metrics.py`), space.json (see `space.py`),
        protocol.json, queries.parquet (a row a test pair, with <model>_above, <model>_ties and <model>_rank, and a
        column a slice), examples.json. Its summary has the headline recall of every model and `visual_reliance`.
        All names: docs/metrics.md.

    Raises:
        InputError: no test pairs, or a pool smaller than every cut-off.
        ArtifactError: pairs, vectors and data set do not belong together.
    """
    limits = config.tfidf_limits or text

    def write(into: Path) -> Mapping[str, Any]:
        cases = read_cases(dataset, pairs, min(config.ks))
        ks = usable_ks(config.ks, len(cases.pool_rows))
        slices = slice_queries(cases, images_read(read_vectors(vectors, "vision", cases)), config)
        selves, targets = cases.columns(cases.query_rows), cases.columns(cases.target_rows)
        ranks: dict[str, Ranks] = {}
        seconds: dict[str, float] = {}
        for name, scorer in _scorers(cases, vectors, variants or {}, limits):
            started = time.monotonic()
            ranks[name] = count_ranks(scorer, targets, selves)
            seconds[name] = round(time.monotonic() - started, 3)
        ranks["random"] = Ranks.by_chance(ranks["both"].candidates)
        metrics, intervals = measure(ranks, slices.masks, ks, config.resamples)
        protocol = {
            "test_set": cases.digest(data_md5),
            "queries": len(targets),
            "pool": len(cases.pool_rows),
            "queries_in_pool": int((selves >= 0).sum()),
            "ks": list(ks),
            "ks_beyond_the_pool": sorted(set(config.ks) - set(ks)),
            "short_text_chars": config.short_text_chars,
            "new_hours": config.new_hours,
            "age_measured_at": cases.now.isoformat() if cases.now else None,
            "slices": slices.labels,
            "resamples": config.resamples,
            "tie_rule": TIE_RULE,
            "tfidf_limits": limits.model_dump(),
            "ranking_seconds": seconds,
        }
        _write_json(into / "metrics.json", metrics)
        _write_json(into / "intervals.json", intervals)
        _write_json(into / "space.json", {"both": describe_space(_space(cases, vectors, config.new_hours))})
        _write_json(into / "protocol.json", protocol)
        pq.write_table(_queries(cases, ranks, slices.masks), into / "queries.parquet")
        expected = {name: of_model.expected() for name, of_model in ranks.items()}
        groups = examples.choose(expected["both"], expected["tfidf"])
        _write_json(into / "examples.json", examples.describe(groups, cases, expected, _cosine(cases, vectors, "both")))
        k = headline(ks)
        return {
            "queries": protocol["queries"],
            "pool": protocol["pool"],
            f"recall@{k}": {name: of_model["all"][f"recall@{k}"] for name, of_model in metrics.items()},
            RELIANCE: metrics["both"]["all"][RELIANCE],
        }

    return store.build(
        "evaluation",
        EVALUATION_VERSION,
        {**config.model_dump(mode="json", exclude=_NOT_MEASURED_HERE), "tfidf_limits": limits.model_dump()},
        {"data": data_md5, "pairs": pairs, "vectors": vectors, **_variant_rows(variants or {})},
        write,
    )


def _scorers(
    cases: Cases, vectors: Artifact, variants: Mapping[str, Artifact], limits: TextLimits
) -> Iterator[tuple[str, Scorer]]:
    """Every model that is ranked, one at a time: only one has its scores and vectors in memory."""
    for name in _MODALITIES:
        yield name, _cosine(cases, vectors, name)
    for name, of_variant in _variant_rows(variants).items():
        yield name, _cosine(cases, of_variant, "both")
    for name, cut in (("tfidf", limits), ("tfidf_full", None)):
        yield name, TfIdf(cases.texts(cases.query_rows, cut), cases.texts(cases.pool_rows, cut))
    yield "popular", Popular(len(cases.query_rows), cases.popularity)


def _variant_rows(variants: Mapping[str, Artifact]) -> dict[str, Artifact]:
    return {f"variant_{name}": variants[name] for name in sorted(variants, reverse=True)}


def _cosine(cases: Cases, vectors: Artifact, name: str) -> Cosine:
    array = read_vectors(vectors, _MODALITIES[name], cases)
    return Cosine(array[cases.query_rows], array[cases.pool_rows])


def _space(cases: Cases, vectors: Artifact, new_hours: float) -> Space:
    array, ages = read_vectors(vectors, "both", cases), cases.ages_h()
    young = None if ages is None else ages[cases.pool_rows] < new_hours
    return Space(array[cases.query_rows], array[cases.target_rows], array[cases.pool_rows], young)


def _queries(cases: Cases, ranks: Mapping[str, Ranks], masks: Mapping[str, Bool]) -> pa.Table:
    columns: dict[str, Any] = {"query_id": cases.ids(cases.query_rows), "target_id": cases.ids(cases.target_rows)}
    columns["candidates"] = pa.array(ranks["both"].candidates, pa.int32())
    for name, of_model in ranks.items():
        columns[f"{name}_above"] = pa.array(of_model.above, pa.int32())
        columns[f"{name}_ties"] = pa.array(of_model.ties, pa.int32())
        columns[f"{name}_rank"] = pa.array(of_model.expected(), pa.float64())
    columns |= {name: pa.array(mask) for name, mask in masks.items()}
    return pa.table(columns)


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
