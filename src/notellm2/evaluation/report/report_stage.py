"""Stage "report": write the page a reviewer reads, and its plots as files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from notellm2.artifacts import Artifact, Store
from notellm2.evaluation import examples
from notellm2.evaluation.cases import Cases, MinedData, read_cases, read_vectors
from notellm2.evaluation.ranks import F64, Cosine
from notellm2.evaluation.report import Opponent, ReportInput, write_report
from notellm2.evaluation.report.drawing import LIGHT
from notellm2.evaluation.report.pictures import drawings
from notellm2.evaluation.report.thumbnails import thumbnails
from notellm2.notes.dataset import Dataset
from notellm2.recipe import Recipe

VERSION = 5
DATA_DOCS = "data_docs"
_SHOWN_RANKS = ("both", "text_only", "image_only", "shuffled", "linear", "vision", "tfidf")


@dataclass(frozen=True)
class Champion:
    """The version that the model is compared with.

    Attributes:
        name: what people call it: "version 3".
        comparison: of the model (candidate) with it, on this test.
        recipe: what it was made by, as plain data; None: not known any more.
        data: facts of the data it was trained on (`data_facts`); None: not known any more.
    """

    name: str
    comparison: Artifact
    recipe: Mapping[str, Any] | None = None
    data: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class RunRecord:
    """What is known of the run that the page is about.

    Attributes:
        recipe: shown in full.
        evaluation: figures and examples.
        training: its summary and metrics.jsonl are shown; None: not known any more.
        quality: its summary and result.json are shown; None: not known any more.
        gate: the verdict as plain data, {"passed": bool, "rules": [{"name", "passed", "detail"}, ...]}, or None.
        champion: what the model is compared with.
        saliency: flow by layer, if it was measured.
        choice: how variants compared (stage "choice"), if there was a choice.
    """

    recipe: Recipe
    evaluation: Artifact
    training: Artifact | None = None
    quality: Artifact | None = None
    gate: Mapping[str, Any] | None = None
    champion: Champion | None = None
    saliency: Artifact | None = None
    choice: Artifact | None = None


def report(store: Store, data: MinedData, run: RunRecord) -> Artifact:
    """Write the run's page.

    Args:
        store: where the artifact goes, and where the vectors of both models are looked for: without the champion's
            the gallery shows this model's neighbours only.
        data: the notes, for thumbnails, and the pairs, whose summary is shown.
        run: what the page is about.

    Raises:
        InputError: the champion's evaluation is not in the store any more.

    Returns:
        Stage "report": report.html, and plots/*.png, each plot of the page in its light form.
    """

    def write(into: Path) -> Mapping[str, Any]:
        content = _content(store, data, run)
        write_report(into / "report.html", content)
        (into / "plots").mkdir()
        drawn = {name: draw(LIGHT) for name, (_, _, draw) in drawings(content).items()}
        for name, png in drawn.items():
            if png is not None:
                (into / "plots" / f"{name}.png").write_bytes(png)
        return {"bytes": (into / "report.html").stat().st_size, "examples": len(content.examples)}

    champion = run.champion
    settings = {
        "recipe": run.recipe.model_dump(mode="json"),
        "gate": dict(run.gate) if run.gate is not None else None,
        "images": run.recipe.data.images.model_dump(),
        "champion": {"name": champion.name, "recipe": champion.recipe, "data": champion.data} if champion else None,
    }
    inputs: dict[str, Artifact | str] = {"data": data.md5, "evaluation": run.evaluation, "pairs": data.pairs}
    inputs |= {"training": run.training} if run.training else {}
    inputs |= {"quality": run.quality} if run.quality else {}
    inputs |= {"comparison": champion.comparison} if champion else {}
    inputs |= {"saliency": run.saliency} if run.saliency else {}
    inputs |= {"choice": run.choice} if run.choice else {}
    return store.build("report", VERSION, settings, inputs, write)


def _content(store: Store, data: MinedData, run: RunRecord) -> ReportInput:
    """Everything the page shows, read from the run's artifacts."""
    evaluation, training, quality = run.evaluation, run.training, run.quality
    theirs = _evaluation(store, run.champion) if run.champion else None
    gallery = _gallery(store, data, run, theirs)
    return ReportInput(
        recipe=run.recipe.model_dump(mode="json"),
        data=data_facts(data.dataset, data.md5),
        metrics=read_json(evaluation, "metrics.json"),
        intervals=read_json(evaluation, "intervals.json"),
        space=read_json(evaluation, "space.json"),
        protocol=read_json(evaluation, "protocol.json"),
        examples=gallery,
        thumbnails=thumbnails(data.dataset, shown_ids(gallery), run.recipe.data.images),
        training={**training.summary, "seconds_of_stage": training.manifest["seconds"]} if training else {},
        history=read_history(training) if training else (),
        quality=quality.summary if quality else {},
        pairs=data.pairs.summary,
        champion=_opponent(run.champion, theirs) if run.champion and theirs else None,
        gate=run.gate,
        expectations=read_json(quality, "result.json") if quality else (),
        data_docs=f"{quality.stage}/{quality.key}/{DATA_DOCS}/index.html in the store" if quality else None,
        saliency=read_json(run.saliency, "saliency.json") if run.saliency else None,
        choice=run.choice.summary if run.choice else None,
        provenance={**evaluation.manifest["provenance"], "evaluated": evaluation.manifest["created"]},
    )


def data_facts(dataset: Dataset, data_md5: str) -> dict[str, Any]:
    """Collect what the page says of a data version."""
    return {"md5": data_md5, **dataset.info.model_dump(mode="json")}


def read_history(training: Artifact) -> list[dict[str, Any]]:
    """Read the rows of training's metrics.jsonl."""
    return [json.loads(line) for line in training.file("metrics.jsonl").read_text().splitlines() if line.strip()]


def read_json(artifact: Artifact, name: str) -> Any:
    """Read one of an artifact's JSON files."""
    return json.loads(artifact.file(name).read_text(encoding="utf-8"))


def shown_ids(gallery: list[dict[str, Any]]) -> set[str]:
    """Collect the notes whose thumbnails the page needs."""
    lists = ("neighbours", "champion_neighbours")
    notes = [note for example in gallery for note in (example["query"], example["target"])]
    notes += [note for example in gallery for name in lists for note in example[name] or ()]
    return {note["note_id"] for note in notes}


def _evaluation(store: Store, champion: Champion) -> Artifact:
    """The champion's side of the comparison."""
    return store.get(f"evaluation/{champion.comparison.manifest['inputs']['champion']}")


def _opponent(champion: Champion, evaluation: Artifact) -> Opponent:
    return Opponent(
        name=champion.name,
        metrics=read_json(evaluation, "metrics.json"),
        space=read_json(evaluation, "space.json"),
        comparison=read_json(champion.comparison, "comparison.json"),
        recipe=champion.recipe,
        data=champion.data,
    )


def _gallery(store: Store, data: MinedData, run: RunRecord, champions: Artifact | None) -> list[dict[str, Any]]:
    """The evaluation's own examples; with a champion, its largest wins and losses, both models side by side."""
    own: list[dict[str, Any]] = read_json(run.evaluation, "examples.json")
    ours = _vectors(store, run.evaluation)
    if run.champion is None or champions is None or ours is None:
        return own
    theirs = _vectors(store, champions)
    cases = read_cases(data, 1)
    queries = pq.read_table(run.evaluation.file("queries.parquet"))
    compared = pq.read_table(run.champion.comparison.file("queries.parquet"))
    ranks: dict[str, F64] = {
        name: queries[f"{name}_rank"].to_numpy() for name in _SHOWN_RANKS if f"{name}_rank" in queries.column_names
    }
    ranks["champion"] = compared["champion_rank"].to_numpy()
    groups = examples.choose(ranks["both"], ranks["champion"], ordinary=4, extreme=4)
    return examples.describe(groups, cases, ranks, _cosine(ours, cases), _cosine(theirs, cases) if theirs else None)


def _vectors(store: Store, evaluation: Artifact) -> Artifact | None:
    return store.find("vectors", evaluation.manifest["inputs"]["vectors"])


def _cosine(vectors: Artifact, cases: Cases) -> Cosine:
    array = read_vectors(vectors, "both", cases)
    return Cosine(array[cases.query_rows], array[cases.pool_rows])
