"""The stage "pairs": splits, mined pairs, test pairs and pool, as an artifact."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from notellm2.artifacts import Artifact, Store
from notellm2.errors import InputError
from notellm2.notes.dataset import Dataset
from notellm2.notes.schema import PAIRS
from notellm2.pairs.events import behaviour_batches, read_events
from notellm2.pairs.histories import Histories, build_histories
from notellm2.pairs.mine import Mined, mine_pairs, related_pairs
from notellm2.pairs.protocol import held_out_pairs, targets_per_query
from notellm2.pairs.split import SPLITS, TRAIN, assign_notes, cut_time
from notellm2.recipe import PairsConfig

VERSION = 1
_QUANTILES = (0.0, 0.1, 0.5, 0.9, 1.0)

NOTES = pa.schema(
    [
        pa.field("note_id", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("popularity", pa.int32(), nullable=False),
    ]
)
POOL = pa.schema([pa.field("note_id", pa.string(), nullable=False)])


def mine(store: Store, dataset: Dataset, data_md5: str, config: PairsConfig) -> Artifact:
    """Split the notes and mine pairs within each split.

    Files of the artifact:
        train.parquet, validation.parquet, test.parquet: schema `PAIRS`; by query in data set order, then score
            descending. Validation follows the test's protocol.
        pool.parquet, validation_pool.parquet: note_id in data set order; what test and validation queries search.
        related.parquet, where `related_share` is set: schema `PAIRS`; training notes that are related and no pair.
        notes.parquet: every note in data set order, its split, and popularity: users who clicked it in the behaviour
            that its split may see.

    Args:
        store: where the artifact goes.
        dataset: the notes and their behaviour.
        data_md5: the data version.
        config: the recipe's section.

    Raises:
        InputError: the events, shares or thresholds leave a split without pairs; says which, by how much, and what to
            change.
    """
    return store.build(
        stage="pairs",
        version=VERSION,
        config=bounds_where_set(config),
        inputs={"data": data_md5},
        write=lambda directory: write_pairs(directory, dataset, config),
    )


def write_pairs(directory: Path, dataset: Dataset, config: PairsConfig) -> dict[str, Any]:
    """Write the stage's files and return its summary; see `mine`."""
    started = time.monotonic()
    notes = dataset.notes(("note_id", "created_at"))
    note_ids = notes["note_id"].combine_chunks()
    split = assign_notes(
        notes,
        config.assign,
        validation_share=config.validation_share,
        test_share=config.test_share,
        seed=config.split_seed,
    )
    behaviour = _behaviour(dataset, note_ids, config)
    mined: dict[str, Mined] = {}
    pools: dict[str, npt.NDArray[np.int32]] = {}
    popularity = np.zeros(len(note_ids), np.int32)
    for code, name in enumerate(SPLITS):
        histories = behaviour.training if code == TRAIN else behaviour.held_out
        member = split == code
        popularity[member] = histories.clickers[member]
        if code == TRAIN:
            mined[name] = mine_pairs(histories, member, config)
            if config.related_share is not None:
                related = related_pairs(histories, member, config, mined[name])
                pq.write_table(_pairs_table(related, note_ids), directory / "related.parquet")
        else:
            candidates = mine_pairs(histories, member, config, top_t=targets_per_query(config.protocol, config.top_t))
            mined[name], pools[name] = held_out_pairs(
                candidates,
                member,
                histories.clickers,
                protocol=config.protocol,
                min_popularity=config.min_popularity,
            )
        _require_pairs(name, int(np.count_nonzero(member)), mined[name], config)
        pq.write_table(_pairs_table(mined[name], note_ids), directory / f"{name}.parquet")
    for name, file in (("test", "pool"), ("validation", "validation_pool")):
        pq.write_table(pa.table([note_ids.take(pa.array(pools[name]))], schema=POOL), directory / f"{file}.parquet")
    names = pa.array(SPLITS).take(pa.array(split))
    pq.write_table(pa.table([note_ids, names, pa.array(popularity)], schema=NOTES), directory / "notes.parquet")
    return {
        "notes": {name: int(np.count_nonzero(split == code)) for code, name in enumerate(SPLITS)},
        "pairs": {name: len(pairs) for name, pairs in mined.items()},
        "pool": len(pools["test"]),
        "validation_pool": len(pools["validation"]),
        "candidates": {name: pairs.candidates for name, pairs in mined.items()},
        "dropped": {name: pairs.dropped for name, pairs in mined.items()},
        "score_quantiles": {name: _quantiles(pairs.score) for name, pairs in mined.items()},
        "most_frequent_target": {name: _hub(pairs.target) for name, pairs in mined.items()},
        **({} if config.related_share is None else {"related": len(related)}),
        **behaviour.counts,
        "seconds": round(time.monotonic() - started, 3),
    }


