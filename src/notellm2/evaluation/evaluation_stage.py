"""Stage "evaluation": measure a model on its test set, beside the baselines."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from notellm2.artifacts import Artifact, Store
from notellm2.evaluation import examples
from notellm2.evaluation.baselines import Popular, TfIdf
from notellm2.evaluation.cases import Cases, MinedData, read_cases, read_vectors
from notellm2.evaluation.linear_stage import FEATURES_STAGE, linear_vectors
from notellm2.evaluation.metrics import RELIANCE, Metrics, headline, measure, usable_ks
from notellm2.evaluation.ranks import Bool, Cosine, Ranks, Scorer, count_ranks
from notellm2.evaluation.slices import images_read, slice_queries
from notellm2.evaluation.space import Space, describe_space
from notellm2.recipe import EvaluationConfig, TextLimits

logger = logging.getLogger(__name__)

EVALUATION_VERSION = 4

TIE_RULE = "equal scores are in random order; figures are expectations over that order"
_NOT_MEASURED_HERE = {"saliency_pairs", "variants", "linear"}
_MODALITIES = {"both": "both", "text_only": "text", "image_only": "image", "shuffled": "shuffled", "vision": "vision"}


def evaluate(
    store: Store,
    data: MinedData,
    vectors: Artifact,
    config: EvaluationConfig,
    text: TextLimits,
    variants: Mapping[str, Artifact] | None = None,
) -> Artifact:
    """Rank every test target in the whole pool, with the tuned model and the baselines.

    Args:
        store: where the artifact goes.
        data: the notes, and the test pairs, pool and popularity mined from their behaviour.
        vectors: embeddings of all notes (both.npy, text.npy, image.npy, shuffled.npy, vision.npy); the frozen features
            that they were made from are what the linear baseline reads.
        config: cut-offs, bounds of the slices, resamples, and the text the TF-IDF baseline may read.
        text: how much text the model reads; what TF-IDF reads when `config` says nothing else.
        variants: vectors of the variants shown beside the model, by name: "text" gives the row `variant_text`.

    Returns:
        Stage "evaluation": metrics.json and intervals.json (see `metrics.py`), space.json (see `space.py`),
        protocol.json, queries.parquet (a row a test pair, with <model>_above, <model>_ties and <model>_rank, and a
        column a slice), examples.json. Its summary has the headline recall of every model and `visual_reliance`.
        All names: docs/reference/metrics.md.

    Raises:
        InputError: no test pairs, or a pool smaller than every cut-off.
        ArtifactError: pairs, vectors and data set do not belong together.
    """
    limits = config.tfidf_limits or text
    others = _variant_rows(variants or {})
    linear = _linear(store, data, vectors, limits) if config.linear else None
    models = _Models(vectors, others, linear, limits)
    return store.build(
        "evaluation",
        EVALUATION_VERSION,
        {**config.model_dump(mode="json", exclude=_NOT_MEASURED_HERE), "tfidf_limits": limits.model_dump()},
        {"data": data.md5, "pairs": data.pairs, "vectors": vectors, **others, **({"linear": linear} if linear else {})},
        lambda into: _write(into, data, models, config),
    )


@dataclass(frozen=True)
class _Models:
    """What is ranked.

    Attributes:
        vectors: of the tuned model.
        variants: vectors of the variants, by row.
        linear: vectors of the linear baseline, if it is measured.
        limits: text that the TF-IDF baseline reads.
    """

    vectors: Artifact
    variants: Mapping[str, Artifact]
    linear: Artifact | None
    limits: TextLimits


def _write(into: Path, data: MinedData, models: _Models, config: EvaluationConfig) -> Mapping[str, Any]:
    """Measure all models and write the artifact's files; returns its summary."""
    cases = read_cases(data, min(config.ks))
    ks = usable_ks(config.ks, len(cases.pool_rows))
    slices = slice_queries(cases, images_read(read_vectors(models.vectors, "vision", cases)), config)
    ranks, seconds = _rank(cases, _scorers(cases, models))
    metrics, intervals = measure(ranks, slices.masks, ks, config.resamples)
    protocol = {
        "test_set": cases.digest(data.md5),
        **_protocol(cases, config, ks),
        "slices": slices.labels,
        "tfidf_limits": models.limits.model_dump(),
        "ranking_seconds": seconds,
    }
    _write_json(into / "metrics.json", metrics)
    _write_json(into / "intervals.json", intervals)
    _write_json(into / "space.json", {"both": describe_space(_space(cases, models.vectors, config.new_hours))})
    _write_json(into / "protocol.json", protocol)
    pq.write_table(_queries(cases, ranks, slices.masks), into / "queries.parquet")
    _write_json(into / "examples.json", _examples(cases, ranks, _cosine(cases, models.vectors, "both")))
    return _summary(metrics, f"recall@{headline(ks)}", protocol)


