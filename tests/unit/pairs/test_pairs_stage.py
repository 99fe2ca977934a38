from __future__ import annotations

import shutil
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from notellm2.artifacts import Artifact, Store
from notellm2.errors import InputError
from notellm2.notes.dataset import Dataset
from notellm2.notes.schema import INTERACTIONS, NOTES, PAIRS
from notellm2.pairs.pairs_stage import VERSION, bounds_where_set, mine
from notellm2.recipe import PairsConfig
from tests.unit.pairs import naive
from tests.unit.pairs.conftest import START, Row, behaviour, note_table

Write = Callable[..., Dataset]
IDS = [f"n{i:03d}" for i in range(120)]
SPLITS = ("train", "validation", "test")


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    rng = np.random.default_rng(3)
    events = rng.choice(["view", "view", "click", "like"], 6000)
    return [
        (f"u{rng.integers(150)}", IDS[int(120 * rng.random() ** 2)], str(event), int(rng.integers(5000)))
        for event in events
    ]


def read(artifact: Artifact, name: str) -> list[tuple[object, ...]]:
    table = pq.read_table(artifact.file(f"{name}.parquet"))
    return list(zip(*(column.to_pylist() for column in table.columns), strict=True))


def run(dataset: Dataset, tmp_path: Path, **changes: object) -> Artifact:
    return mine(Store(tmp_path / "store"), dataset, "md5", PairsConfig.model_validate(changes))


def test_files_and_summary(write_dataset: Write, tmp_path: Path, rows: list[Row]) -> None:
    artifact = run(write_dataset(note_table(IDS), behaviour(rows), shards=3), tmp_path, top_t=4)
    for name in SPLITS:
        assert pq.read_schema(artifact.file(f"{name}.parquet")).equals(PAIRS)
    notes = read(artifact, "notes")
    assert [note for note, _, _ in notes] == IDS
    clickers = {note: len({u for u, n, e, _ in rows if n == note and e in ("click", "like")}) for note in IDS}
    assert {note: popularity for note, _, popularity in notes} == clickers
    summary = artifact.summary
    assert summary["notes"] == {name: sum(s == name for _, s, _ in notes) for name in SPLITS}
    assert summary["pairs"] == {name: len(read(artifact, name)) for name in SPLITS}
    assert summary["pool"] == len(read(artifact, "pool"))
    assert summary["events"] == len(rows)
    for name in SPLITS:
        assert summary["candidates"][name] == summary["pairs"][name] + sum(summary["dropped"][name].values())
        scores = [score for _, _, score, _ in read(artifact, name)]
        assert summary["score_quantiles"][name]["1"] == pytest.approx(max(scores), abs=1e-6)


@pytest.mark.parametrize("assign", ["random", "newest"])
@pytest.mark.parametrize("protocol", ["paper", "best-partner"])
def test_no_note_is_in_two_splits(
    write_dataset: Write, tmp_path: Path, rows: list[Row], assign: str, protocol: str
) -> None:
    created = np.random.default_rng(0).permutation(120).tolist()
    artifact = run(write_dataset(note_table(IDS, created), behaviour(rows)), tmp_path, assign=assign, protocol=protocol)
    split = {note: name for note, name, _ in read(artifact, "notes")}
    for name in SPLITS:
        pairs = read(artifact, name)
        assert pairs
        assert {split[note] for pair in pairs for note in pair[:2]} == {name}
    for name, file in (("test", "pool"), ("validation", "validation_pool")):
        pool = [note for (note,) in read(artifact, file)]
        assert pool == sorted(set(pool), key=IDS.index)
        assert {split[note] for note in pool} == {name}
        assert {pair[1] for pair in read(artifact, name)} <= set(pool)
        if protocol == "paper":
            queries = {pair[0] for pair in read(artifact, name)}
            assert set(pool) == {note for note in IDS if split[note] == name} - queries
    if assign == "newest":
        oldest = {name: min(created[IDS.index(n)] for n in IDS if split[n] == name) for name in SPLITS}
        newest = {name: max(created[IDS.index(n)] for n in IDS if split[n] == name) for name in SPLITS}
        assert newest["train"] < oldest["validation"]
        assert newest["validation"] < oldest["test"]


def test_training_pairs_are_what_the_definition_says(write_dataset: Write, tmp_path: Path, rows: list[Row]) -> None:
    artifact = run(write_dataset(note_table(IDS), behaviour(rows)), tmp_path, top_t=5)
    members = {note for note, name, _ in read(artifact, "notes") if name == "train"}
    assert read(artifact, "train") == naive.mine(rows, IDS, members, PairsConfig(top_t=5), 5)