def bounds_where_set(config: PairsConfig) -> dict[str, Any]:
    """Return the section as it enters the key: a field that came later counts only where it is set."""
    unset = {name for name in ("cut_at", "until", "related_share") if getattr(config, name) is None}
    return config.model_dump(mode="json", exclude=unset)


@dataclass(frozen=True)
class _Behaviour:
    """What each side may see (the same object where behaviour is not cut), and counts for the summary."""

    training: Histories
    held_out: Histories
    counts: dict[str, Any]


def _behaviour(dataset: Dataset, note_ids: pa.Array, config: PairsConfig) -> _Behaviour:
    """Read behaviour, cut it in time if the recipe says so, and build histories of each side apart."""
    symmetric = config.direction == "symmetric"
    events = read_events(
        behaviour_batches(dataset.shards("interactions")),
        note_ids,
        source=() if symmetric else config.source_events,
        target=config.target_events,
    )
    if config.until is not None:
        events = events.where(events.time < _micros(config.until))
    counts: dict[str, Any] = {
        "events": len(events.user),
        "events_of_unknown_notes": events.unknown_notes,
        "users": len(np.unique(events.user)),
        "cut": None,
    }
    if config.behaviour == "whole":
        training = held_out = build_histories(events, cap=config.history_cap, symmetric=symmetric)
    else:
        cut = cut_time(events.time, config.cut_share) if config.cut_at is None else _micros(config.cut_at)
        counts["cut"] = (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=cut)).isoformat()
        counts["events_before_cut"] = int(np.count_nonzero(events.time < cut))
        training = build_histories(events.where(events.time < cut), cap=config.history_cap, symmetric=symmetric)
        held_out = build_histories(events.where(events.time >= cut), cap=config.history_cap, symmetric=symmetric)
    counts["users_capped"] = {"training": training.capped, "held_out": held_out.capped}
    return _Behaviour(training, held_out, counts)


def _micros(moment: datetime) -> int:
    return round(moment.timestamp() * 1e6)


def _require_pairs(name: str, notes: int, pairs: Mined, config: PairsConfig) -> None:
    """Say why a split that should have pairs has none."""
    if len(pairs) or (name == "validation" and config.validation_share == 0):
        return
    if not pairs.candidates:
        shares = "lower pairs.test_share and pairs.validation_share" if name == "train" else f"raise pairs.{name}_share"
        raise InputError(
            f"pairs: no user connects any two of the {notes} {name} notes; {shares}, raise pairs.history_cap "
            f"({config.history_cap}), or bring more behaviour"
        )
    settings = {
        "support": f"pairs.min_support = {config.min_support}: lower it",
        "popularity": f"pairs.min_popularity = {config.min_popularity}: lower it",
        "lower": f"pairs.lower = {config.lower}: lower it",
        "upper": f"pairs.upper = {config.upper}: raise it",
    }
    lines = [f"  {pairs.dropped[key]} by {hint}" for key, hint in settings.items() if pairs.dropped[key]]
    raise InputError(
        f"pairs: none of the {pairs.candidates} candidate pairs between the {notes} {name} notes is left; dropped:\n"
        + "\n".join(lines)
    )


def _pairs_table(pairs: Mined, note_ids: pa.Array) -> pa.Table:
    columns = [
        note_ids.take(pa.array(pairs.query)),
        note_ids.take(pa.array(pairs.target)),
        pa.array(pairs.score),
        pa.array(pairs.support),
    ]
    return pa.table(columns, schema=PAIRS)


def _quantiles(score: npt.NDArray[np.float32]) -> dict[str, float]:
    if not len(score):
        return {}
    return {f"{q:g}": round(float(np.quantile(score, q)), 6) for q in _QUANTILES}


def _hub(target: npt.NDArray[np.int32]) -> int:
    """How many queries the most frequent target belongs to: how far one hub dominates the pairs."""
    return int(np.bincount(target).max()) if len(target) else 0
