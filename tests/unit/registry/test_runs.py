from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from notellm2.artifacts import Artifact, Store
from notellm2.notes.dataset import Dataset, DatasetInfo
from notellm2.recipe import Recipe
from notellm2.registry import curves as curves_module
from notellm2.registry import names
from notellm2.registry.catalogue import run_record
from notellm2.registry.decisions import Rule, Verdict
from notellm2.registry.recipes import recipe_digest, recipe_of
from notellm2.registry.record import Stages, stages_of
from notellm2.registry.run_names import run_name
from notellm2.registry.runs import Run
from notellm2.registry.tracking import Tracking


def files(run: Run, folder: str | None = None) -> set[str]:
    return {entry.path for entry in run.tracking.client.list_artifacts(run.run_id, folder)}


def status(run: Run) -> str:
    return str(run.tracking.client.get_run(run.run_id).info.status)


def history(run: Run, name: str) -> list[tuple[int, float]]:
    points = run.tracking.client.get_metric_history(run.run_id, name)
    return sorted((point.step, point.value) for point in points)


def test_the_same_key_continues_the_same_run(tracking: Tracking) -> None:
    with Run.open(tracking, "key-1", name="sample") as first:
        assert status(first) == "RUNNING"
    assert status(first) == "FINISHED"
    with Run.open(tracking, "key-1", name="sample") as second:
        assert second.run_id == first.run_id
        assert status(second) == "RUNNING"
    assert status(second) == "FINISHED"
    with Run.open(tracking, "key-2", name="sample") as other:
        assert other.run_id != first.run_id


def test_a_failed_run_says_so(tracking: Tracking) -> None:
    with pytest.raises(RuntimeError), Run.open(tracking, "key", name="sample") as run:
        raise RuntimeError
    assert status(run) == "FAILED"
    with pytest.raises(KeyboardInterrupt), Run.open(tracking, "key", name="sample") as run:
        raise KeyboardInterrupt
    assert status(run) == "KILLED"


def test_recipe_origin_and_data_are_logged_and_may_be_logged_again(tracking: Tracking, tmp_path: Path) -> None:
    recipe = Recipe(name="sample", training={"steps": 7}, evaluation={"ks": [10, 20]}, alerts={"stale_days": 3.0})
    md5 = "0123456789abcdef0123456789abcdef.dir"
    info = DatasetInfo(
        name="sample", licence="CC0", source="generated", notes=5, notes_with_image=4, interactions=9,
        first_interaction=None, last_interaction=None,
    )  # fmt: skip
    for _ in range(2):
        with Run.open(tracking, "key", name="sample") as run:
            run.log_recipe(recipe)
            run.log_origin(recipe="sample", data_md5=md5, git_commit="abc", flow_run=None)
            run.log_dataset(Dataset(tmp_path, info), md5)
    logged = tracking.client.get_run(run.run_id)
    assert logged.data.params == {"training.steps": "7", "evaluation.ks": "[10, 20]"}, "what differs from the defaults"
    assert recipe_of(tracking, run.run_id) == recipe.model_dump(mode="json")
    assert logged.data.tags[names.DATA_MD5] == md5
    assert logged.data.tags[names.SOURCE_COMMIT] == "abc"
    assert not {names.FLOW_RUN_URL, names.FLOW_RUNS} & logged.data.tags.keys()
    assert logged.data.tags[names.RECIPE_DIGEST] == recipe_digest(recipe)
    assert recipe_digest(recipe) != recipe_digest(Recipe(name="sample", training={"steps": 8}))
    (entry,) = logged.inputs.dataset_inputs
    assert (entry.dataset.name, entry.dataset.digest) == ("sample", md5)
    assert files(run) == {"recipe.yaml"}


def test_a_run_names_every_flow_run_that_worked_on_it(tracking: Tracking) -> None:
    with Run.open(tracking, "key", name="sample") as run:
        for flow_run in ("first", "first", "second"):
            url = f"http://prefect/runs/flow-run/{flow_run}"
            run.log_origin(recipe="sample", data_md5="0a.dir", flow_run=flow_run, flow_run_url=url)
        tags = tracking.client.get_run(run.run_id).data.tags
        assert run_record(tracking, run.run_id).origin["flow_run"] == "second"
        assert tags[names.FLOW_RUN_URL] == "http://prefect/runs/flow-run/second"
        assert tags[names.FLOW_RUNS] == "first second"
        run.log_origin(recipe="sample", data_md5="0a.dir", flow_run=None)
        assert tracking.client.get_run(run.run_id).data.tags[names.FLOW_RUNS] == "first second"
        run.log_tags({names.FLOW_RUNS: " ".join(f"{number:036d}" for number in range(150))})
        run.log_origin(recipe="sample", data_md5="0a.dir", flow_run="last")
        kept = tracking.client.get_run(run.run_id).data.tags[names.FLOW_RUNS].split()
        assert (len(kept), kept[-1]) == (100, "last")