@pytest.mark.parametrize("score", ["notellm", "cosine"])
def test_before_after_mines_each_side_from_its_own_behaviour(
    write_dataset: Write, tmp_path: Path, rows: list[Row], score: str
) -> None:
    config = PairsConfig.model_validate(
        {"behaviour": "before-after", "cut_share": 0.6, "score": score, "protocol": "best-partner"}
    )
    dataset = write_dataset(note_table(IDS), behaviour(rows))
    artifact = run(dataset, tmp_path, **config.model_dump(exclude_defaults=True))
    summary = artifact.summary
    before = [row for row in rows if (START + timedelta(seconds=row[3])).isoformat() < summary["cut"]]
    after = [row for row in rows if row not in set(before)]
    assert summary["events_before_cut"] == len(before)
    assert len(before) / len(rows) == pytest.approx(0.6, abs=0.01)
    split = {note: name for note, name, _ in read(artifact, "notes")}
    sides = {"train": (before, config.top_t), "validation": (after, 1), "test": (after, 1)}
    for name, (seen, top_t) in sides.items():
        members = {note for note in IDS if split[note] == name}
        # Scores too: N_u and popularity come from that side's behaviour alone.
        assert read(artifact, name) == naive.mine(seen, IDS, members, config, top_t)
    for note, name, popularity in read(artifact, "notes"):
        assert popularity == len({u for u, n, e, _ in sides[str(name)][0] if n == note and e in ("click", "like")})


def test_behaviour_after_the_cut_does_not_reach_training(write_dataset: Write, tmp_path: Path, rows: list[Row]) -> None:
    late = [row for row in rows if row[3] >= 3000]
    other = [(f"x{i % 90}", IDS[(7 * i) % 120], "like", row[3]) for i, row in enumerate(late)]
    early = [row for row in rows if row[3] < 3000]
    share = len(early) / len(rows)
    trains = []
    for number, rest in enumerate((late, other)):
        dataset = write_dataset(note_table(IDS), behaviour(early + sorted(rest, key=lambda row: row[3])))
        artifact = run(dataset, tmp_path / str(number), behaviour="before-after", cut_share=share)
        trains.append(read(artifact, "train"))
        dataset.path.rename(tmp_path / f"used-{number}")
    assert trains[0] == trains[1]
    assert trains[0]


def test_validation_may_be_left_out(write_dataset: Write, tmp_path: Path, rows: list[Row]) -> None:
    artifact = run(write_dataset(note_table(IDS), behaviour(rows)), tmp_path, validation_share=0)
    assert read(artifact, "validation") == []
    assert pq.read_schema(artifact.file("validation.parquet")).equals(PAIRS)
    assert artifact.summary["score_quantiles"]["validation"] == {}


def test_equal_work_is_byte_for_byte_equal(write_dataset: Write, tmp_path: Path, rows: list[Row]) -> None:
    dataset = write_dataset(note_table(IDS), behaviour(rows))
    first, second = (run(dataset, tmp_path / name) for name in ("a", "b"))
    assert first.manifest["files"] == second.manifest["files"]
    assert run(dataset, tmp_path / "a").manifest["created"] == first.manifest["created"]


def test_no_pairs_names_the_thresholds(write_dataset: Write, tmp_path: Path, rows: list[Row]) -> None:
    dataset = write_dataset(note_table(IDS), behaviour(rows))
    with pytest.raises(InputError, match=r"(?s)train notes is left.*\d+ by pairs.min_support = 99: lower it"):
        run(dataset, tmp_path, min_support=99)
    with pytest.raises(InputError, match=r"(?s)\d+ by pairs.min_popularity = 400: lower it"):
        run(dataset, tmp_path, min_popularity=400)
    with pytest.raises(InputError, match=r"(?s)\d+ by pairs.lower = 1000.0: lower it"):
        run(dataset, tmp_path, lower=1000)
    with pytest.raises(InputError, match=r"(?s)\d+ by pairs.upper = 1e-06: raise it"):
        run(dataset, tmp_path, upper=1e-6)
    assert not list((tmp_path / "store" / "pairs").glob("[!.]*"))


def test_no_shared_users_is_said(write_dataset: Write, tmp_path: Path) -> None:
    alone = behaviour([(f"u{i}", note, "like", i) for i, note in enumerate(IDS)])
    with pytest.raises(InputError, match=r"no user connects any two of the \d+ train notes; lower pairs.test_share"):
        run(write_dataset(note_table(IDS), alone), tmp_path)


def test_unknown_events_are_said(write_dataset: Write, tmp_path: Path, rows: list[Row]) -> None:
    with pytest.raises(InputError, match=r"target_events.*'buy'.*click \(\d+\), like"):
        run(write_dataset(note_table(IDS), behaviour(rows)), tmp_path, target_events=["buy"])


