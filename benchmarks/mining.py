"""Co-occurrence mining: our compiled kernel against DuckDB's SQL and a scipy sparse product, on generated behaviour.

Run it as ``python benchmarks/mining.py [--rows 1000000] [--repeat 3] [--json]``; scipy and duckdb come with the
project. All engines read the same parquet file, apply one definition (NoteLLM score, history cap, minimum support,
top t with the same ties) and write nothing. Each run is a process of its own; what is reported is

- CPU seconds (user + system, all threads) and wall seconds from opening the file to the selected pairs, imports and
  numba's compilation left out; compilation from an empty cache is timed once and reported apart;
- peak resident memory of the whole process (imports included) and its value before mining began.

Medians over the repeats. The pairs of all engines are compared: the share of our pairs that an engine also has should
be 1, up to ties that another order of summation breaks otherwise.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

ENGINES = ("kernel", "duckdb", "scipy")
DIRECTIONS = ("directed", "symmetric")
EVENTS = ("view", "click")
Pairs = tuple[Any, Any]


def generate(path: Path, rows: int, seed: int = 7) -> None:
    """Behaviour with heavy-tailed users and notes: one user and one note for every 50 rows, a click in four rows."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rng = np.random.default_rng(seed)
    users = notes = max(100, rows // 50)
    activity = rng.lognormal(0.0, 1.2, users)
    user = rng.choice(users, rows, p=activity / activity.sum()).astype(np.int32)
    popularity = 1.0 / np.arange(1, notes + 1) ** 0.7
    note = rng.permutation(notes)[rng.choice(notes, rows, p=popularity / popularity.sum())].astype(np.int32)
    clicked = rng.random(rows) < 0.25
    stamps = np.sort(rng.integers(0, 7 * 86_400_000_000, rows))
    names = [pa.array([f"{letter}{i}" for i in range(n)]) for letter, n in (("u", users), ("n", notes))]
    table = pa.table(
        {
            "user_id": names[0].take(pa.array(user)),
            "note_id": names[1].take(pa.array(note)),
            "event": pa.array(EVENTS).take(pa.array(clicked.astype(np.int8))),
            "timestamp": pa.array(stamps).cast(pa.timestamp("us", tz="UTC")),
        }
    )
    pq.write_table(table, path / "interactions.parquet", row_group_size=500_000)
    pq.write_table(pa.table({"note_id": names[1]}), path / "notes.parquet")


def prepare_kernel() -> float:
    """Compile every loop on a handful of rows; returns wall seconds."""
    import pyarrow as pa

    from notellm2.recipe import PairsConfig

    started = time.perf_counter()
    table = pa.table(
        {
            "user_id": ["u", "u", "v"],
            "note_id": ["a", "b", "a"],
            "event": ["view", "click", "click"],
            "timestamp": pa.array([2, 1, 3]).cast(pa.timestamp("us", tz="UTC")),
        }
    )
    for direction in DIRECTIONS:
        _kernel([table], pa.array(["a", "b"]), PairsConfig.model_validate({"direction": direction}), None)
    return time.perf_counter() - started


def _kernel(batches: Any, note_ids: Any, config: Any, threads: int | None) -> Pairs:
    from notellm2.pairs.events import read_events
    from notellm2.pairs.histories import build_histories
    from notellm2.pairs.mine import mine_pairs

    symmetric = config.direction == "symmetric"
    source = () if symmetric else config.source_events
    events = read_events(batches, note_ids, source=source, target=config.target_events)
    histories = build_histories(events, cap=config.history_cap, symmetric=symmetric)
    del events
    mined = mine_pairs(histories, np.ones(len(note_ids), bool), config, threads=threads)
    return mined.query, mined.target


def run_kernel(data: Path, options: argparse.Namespace) -> Pairs:
    """The project's own path, from parquet to pairs."""
    import pyarrow.parquet as pq

    from notellm2.pairs.events import behaviour_batches
    from notellm2.recipe import PairsConfig

    config = PairsConfig.model_validate(
        {
            "direction": options.direction,
            "source_events": EVENTS,
            "target_events": ["click"],
            "history_cap": options.cap,
            "min_support": options.support,
            "top_t": options.top,
        }
    )
    note_ids = pq.read_table(data / "notes.parquet")["note_id"].combine_chunks()
    return _kernel(behaviour_batches([data / "interactions.parquet"]), note_ids, config, options.threads)


SQL = """
with notes as (select note_id, row_number() over () - 1 as n from read_parquet('{notes}', file_row_number = true)),
ranked as (
    select b.user_id as u, n, b.event,
           row_number() over (partition by b.user_id order by b.timestamp, b.file_row_number) as p
    from read_parquet('{rows}', file_row_number = true) b join notes using (note_id)
    {only}
),
firsts as (
    select u, n, min(p) filter ({viewed}) as v, min(p) filter (event = 'click') as c from ranked group by u, n
),
sized as (
    select *, count(c) over (partition by u) as clicked,
           row_number() over (partition by u order by greatest(coalesce(v, 0), coalesce(c, 0)) desc) as recency
    from firsts
),
kept as (select * from sized where recency <= {cap}),
scored as (
    select a.n as query, b.n as target, sum(1.0::double / b.clicked)::float as score, count(*) as support
    from kept a join kept b on a.u = b.u and a.n <> b.n and b.c is not null and {follows}
    group by 1, 2 having count(*) >= {support}
)
select query, target from scored
qualify row_number() over (partition by query order by score desc, support desc, target) <= {top}
order by query
"""


def run_duckdb(data: Path, options: argparse.Namespace) -> Pairs:
    """The same definition as one SQL statement."""
    import duckdb

    symmetric = options.direction == "symmetric"
    query = SQL.format(
        notes=data / "notes.parquet",
        rows=data / "interactions.parquet",
        only="where b.event = 'click'" if symmetric else "",
        viewed="event = 'click'" if symmetric else "event in ('view', 'click')",
        follows="true" if symmetric else "a.v < b.c",
        cap=options.cap,
        support=options.support,
        top=options.top,
    )
    connection = duckdb.connect(config={"threads": options.threads, "temp_directory": str(data)})
    found = connection.execute(query).fetchnumpy()
    return found["query"], found["target"]


def run_scipy(data: Path, options: argparse.Namespace) -> Pairs:
    """Users-by-notes matrix M, then M' diag(1/N_u) M in blocks of rows; symmetric only: a product has no order."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq
    import scipy.sparse as sp

    table = pq.read_table(data / "interactions.parquet").filter(pc.field("event") == "click")
    note_ids = pq.read_table(data / "notes.parquet")["note_id"].combine_chunks()
    user = table["user_id"].combine_chunks().dictionary_encode().indices.to_numpy()
    note = pc.index_in(table["note_id"], value_set=note_ids).to_numpy()
    # First click of each note, in the user's order; np.unique gives the first place of every (user, note).
    order = np.lexsort((table["timestamp"].cast("int64").to_numpy(), user))
    user, note = user[order], note[order]
    _, first = np.unique(user.astype(np.int64) * len(note_ids) + note, return_index=True)
    first.sort()
    user, note = user[first], note[first]
    clicked = np.bincount(user)
    ends = np.cumsum(clicked)
    recent = np.arange(len(user)) >= ends[user] - options.cap
    user, note = user[recent], note[recent]
    shape = (len(clicked), len(note_ids))
    ones = sp.csr_matrix((np.ones(len(user)), (user, note)), shape=shape)
    weighted = sp.csr_matrix((1.0 / clicked[user], (user, note)), shape=shape)
    transposed = ones.T.tocsr()
    queries: list[np.ndarray[Any, Any]] = []
    targets: list[np.ndarray[Any, Any]] = []
    for begin in range(0, shape[1], 2048):
        rows = transposed[begin : begin + 2048]
        scores, supports = (rows @ weighted).tocsr(), (rows @ ones).tocsr()
        scores.sort_indices()
        supports.sort_indices()
        for i in range(scores.shape[0]):
            span = slice(scores.indptr[i], scores.indptr[i + 1])
            target = scores.indices[span]
            score, support = scores.data[span].astype(np.float32), supports.data[span]
            fits = (support >= options.support) & (target != begin + i)
            target, score, support = target[fits], score[fits], support[fits]
            best = np.lexsort((target, -support, -score))[: options.top]
            queries.append(np.full(len(best), begin + i))
            targets.append(target[best])
    return np.concatenate(queries), np.concatenate(targets)


RUNNERS: dict[str, Callable[[Path, argparse.Namespace], Pairs]] = {
    "kernel": run_kernel,
    "duckdb": run_duckdb,
    "scipy": run_scipy,
}


def peak_mb(field: str = "VmHWM") -> float:
    """Peak (or, for VmRSS, present) resident memory, MB. From /proc: getrusage's peak survives exec from the parent."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"/proc/self/status has no {field}: this benchmark needs Linux")


def measure(engine: str, data: Path, options: argparse.Namespace) -> None:
    """Run one engine once in this process and print its figures as JSON; pairs go to a file beside the data."""
    import duckdb  # noqa: F401  the imports of every engine stay out of its time
    import scipy.sparse  # noqa: F401

    compile_s = prepare_kernel() if engine == "kernel" else 0.0
    before_mb = peak_mb("VmRSS")
    before = resource.getrusage(resource.RUSAGE_SELF)
    started = time.perf_counter()
    query, target = RUNNERS[engine](data, options)
    wall = time.perf_counter() - started
    after = resource.getrusage(resource.RUSAGE_SELF)
    peak = peak_mb()
    np.save(data / f"{engine}-{options.direction}.npy", np.stack([query, target]).astype(np.int64))
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    figures = {"cpu_s": cpu, "wall_s": wall, "peak_mb": peak, "before_mb": before_mb, "compile_s": compile_s}
    print(json.dumps(figures | {"pairs": len(query)}))


def compare(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Run every engine `repeat` times and return one row of medians each."""
    results: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder)
        generate(data, options.rows)
        environment = {**os.environ, "NUMBA_CACHE_DIR": str(data / "numba"), "OMP_NUM_THREADS": str(options.threads)}
        compile_s = 0.0
        for direction in options.directions:
            for engine in options.engines:
                if engine == "scipy" and direction == "directed":
                    continue
                command = [sys.executable, __file__, "--worker", engine, "--data", folder, "--direction", direction]
                for name in ("cap", "support", "top", "threads"):
                    command += [f"--{name}", str(getattr(options, name))]
                runs = []
                for _ in range(options.repeat):
                    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
                    if done.returncode:
                        raise SystemExit(f"{engine} {direction} failed ({done.returncode}):\n{done.stderr[-2000:]}")
                    runs.append(json.loads(done.stdout))
                compile_s = max(compile_s, runs[0]["compile_s"])  # the first run finds an empty cache
                row: dict[str, Any] = {"direction": direction, "engine": engine, "pairs": runs[0]["pairs"]}
                for name in ("cpu_s", "wall_s", "peak_mb", "before_mb"):
                    row[name] = round(statistics.median(run[name] for run in runs), 2)
                row["agreement"] = round(_agreement(data, engine, direction), 6)
                results.append(row)
        for row in results:
            row["compile_s"] = round(compile_s, 2) if row["engine"] == "kernel" else 0.0
    return results


def _agreement(data: Path, engine: str, direction: str) -> float:
    """Share of our pairs that the engine found too; 1.0 where ours did not run."""
    ours = data / f"kernel-{direction}.npy"
    if not ours.exists():
        return 1.0
    mine, other = ({tuple(p) for p in np.load(f).T.tolist()} for f in (ours, data / f"{engine}-{direction}.npy"))
    return len(mine & other) / max(1, len(mine | other))


def main() -> None:
    """Parse the command line; compare, or (as a worker) measure one engine."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--rows", type=int, default=1_000_000, help="rows of generated behaviour")
    parser.add_argument("--repeat", type=int, default=3, help="runs of each engine; medians are reported")
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=list(ENGINES))
    parser.add_argument("--directions", nargs="+", choices=DIRECTIONS, default=list(DIRECTIONS))
    parser.add_argument("--cap", type=int, default=200, help="history cap, notes")
    parser.add_argument("--support", type=int, default=2, help="minimum support, users")
    parser.add_argument("--top", type=int, default=10, help="targets kept for each query")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="threads of each engine")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--worker", choices=ENGINES, help=argparse.SUPPRESS)
    parser.add_argument("--data", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--direction", choices=DIRECTIONS, default="directed", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        measure(options.worker, options.data, options)
        return
    results = compare(options)
    if options.json:
        settings = {name: getattr(options, name) for name in ("rows", "repeat", "cap", "support", "top", "threads")}
        print(json.dumps({"settings": settings, "results": results}, indent=2))
        return
    print(
        f"{options.rows:,} rows, cap {options.cap}, support {options.support}, top {options.top}, "
        f"{options.threads} threads, median of {options.repeat}"
    )
    print("| direction | engine | CPU s | wall s | peak MB (before) | pairs | agreement | compile s |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for r in results:
        print(
            f"| {r['direction']} | {r['engine']} | {r['cpu_s']} | {r['wall_s']} | {r['peak_mb']:.0f} "
            f"({r['before_mb']:.0f}) | {r['pairs']:,} | {r['agreement']} | {r['compile_s']} |"
        )


if __name__ == "__main__":
    main()