def _rank(cases: Cases, scorers: Iterable[tuple[str, Scorer]]) -> tuple[dict[str, Ranks], dict[str, float]]:
    """The ranks of every model, chance included, and the seconds each took."""
    selves, targets = cases.columns(cases.query_rows), cases.columns(cases.target_rows)
    ranks: dict[str, Ranks] = {}
    seconds: dict[str, float] = {}
    for name, scorer in scorers:
        started = time.monotonic()
        ranks[name] = count_ranks(scorer, targets, selves)
        seconds[name] = round(time.monotonic() - started, 3)
    ranks["random"] = Ranks.by_chance(ranks["both"].candidates)
    return ranks, seconds


def _protocol(cases: Cases, config: EvaluationConfig, ks: Sequence[int]) -> dict[str, Any]:
    """How the figures were measured, as plain data."""
    return {
        "queries": len(cases.query_rows),
        "pool": len(cases.pool_rows),
        "queries_in_pool": int((cases.columns(cases.query_rows) >= 0).sum()),
        "ks": list(ks),
        "ks_beyond_the_pool": sorted(set(config.ks) - set(ks)),
        "short_text_chars": config.short_text_chars,
        "new_hours": config.new_hours,
        "age_measured_at": cases.now.isoformat() if cases.now else None,
        "resamples": config.resamples,
        "tie_rule": TIE_RULE,
    }


def _summary(metrics: Metrics, recall: str, protocol: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "queries": protocol["queries"],
        "pool": protocol["pool"],
        recall: {name: of_model["all"][recall] for name, of_model in metrics.items()},
        RELIANCE: metrics["both"]["all"][RELIANCE],
    }


def _examples(cases: Cases, ranks: Mapping[str, Ranks], model: Scorer) -> list[dict[str, Any]]:
    expected = {name: of_model.expected() for name, of_model in ranks.items()}
    return examples.describe(examples.choose(expected["both"], expected["tfidf"]), cases, expected, model)


def _linear(store: Store, data: MinedData, vectors: Artifact, limits: TextLimits) -> Artifact | None:
    """The linear baseline's vectors; None where the features that the vectors were made from are gone."""
    key = vectors.manifest["inputs"].get("features")
    features = None if key is None else store.find(FEATURES_STAGE, key)
    if features is None:
        logger.warning("no linear baseline: the image features behind vectors/%s are gone from the store", vectors.key)
        return None
    return linear_vectors(store, data, features, limits)


def _scorers(cases: Cases, models: _Models) -> Iterator[tuple[str, Scorer]]:
    """Every model that is ranked, one at a time: only one has its scores and vectors in memory."""
    for name in _MODALITIES:
        yield name, _cosine(cases, models.vectors, name)
    for name, of_variant in models.variants.items():
        yield name, _cosine(cases, of_variant, "both")
    if models.linear is not None:
        array = read_vectors(models.linear, "linear", cases)
        yield "linear", Cosine(array[cases.query_rows], array[cases.pool_rows])
    for name, cut in (("tfidf", models.limits), ("tfidf_full", None)):
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