@pytest.mark.shared
def test_fair_protocol_of_the_film_data(write_dataset: Write, tmp_path: Path, shared: Path) -> None:
    raw = shared / "data" / "movielens-posters"
    ids = pq.read_table(raw / "notes.parquet", columns=["note_id"])["note_id"]
    source = pq.read_table(raw / "interactions.parquet", columns=["user_id", "note_id", "event", "timestamp"])
    seconds = source["timestamp"].cast(pa.int64())
    times = pc.multiply(seconds, 1_000_000).cast(pa.timestamp("us", tz="UTC"))
    interactions = source.set_column(3, "timestamp", times).cast(INTERACTIONS)
    notes = note_table(ids.to_pylist())
    assert notes.schema.equals(NOTES)
    artifact = run(
        write_dataset(notes, interactions),
        tmp_path,
        score="cosine",
        direction="symmetric",
        source_events=["like"],
        target_events=["like"],
        history_cap=1_000_000,
        min_support=3,
        min_popularity=10,
        top_t=10,
        test_share=0.3,
        validation_share=0.0,
        split_seed=1,
        protocol="best-partner",
    )
    summary = artifact.summary
    assert (summary["pairs"]["train"], summary["pool"], summary["pairs"]["test"]) == (20_280, 867, 867)
    assert summary["notes"]["test"] == 3039
    assert summary["users_capped"] == {"training": 0, "held_out": 0}


def test_bounds_in_time_give_what_data_within_them_gives(write_dataset: Write, tmp_path: Path, rows: list[Row]) -> None:
    cut, until = START + timedelta(seconds=2500), START + timedelta(seconds=4000)
    bounded = {"behaviour": "before-after", "cut_at": cut, "until": until, "top_t": 4}
    whole = run(write_dataset(note_table(IDS), behaviour(rows)), tmp_path, **bounded)
    assert whole.summary["cut"] == cut.isoformat()
    assert whole.summary["events"] == sum(seconds < 4000 for *_, seconds in rows)
    assert whole.summary["events_before_cut"] == sum(seconds < 2500 for *_, seconds in rows)
    elsewhere = tmp_path / "cut off"
    elsewhere.mkdir()
    shutil.move(tmp_path / "data", elsewhere / "data")
    shorter = write_dataset(note_table(IDS), behaviour([row for row in rows if row[3] < 4000]))
    apart = run(shorter, elsewhere, **(bounded | {"until": None}))
    for name in SPLITS:
        assert read(apart, name) == read(whole, name)


def test_bounds_count_in_the_key_only_where_they_are_set() -> None:
    store = Store(Path("nowhere"))

    def key(**changes: object) -> str:
        config = PairsConfig.model_validate(changes)
        return store.key("pairs", VERSION, bounds_where_set(config), {"data": "md5"})

    named = PairsConfig().model_dump(mode="json")
    del named["cut_at"], named["until"], named["related_share"]
    assert key() == store.key("pairs", VERSION, named, {"data": "md5"})
    assert key(related_share=0.5) != key()
    assert key(until=START) != key() != key(until=START + timedelta(days=1))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cut_at": START}, "set behaviour to before-after"),
        ({"behaviour": "before-after", "cut_at": START, "until": START}, "leaves nothing before until"),
        ({"until": "2026-01-01T00:00:00"}, "timezone"),
    ],
)
def test_bounds_that_mean_nothing_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PairsConfig.model_validate(changes)


@pytest.mark.parametrize("score", ["notellm", "cosine"])
def test_related_notes_score_a_share_of_the_weakest_kept_pair(
    write_dataset: Write, tmp_path: Path, rows: list[Row], score: str
) -> None:
    """Against every pair there is: mined again with all targets and without support."""
    dataset = write_dataset(note_table(IDS), behaviour(rows))
    artifact = run(dataset, tmp_path, top_t=3, score=score, related_share=0.5)
    kept = read(artifact, "train")
    everything = read(run(dataset, tmp_path, top_t=120, score=score, min_support=1), "train")
    weakest: dict[object, float] = {}
    for query, _, value, _ in kept:
        weakest[query] = min(weakest.get(query, np.inf), float(value))  # type: ignore[arg-type]
    pairs = {(query, target) for query, target, _, _ in kept}
    expected = [
        pair
        for pair in everything
        if pair[0] in weakest and pair[2] >= 0.5 * weakest[pair[0]] - 1e-7 and pair[:2] not in pairs  # type: ignore[operator]
    ]
    found = read(artifact, "related")
    assert {pair[:2] for pair in found} == {pair[:2] for pair in expected}
    assert len(found) == artifact.summary["related"] > 20


def test_related_notes_change_nothing_where_they_are_not_asked_for(
    write_dataset: Write, tmp_path: Path, rows: list[Row]
) -> None:
    dataset = write_dataset(note_table(IDS), behaviour(rows))
    plain, related = run(dataset, tmp_path), run(dataset, tmp_path, related_share=0.5)
    assert "related_share" not in bounds_where_set(PairsConfig())
    assert not (plain.path / "related.parquet").exists()
    assert plain.key != related.key
    for name in (*SPLITS, "pool", "notes"):
        assert read(plain, name) == read(related, name)
