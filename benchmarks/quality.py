"""What checking data costs: the quality stage on generated data sets, by rows of behaviour.

Run it as ``python benchmarks/quality.py [--rows 1000000 10000000] [--json]``. A data set has a note for every ten
interactions; of the notes every hundredth has an image, since what images cost is reading them (docs/guides/
check-data.md). Each size is made and checked in a process of its own, on one thread; what is reported is

- CPU seconds (user + system) and wall seconds of each step: image facts, what DuckDB counts, the parts that Great
  Expectations judges, and the rest (Data Docs, imports);
- peak resident memory of the whole process.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

SIZES = (1_000_000, 10_000_000)
SEED = 7
NOTES_AT_ONCE = 20_480


def generate(path: Path, rows: int) -> None:
    """A sound data set: `rows` interactions over a year, of a tenth as many notes and a twentieth as many users."""
    import numpy as np
    import pyarrow as pa

    from notellm2.notes.dataset import INFO
    from notellm2.notes.schema import INTERACTIONS
    from notellm2.notes.shards import InteractionShards, NoteShards

    path.mkdir()
    rng = np.random.default_rng(SEED)
    notes, users = rows // 10, rows // 20
    start = 1_700_000_000_000_000
    words = np.array(["tea", "rain", "lamp", "road", "cup", "fox", "moss", "kite", "salt", "reed"])
    with NoteShards(path / "notes") as shards:
        for first in range(0, notes, NOTES_AT_ONCE):
            texts = rng.choice(words, (min(NOTES_AT_ONCE, notes - first), 40))
            for offset, text in enumerate(texts):
                number = first + offset
                image = {"bytes": _picture(number), "path": "a.jpg"} if number % 100 == 0 else None
                shards.add(
                    {
                        "note_id": f"note-{number:09}",
                        "title": " ".join(text[:6]),
                        "topics": list(text[6:8]),
                        "content": f"{number} " + " ".join(text[8:]),
                        "image": image,
                        "category": None,
                        "created_at": start,
                    }
                )
    with InteractionShards(path / "interactions") as behaviour:
        for first in range(0, rows, 1 << 20):
            count = min(1 << 20, rows - first)
            columns = {
                "user_id": _names("user", rng.integers(0, users, count)),
                "note_id": _names("note", rng.integers(0, notes, count)),
                "event": pa.array(["view", "click"]).take(pa.array(rng.integers(0, 2, count))),
                "timestamp": pa.array(start + rng.integers(1, 31_000_000_000_000, count)),
            }
            behaviour.add(pa.table(columns).cast(INTERACTIONS))
    described = {"name": "generated", "licence": "CC0-1.0", "source": "benchmarks/quality.py", "notes": notes}
    described |= {"notes_with_image": -(-notes // 100), "interactions": rows}
    described |= {"first_interaction": "2023-11-14T22:13:20Z", "last_interaction": "2024-11-07T00:00:00Z"}
    (path / INFO).write_text(json.dumps(described))


def _names(kind: str, numbers: Any) -> Any:
    import pyarrow as pa
    import pyarrow.compute as pc

    digits = pc.utf8_lpad(pa.array(numbers).cast(pa.string()), 9, padding="0")
    return pc.binary_join_element_wise(kind, digits, "-")


def _picture(number: int) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    colour = (number // 100 % 256, number // 25_600 % 256, number // 6_553_600 % 256)
    Image.new("RGB", (64, 64), colour).save(buffer, "PNG")
    return buffer.getvalue()


def check(path: Path) -> dict[str, Any]:
    """Check a data set once, step by step as `quality_stage.judge_dataset` does; called in a process of its own."""
    from notellm2.notes.dataset import Dataset
    from notellm2.quality import frames, images, summaries
    from notellm2.quality.judge import Judge
    from notellm2.quality.measures import measures
    from notellm2.quality.suites import load_suites, parameters
    from notellm2.quality.window import Window
    from notellm2.recipe import ImageLimits, QualityConfig

    steps: dict[str, list[float]] = {}

    @contextmanager
    def timed(name: str) -> Iterator[None]:
        cpu, wall = time.process_time(), time.perf_counter()
        yield
        spent = (time.process_time() - cpu, time.perf_counter() - wall)
        steps[name] = [round(before + now, 2) for before, now in zip(steps.get(name, (0, 0)), spent, strict=True)]

    config = QualityConfig(latest="2024-12-31")
    dataset = Dataset.open(path)
    with timed("image facts"):
        facts = images.image_facts(dataset, config.decode_sample, ImageLimits())
    counted = measures(dataset.info, None, ("view",), ("click",))
    with ExitStack() as stack:
        with timed("DuckDB"):
            summed = stack.enter_context(summaries.summarise(dataset, facts, counted))
        with timed("import"):
            import great_expectations  # noqa: F401
        suites = load_suites(None)
        judge = Judge(suites, parameters(config, Window.of(config, datetime.now(UTC))), summed)
        with timed("notes and topics"):
            for notes, topics in frames.note_frames(dataset, facts, summed.repeated):
                judge.see("notes", notes)
                judge.see("topics", topics)
        with timed("interactions"):
            for interactions in frames.interaction_frames(dataset, summed.known_notes()):
                judge.see("interactions", interactions)
        with timed("Data Docs"):
            outcomes = judge.conclude(path / "docs")
    return {
        "interactions": dataset.info.interactions,
        "notes": dataset.info.notes,
        "expectations": len(outcomes),
        "failed": [one.expectation.name for one in outcomes if not one.success],
        "steps": steps,
        "cpu_s": round(time.process_time(), 1),
        "peak_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2),
    }


def main() -> None:
    """Make and check a data set of every size, and print what it cost."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=SIZES, help="interactions of the data sets")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--check", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.check:
        print(json.dumps(check(args.check)))
        return
    results = []
    for rows in args.rows:
        with tempfile.TemporaryDirectory(prefix="notellm2-quality-") as folder:
            generate(Path(folder) / "data", rows)
            results.append(_in_a_process(Path(folder) / "data"))
    if args.json:
        print(json.dumps(results, indent=1))
        return
    steps = list(results[0]["steps"])
    print("CPU s (wall s) | interactions | notes | " + " | ".join(steps) + " | all, CPU s | peak GB")
    for result in results:
        spent = " | ".join("{:.1f} ({:.1f})".format(*result["steps"][name]) for name in steps)
        print(f"{result['interactions']:,} | {result['notes']:,} | {spent} | {result['cpu_s']} | {result['peak_gb']}")


def _in_a_process(path: Path) -> dict[str, Any]:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "ARROW_NUM_THREADS": "1", "TQDM_DISABLE": "1"}
    command = [sys.executable, __file__, "--check", str(path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


if __name__ == "__main__":
    main()
