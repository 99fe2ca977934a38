"""The whole flow for real, on a very small sample: what it leaves, what it prints, and that it does nothing twice."""

from __future__ import annotations

import json
import re
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from notellm2.artifacts import Artifact, digest_json
from notellm2.notes.versions import data_md5
from notellm2.publication.pointer import read_pointer
from notellm2.recipe import RegistryConfig, load_recipe
from tests.conftest import Retrained
from tests.flows.running import RECIPE, Place
from tests.unit.registry.before import record_as_before

MADE = [
    *("quality", "pairs", "backbones", "vision-features", "training", "vectors", "evaluation"),
    *("saliency", "index", "report"),
]
TASKS = [
    "ingest",
    "data version",
    "quality",
    "pairs",
    "backbones",
    "vision features",
    "choice",
    "training",
    "vectors",
    "variants",
    "evaluation",
    "saliency",
    "register",
    "index",
    "champion",
    "canary",
    "gate",
    "report",
    "promotion",
    "summary",
]


def ask(place: Place, *arguments: str) -> str:
    command = [sys.executable, "-m", "notellm2", *arguments, "--store", str(place.workspace.root)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


def prefect_rows(place: Place, query: str) -> list[tuple[str, ...]]:
    with sqlite3.connect(place.workspace.prefect_home / "prefect.db") as connection:
        return connection.execute(query).fetchall()


def files(place: Place) -> set[Path]:
    return {p for a in place.store.artifacts() for p in a.path.rglob("*")}


def test_every_stage_left_one_whole_artifact(retrained: Retrained) -> None:
    store = retrained.place.store
    found = list(store.artifacts())
    assert sorted(a.stage for a in found) == sorted([*MADE, "linear", "note-digests", "texts"]), "one of each"
    assert [problem for a in found for problem in store.problems(a)] == []
    md5 = data_md5(retrained.place.root / "data")
    for artifact in found:
        provenance = artifact.manifest["provenance"]
        assert provenance["data_md5"] == md5
        assert provenance["recipe"] == "tiny"
        assert len(artifact.reference()) == 3
    assert list(store.root.glob("[!_.]*/.*")) == [], "no temporary directory or checkpoint is left"


def test_the_keys_are_those_that_stores_of_before_have(retrained: Retrained) -> None:
    """As commit 33ca750 computed them, so that whoever upgrades keeps what is made.

    A key changes with its stage's VERSION alone: since then evaluation's (4: the linear baseline), the report's,
    quality's (2: suites of Great Expectations) and saliency's (2: grouped as released, too).

    Weights differ in their last bits between machines, so what rests on them is compared by what its key is made of.
    """
    golden = json.loads(Path(__file__).with_name("keys.json").read_text())
    artifacts = {artifact.stage: artifact for artifact in retrained.place.store.artifacts()}
    made_from: dict[str, Any] = {}
    for stage, artifact in artifacts.items():
        manifest = artifact.manifest
        config = {} if stage == "report" else {"config": digest_json(manifest["config"])[:20]}  # it holds figures
        made_from[stage] = {"version": manifest["version"], **config, "inputs": sorted(manifest["inputs"])}
    assert made_from == golden["made_from"]
    if data_md5(retrained.place.root / "data") == golden["data_md5"]:  # else other libraries drew another sample
        assert {stage: artifacts[stage].key for stage in golden["keys"]} == golden["keys"]


def test_artifacts_rest_on_each_other_as_the_graph_says(retrained: Retrained) -> None:
    key = {a.stage: a.key for a in retrained.place.store.artifacts()}

    def inputs(stage: str) -> set[str]:
        return set(retrained.place.artifact(stage).manifest["inputs"].values())

    assert {key["pairs"], key["backbones"], key["vision-features"]} <= inputs("training")
    assert key["training"] in inputs("vectors")
    assert {key["pairs"], key["vectors"]} <= inputs("evaluation")
    assert key["vectors"] in inputs("index")
    assert {key["evaluation"], key["training"], key["quality"]} <= inputs("report")


def test_prefect_shows_the_tasks_in_order_and_what_they_found(retrained: Retrained) -> None:
    place = retrained.place
    ((name, state),) = prefect_rows(place, "select name, state_type from flow_run")
    assert re.fullmatch(r"tiny · [\d-]{10} [\d:]{5}", name)
    assert state == "COMPLETED"
    ran = prefect_rows(place, "select name from task_run order by start_time")
    # The embedded server loses what it did not write before the flow's last second, so the last tasks may be missing.
    assert [name for (name,) in ran] == TASKS[: len(ran)]
    assert len(ran) >= len(TASKS) - 3
    keys = {key for (key,) in prefect_rows(place, "select key from artifact")}
    assert {"data", "quality", "data-docs", "pairs", "metrics", "gate", "report", "mlflow-run", "model-version"} <= keys


def test_mlflow_has_one_finished_run_with_everything(retrained: Retrained) -> None:
    from notellm2.registry import versions
    from notellm2.registry.record import stages_of
    from notellm2.registry.tracking import Tracking

    place = retrained.place
    tracking = Tracking.at(place.workspace, RegistryConfig())
    (run,) = tracking.client.search_runs([tracking.experiment_id()])
    assert run.info.status == "FINISHED"
    assert run.data.params["training.steps"] == "12"
    assert run.data.tags["notellm2.data_md5"] == data_md5(place.root / "data")
    for stage in MADE[:-1]:
        assert stages_of(run.data.tags).made[stage] == place.artifact(stage).key
    curve = tracking.client.get_metric_history(run.info.run_id, "training/loss")
    assert [point.step for point in sorted(curve, key=lambda p: p.step)] == list(range(1, 13))
    listed = {item.path for item in tracking.client.list_artifacts(run.info.run_id)}
    assert {"report.html", "recipe.yaml", "gate.json", "plots", "evaluation", "quality"} <= listed
    champion, challenger = versions.champion(tracking), versions.challenger(tracking)
    assert champion is not None
    assert champion == challenger
    assert (champion.version, champion.run_id) == ("1", run.info.run_id)
    plots = {item.path for item in tracking.client.list_artifacts(run.info.run_id, "plots")}
    assert {"plots/recall_bars.png", "plots/recall_curve.png", "plots/saliency.png", "plots/training.png"} <= plots
    measured = json.loads(place.artifact("evaluation").file("metrics.json").read_text())["both"]["all"]["recall@10"]
    assert run.data.metrics["recall_at_10/all/both"] == pytest.approx(measured)
    assert champion.metrics["both"]["all"]["recall@10"] == pytest.approx(measured, abs=1e-6)
    table = tracking.client.download_artifacts(run.info.run_id, "evaluation/metrics.parquet")
    rows = {tuple(row.values())[:4] for row in pq.read_table(table).to_pylist()}
    assert {("test", "both", "all", "visual_reliance"), ("saliency", "layer_01", "", "text")} <= rows


def test_a_run_and_a_version_read_in_a_minute(retrained: Retrained) -> None:
    from notellm2.registry import names
    from notellm2.registry.tracking import Tracking

    tracking = Tracking.at(retrained.place.workspace, RegistryConfig())
    (run,) = tracking.client.search_runs([tracking.experiment_id()])
    version = tracking.client.get_model_version("notellm2", "1")
    assert 30 <= len(run.data.metrics) <= names.MOST_METRICS
    assert [name for name in run.data.metrics if "/" not in name] == []
    assert {"seconds/training", "seconds/total", "memory/peak_gb", "training/loss"} <= set(run.data.metrics)
    assert len(shown(run.data.tags)) <= 12, shown(run.data.tags)
    assert len(shown(version.tags)) <= 8, shown(version.tags)
    assert max(len(value) for value in run.data.tags.values()) < 8000, "nothing was cut"
    assert re.fullmatch(r"tiny · data \w{8} · [\d-]{10} [\d:]{5} · promoted", str(run.info.run_name))
    note, said = run.data.tags[names.NOTE], str(version.description)
    assert "**In use**: version 1, decided by flow run tiny" in note
    for text in (note, said):
        assert re.search(r"\| recall@10, %\s+\| all pairs \(\d+\)", text)
        assert re.search(r"\| this model\s+\| \*\*", text)
        assert "**Be careful**" in text
        assert "artifacts/report.html?workflowType=machine_learning" in text
        assert str(retrained.place.root) not in text, "a path means nothing on another machine"
    assert "notellm2 promote 1" in said
    assert re.search(
        r"### Decisions\n\n- [\d-]{10} [\d:]{5} UTC: \*\*put into use\*\* by flow run tiny .*\(ledger 1\)$", said
    )
    assert "notellm2" in str(tracking.client.get_registered_model("notellm2").description)


def test_commands_read_runs_and_versions_of_before(retrained: Retrained, tmp_path: Path) -> None:
    """As they were recorded when each fact had a tag; a rollback to such versions: tests/unit/test_cli_promotion.py."""
    from notellm2.registry.tracking import Tracking

    place = Place(tmp_path / "copy")
    shutil.copytree(retrained.place.root, place.root)
    tracking = Tracking.at(place.workspace, RegistryConfig())
    (run,) = tracking.client.search_runs([tracking.experiment_id()])
    commands = [("status", "--json"), ("lineage", "1", "--json")]
    now = [ask(place, *command) for command in commands]
    record_as_before(tracking, run.info.run_id, "1")
    assert [ask(place, *command) for command in commands] == now
    assert "version 1 is champion already" in ask(place, "promote", "1")
    written = tmp_path / "page.html"
    ask(place, "report", "1", "1", "--data", str(place.root / "data"), "--out", str(written))
    assert "no clear difference from version 1" in written.read_text()


def shown(tags: dict[str, str]) -> list[str]:
    """The tags that MLflow's pages show."""
    return sorted(name for name in tags if not name.startswith("mlflow."))


def test_the_registered_model_embeds_as_the_run_did(retrained: Retrained, monkeypatch: pytest.MonkeyPatch) -> None:
    import mlflow.pyfunc
    import numpy as np
    import pandas as pd

    from notellm2.notes.dataset import Dataset
    from notellm2.registry.tracking import Tracking

    place = retrained.place
    tracking = Tracking.at(place.workspace, RegistryConfig())
    monkeypatch.chdir(place.root)
    model = mlflow.pyfunc.load_model(tracking.client.get_model_version_download_uri("notellm2", "1"))
    notes = next(Dataset.open(place.root / "data").batches(150))
    rows = [
        {
            "note_id": n.note_id,
            "title": n.title,
            "topics": list(n.topics),
            "content": n.content,
            "image": n.image or b"",
        }
        for n in notes
    ]
    assert any(note.image is None for note in notes)
    served = np.array(model.predict(pd.DataFrame(rows))["embedding"].tolist(), np.float32)
    embedded = np.load(place.artifact("vectors").file("both.npy"))[: len(notes)]
    np.testing.assert_allclose(served, embedded, atol=2e-3)  # the run kept its vision features as float16


def test_the_index_is_published_and_answers(retrained: Retrained) -> None:
    place = retrained.place
    publication = read_pointer(place.workspace.published)
    assert publication.index_key == place.artifact("index").key
    assert (publication.model_version, publication.count) == ("1", 150)
    asked = re.search(r"More: +notellm2 similar (\S+)", retrained.output)
    assert asked is not None
    told = json.loads(ask(place, "similar", asked[1], "-k", "5", "--json"))
    assert len(told["similar"]) == 5
    assert asked[1] not in {found["note_id"] for found in told["similar"]}
    status = json.loads(ask(place, "status", "--json"))
    assert status["champion"]["version"] == status["challenger"]["version"] == "1"
    assert status["problems"] == []


def test_it_says_where_to_look(retrained: Retrained) -> None:
    text = retrained.output
    assert re.findall(r"^  (\S.*?) {2,}[\d.]+ s  (?:done|reused)$", text, re.MULTILINE) == TASKS[:-1]
    assert "0 of 10 artifacts were there already, 10 made" in text
    report = re.search(r"^Report: +(\S+)$", text, re.MULTILINE)
    assert report is not None
    assert Path(report[1]).read_text().lstrip().lower().startswith("<!doctype html")
    assert f"make ui STORE={retrained.place.workspace.root}" in text
    assert len(re.findall(r"^  n\d+ ", text, re.MULTILINE)) == 3
    assert "Traceback" not in retrained.log
    assert not (retrained.place.root / "mlruns").exists()
    assert {p.name for p in retrained.place.root.iterdir()} == {"data", "store"}


def test_a_second_run_does_nothing_and_says_so(retrained: Retrained) -> None:
    from notellm2.registry.tracking import Tracking

    place = retrained.place
    before = {path: path.stat().st_mtime_ns for path in files(place)}
    pointer = (place.workspace.published / "current.json").read_bytes()
    done = place.retrain()
    assert done.returncode == 0, done.stderr[-6000:]
    assert "10 of 10 artifacts were there already, 0 made" in done.stdout
    assert {path: path.stat().st_mtime_ns for path in files(place)} == before
    assert (place.workspace.published / "current.json").read_bytes() == pointer
    tracking = Tracking.at(place.workspace, RegistryConfig())
    assert len(tracking.client.search_runs([tracking.experiment_id()])) == 1
    assert len(tracking.client.search_model_versions("name = 'notellm2'")) == 1
    told = re.search(r"^Model: +(.*)$", done.stdout, re.MULTILINE)
    assert told is not None
    assert told[0] in retrained.output, "the verdict stays the one it was promoted by"


def test_evaluate_measures_a_bundle_as_the_flow_did(retrained: Retrained) -> None:
    place = retrained.place
    bundle, data = place.artifact("training").file("bundle"), place.root / "data"
    told = json.loads(
        ask(place, "evaluate", "--bundle", str(bundle), "--data", str(data), "--recipe", str(RECIPE), "--json")
    )
    assert told["evaluation"]["key"] == place.artifact("evaluation").key
    assert told["metrics"]["both"]["all"]["n"] == place.artifact("evaluation").summary["queries"]
    shown = ask(place, "evaluate", "--bundle", str(bundle), "--data", str(data), "--recipe", str(RECIPE))
    assert re.search(r"^both +[\d.]+ \([\d.]+ to [\d.]+\)", shown, re.MULTILINE)


def test_report_compares_any_two_versions(retrained: Retrained, tmp_path: Path) -> None:
    place, written = Place(tmp_path / "copy"), tmp_path / "page.html"
    shutil.copytree(retrained.place.root, place.root)
    told = ask(place, "report", "1", "1", "--data", str(place.root / "data"), "--out", str(written))
    assert "version 1 against version 1" in told
    html = written.read_text()
    assert "no clear difference from version 1 (+0.0 points" in html
    assert "No field differs." in html


def test_a_champion_of_another_test_set_is_measured_on_this_one(retrained: Retrained, tmp_path: Path) -> None:
    from prefect.logging import disable_run_logger

    from flows.handoffs import DataVersion, Evaluated, Incumbent, Mined, Registered
    from flows.runtime.job import open_job
    from flows.tasks.incumbent import compare_with_champion
    from notellm2.evaluation.evaluation_stage import evaluate
    from notellm2.pairs.pairs_stage import mine
    from notellm2.registry.tracking import Tracking

    place = Place(tmp_path / "copy")
    shutil.copytree(retrained.place.root, place.root)
    tracking = Tracking.at(place.workspace, RegistryConfig())
    (run,) = tracking.client.search_runs([tracking.experiment_id()])
    data = DataVersion(path=place.root / "data", md5=data_md5(place.root / "data"))
    job = open_job(load_recipe(RECIPE, ("pairs.split_seed=2",)), place.workspace.root)
    job = job.model_copy(update={"mlflow_run": run.info.run_id})
    same = Mined(artifact=place.artifact("pairs"), data=data)
    other = Mined(artifact=mine(job.store, data.dataset, data.md5, job.recipe.pairs), data=data)

    def incumbent(mined: Mined, evaluation: Artifact, challenger: str) -> Incumbent:
        registered = Registered(model="notellm2", version=challenger)
        with disable_run_logger():
            return compare_with_champion.fn(job, mined, Evaluated(artifact=evaluation), registered)

    own = place.artifact("evaluation")
    alone = incumbent(same, own, "1")
    assert (alone.version, alone.evaluation, alone.comparison) == (None, None, None), "promoted when there was no other"
    today = incumbent(same, own, "2")
    assert (today.version, today.evaluation) == ("1", own), "measured on these pairs already"
    assert today.comparison is not None
    comparison = json.loads(today.comparison.file("comparison.json").read_text())
    assert comparison["slices"]["all"]["recall@10"]["difference"] == 0
    logged = tracking.client.get_run(run.info.run_id).data.metrics
    assert logged["comparison/difference"] == 0
    challenger = evaluate(
        job.store, other.measured_on, place.artifact("vectors"), job.recipe.evaluation, job.recipe.model.text
    )
    again = incumbent(other, challenger, "2")
    assert again.version == "1"
    assert again.evaluation is not None
    inputs = again.evaluation.manifest["inputs"]
    assert inputs["pairs"] == other.artifact.key
    vectors = place.store.get(f"vectors/{inputs['vectors']}")
    assert vectors.manifest["inputs"]["training"] == place.artifact("training").key
    assert again.evaluation.key != own.key
    shutil.rmtree(place.artifact("training").path)
    gone = incumbent(other, challenger, "2")
    assert (gone.version, gone.evaluation, gone.comparison) == ("1", None, None), "the gate will say it cannot compare"


def test_what_a_late_stage_would_refuse_is_refused_before_any_work(retrained: Retrained, tmp_path: Path) -> None:
    place = Place(tmp_path)
    shutil.copytree(retrained.place.root / "data", tmp_path / "data")
    done = place.retrain("--set", "backbones.llm=./gone")
    assert done.returncode == 2, done.stderr[-6000:]
    assert "failed   backbones.llm: ./gone: no such folder; name a Hugging Face model folder" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(place.store.artifacts()) == []


def test_a_critical_failure_of_the_data_stops_the_flow(retrained: Retrained, tmp_path: Path) -> None:
    place = Place(tmp_path)
    shutil.copytree(retrained.place.root / "data", tmp_path / "data")
    done = place.retrain("--set", "quality.min_notes=100000")
    assert done.returncode == 2, done.stderr[-6000:]
    assert "note_count" in done.stderr
    assert "100,000" in done.stderr
    assert "Traceback" not in done.stderr
    assert [a.stage for a in place.store.artifacts()] == ["quality"]
    assert prefect_rows(place, "select state_type from flow_run") == [("FAILED",)]