def test_a_long_value_is_cut_to_what_mlflow_takes(tracking: Tracking) -> None:
    with Run.open(tracking, "key", name="sample") as run:
        run.log_tags({"notellm2.long": "x" * 9000})
    value = tracking.client.get_run(run.run_id).data.tags["notellm2.long"]
    assert len(value) == 8000
    assert value.endswith("...")


def test_each_step_is_logged_once_through_kill_and_resume(
    tracking: Tracking, training: Callable[[list[str]], Artifact]
) -> None:
    tracking.experiment_id()
    # A training that logs steps 1 to 6 and is killed without any chance to say goodbye.
    code = (
        "import dataclasses, os, signal, sys\n"
        "from pathlib import Path\n"
        "from notellm2.registry.runs import Run\n"
        "from notellm2.registry.tracking import Tracking\n"
        "uri, name, artifacts, locks = sys.argv[1:]\n"
        "run = Run.open(Tracking(uri, name, name, Path(artifacts), Path(locks)), 'key', name='sample')\n"
        "for step in range(1, 7): run.on_metrics(step, {'loss': 10.0 - step, 'recall@10': None})\n"
        "run._curves.flush()\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    arguments = [tracking.uri, tracking.experiment, str(tracking.artifacts), str(tracking.locks)]
    killed = subprocess.run([sys.executable, "-c", code, *arguments], timeout=120, check=False)
    assert killed.returncode == -signal.SIGKILL
    (left,) = tracking.client.search_runs([tracking.experiment_id()])
    assert left.info.status == "RUNNING"

    # Another retraining finds that its process is gone.
    with Run.open(tracking, "another key", name="sample"):
        assert tracking.client.get_run(left.info.run_id).info.status == "KILLED"

    # Resumed from the checkpoint of step 4: steps 5 and 6 come again, with the same losses.
    with Run.open(tracking, "key", name="sample") as run:
        assert run.run_id == left.info.run_id
        for step in range(5, 11):
            run.on_metrics(step, {"loss": 10.0 - step})
        lines = [json.dumps({"step": s, "loss": 10.0 - s, "stage": "x"}) for s in range(1, 12)]
        run.log_history(training(lines))
    assert status(run) == "FINISHED"
    assert history(run, "training/loss") == [(s, 10.0 - s) for s in range(1, 12)]
    assert set(tracking.client.get_run(run.run_id).data.metrics) == {"training/loss"}


def test_points_wait_while_the_store_does_not_answer_and_training_does_not(
    tracking: Tracking, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from mlflow.exceptions import MlflowException

    tried, let_go = threading.Event(), threading.Event()
    with Run.open(tracking, "key", name="sample") as run:
        curves = curves_module.Curves(tracking.client, run.run_id, every_s=0.01)
        with monkeypatch.context() as broken:

            def refuse(*args: object, **kwargs: object) -> None:
                tried.set()
                let_go.wait(60)  # MLflow's client tries by itself for minutes.
                raise MlflowException("database is locked")

            broken.setattr(type(tracking.client), "log_batch", refuse)
            curves.add(1, {"loss": 1.0})
            assert tried.wait(60)
            curves.add(2, {"loss": 0.5})  # Returns although the sender is stuck.
            let_go.set()
            with pytest.raises(MlflowException):
                curves.flush()
        assert "points wait for the next try" in caplog.text
        curves.add(3, {"loss": 0.25})
        curves.flush()
    assert history(run, "training/loss") == [(1, 1.0), (2, 0.5), (3, 0.25)]


def test_live_points_come_by_themselves(tracking: Tracking) -> None:
    with Run.open(tracking, "key", name="sample") as run:
        curves = curves_module.Curves(tracking.client, run.run_id, every_s=0.01)
        for begun in (1, 4):
            for step in range(begun, begun + 3):
                curves.add(step, {"loss": 1.0 / step, "recall@10": None})
            sender = curves._sender
            if sender is not None:
                sender.join(60)  # It ends when nothing is left to send.
            assert [step for step, _ in history(run, "training/loss")] == list(range(1, begun + 3))


def test_an_error_that_is_not_mlflows_ends_no_curve(
    tracking: Tracking, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with Run.open(tracking, "key", name="sample") as run:
        curves = curves_module.Curves(tracking.client, run.run_id, every_s=0.01)
        real, failures = type(tracking.client).log_batch, iter([OSError("no route to host")])

        def once_away(*args: object, **kwargs: object) -> object:
            for failure in failures:
                raise failure
            return real(*args, **kwargs)  # type: ignore[arg-type]

        monkeypatch.setattr(type(tracking.client), "log_batch", once_away)
        curves.add(1, {"loss": 1.0})
        sender = curves._sender
        assert sender is not None
        sender.join(60)
        assert history(run, "training/loss") == [(1, 1.0)], "sent live, at the second try"
    assert "no route to host" in caplog.text


def test_points_are_sent_in_batches(tracking: Tracking) -> None:
    with Run.open(tracking, "key", name="sample") as run:
        curves = curves_module.Curves(tracking.client, run.run_id, every_s=60)
        for step in range(1, 1202):
            curves.add(step, {"loss": 1.0 / step})
        curves.flush()
    assert [step for step, _ in history(run, "training/loss")] == list(range(1, 1202))


def test_a_store_that_does_not_answer_hides_no_error(
    tracking: Tracking, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from mlflow.exceptions import MlflowException

    def refuse(*args: object, **kwargs: object) -> None:
        raise MlflowException("connection refused")

    def fail() -> None:
        with Run.open(tracking, "key", name="sample"):
            monkeypatch.setattr(type(tracking.client), "set_terminated", refuse)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert "connection refused" in caplog.text


def test_a_broken_history_names_the_line(tracking: Tracking, training: Callable[[list[str]], Artifact]) -> None:
    with Run.open(tracking, "key", name="sample") as run:
        with pytest.raises(ValueError, match=r"metrics\.jsonl line 2.*step"):
            run.log_history(training(['{"step": 1, "loss": 1}', '{"loss": 1}']))
        assert history(run, "training/loss") == []


def test_figures_are_logged_once_and_renewed_when_they_change(
    tracking: Tracking, evaluation: Callable[..., Artifact]
) -> None:
    first = evaluation()
    for _ in range(2):
        with Run.open(tracking, "key", name="sample") as run:
            run.log_evaluation(first)
    data = tracking.client.get_run(run.run_id).data
    assert data.metrics["recall_at_10/all/both"] == 0.4
    assert stages_of(data.tags) == Stages({"evaluation": first.key}, {"evaluation": first.key})
    assert files(run, "evaluation") == {
        f"evaluation/{name}" for name in ("metrics.json", "metrics.parquet", "queries.json", "queries.parquet")
    }
    shown = json.loads(data.tags["mlflow.loggedArtifacts"])
    assert shown == [{"path": "evaluation/queries.json", "type": "table"}], "a table on MLflow's page"
    assert history(run, "recall_at_10/all/both") == [(0, 0.4)]

    changed = evaluation({"both": {"all": {"recall@10": 0.5, "mrr": 0.2}}}, batch=2)
    with Run.open(tracking, "key", name="sample") as run:
        # That a stage is named as made says nothing about what is logged of it.
        run.log_stage(changed)
        run.log_evaluation(changed)
    data = tracking.client.get_run(run.run_id).data
    assert data.metrics["recall_at_10/all/both"] == 0.5
    assert history(run, "test/mrr") == [(0, 0.2)]
    assert stages_of(data.tags).made["evaluation"] == changed.key


def test_checks_verdict_and_report_are_files_of_the_run(tracking: Tracking, tmp_path: Path) -> None:
    def write(directory: Path) -> None:
        (directory / "result.json").write_text("{}")
        (directory / "summary.md").write_text("fine")
        (directory / "data_docs").mkdir()
        (directory / "data_docs" / "index.html").write_text("<html></html>")

    quality = Store(tmp_path / "store").build("quality", 1, {}, {}, write)
    (tmp_path / "report.html").write_text("<html></html>")
    with Run.open(tracking, "key", name="sample") as run:
        run.log_quality(quality)
        run.log_verdict(Verdict(passed=False, rules=(), sentence="version 1 is refused"))
        run.log_file(tmp_path / "report.html")
    assert files(run) == {"quality", "gate.json", "report.html"}
    assert files(run, "quality") == {"quality/result.json", "quality/summary.md", "quality/data_docs"}
    assert files(run, "quality/data_docs") == {"quality/data_docs/index.html"}
    tags = tracking.client.get_run(run.run_id).data.tags
    assert tags[names.GATE] == "refused"
    assert tags["notellm2.data_docs"] == f"quality/{quality.key}/data_docs/index.html in the store"


def test_a_living_run_of_another_retraining_is_left_alone(tracking: Tracking) -> None:
    living = Run.open(tracking, "key-1", name="sample")
    assert f":{os.getpid()}:" in tracking.client.get_run(living.run_id).data.tags[names.PROCESS]
    with Run.open(tracking, "key-2", name="sample"):
        assert status(living) == "RUNNING"
    assert status(Run.attach(tracking, living.run_id)) == "RUNNING"
    living.finish()
    assert status(living) == "FINISHED"


def test_a_run_that_waits_for_a_person_has_not_ended(tracking: Tracking) -> None:
    run = Run.open(tracking, "key", name="sample")
    run.suspend()
    assert tracking.client.get_run(run.run_id).info.status == "SCHEDULED"
    with Run.open(tracking, "key", name="sample") as again:
        assert again.run_id == run.run_id
        assert tracking.client.get_run(run.run_id).info.status == "RUNNING"


def test_every_rule_of_the_gate_is_in_its_file(tracking: Tracking, tmp_path: Path) -> None:
    rules = (
        Rule(name="canary", passed=True, detail="the canary: passed"),
        Rule(name="beats-tfidf", passed=False, detail="0.1 and 0.2", required=False),
    )
    verdict = Verdict(passed=True, rules=rules, sentence="passed")
    with Run.open(tracking, "key", name="sample") as run:
        run.log_verdict(verdict)
    assert tracking.client.get_run(run.run_id).data.tags["notellm2.gate"] == "passed"
    written = Path(tracking.client.download_artifacts(run.run_id, "gate.json", str(tmp_path)))
    assert Verdict.model_validate_json(written.read_text()) == verdict


def description(run: Run) -> str:
    return str(run.tracking.client.get_run(run.run_id).data.tags[names.NOTE])


def name(run: Run) -> str:
    return str(run.tracking.client.get_run(run.run_id).info.run_name)


def test_name_and_description_say_what_came_of_a_run(tracking: Tracking) -> None:
    own = run_name("sample", "0123456789abcdef.dir", datetime(2026, 11, 26, 14, 48, tzinfo=UTC))
    assert own == "sample · data 01234567 · 2026-11-26 14:48"

    def fail() -> None:
        with Run.open(tracking, "key", name=own) as run:
            run.describe("**Running** since noon.\n\nRecipe `sample`.")
            raise ValueError("the disk is full")

    with pytest.raises(ValueError, match="full"):
        fail()
    run = Run.open(tracking, "key", name="another time's")
    assert name(run) == own, "it goes on; what came of it is not known yet"
    assert "**Failed**: ValueError: the disk is full\n\nRecipe `sample`." in description(run)
    run.conclude("promoted", "**In use**: version 3.")
    with Run.attach(tracking, run.run_id):
        pass
    assert name(run) == f"{own} · promoted"
    assert "**In use**: version 3.\n\nRecipe `sample`." in description(run)
    assert "Failed" not in description(run)


def test_a_run_that_says_nothing_of_itself_has_finished(tracking: Tracking) -> None:
    with Run.open(tracking, "key", name="sample") as run:
        run.describe("**Running** since noon.\n\nRecipe `sample`.")
    assert "**Finished**.\n\nRecipe `sample`." in description(run)


def test_a_name_that_a_person_chose_stays(tracking: Tracking) -> None:
    own = run_name("sample", "0123456789abcdef.dir", datetime(2026, 11, 26, 14, 48, tzinfo=UTC))
    run = Run.open(tracking, "key", name=own)
    run.conclude("refused", "**Refused**.")
    chosen = Run.open(tracking, "key", name="with the new crawl", chosen=True)
    assert chosen.run_id == run.run_id
    chosen.conclude("promoted", "**In use**.")
    assert name(chosen) == "with the new crawl"
    assert name(Run.open(tracking, "key", name=own)) == "with the new crawl"


def test_what_people_wrote_above_a_description_stays(tracking: Tracking) -> None:
    with Run.open(tracking, "key", name="sample") as run:
        run.describe("**Running**.\n\nRecipe `sample`.")
        mine = f"We doubt the images.\n\n{description(run)}"
        tracking.client.set_tag(run.run_id, names.NOTE, mine)
        run.describe("**Judged**.\n\nAnother.")
        run.conclude("refused", "**Refused**.")
    assert description(run) == "We doubt the images.\n\n### What the retraining found\n\n**Refused**.\n\nAnother."


def test_costs_are_those_of_the_dearest_attempt(tracking: Tracking) -> None:
    with Run.open(tracking, "key", name="sample") as run:
        run.log_costs({"training": 60.0}, 2.5)
        run.log_costs({"training": 60.0}, 1.5)
    metrics = tracking.client.get_run(run.run_id).data.metrics
    assert metrics == {"seconds/training": 60.0, "memory/peak_gb": 2.5}
    assert history(run, "seconds/training") == [(0, 60.0)]
