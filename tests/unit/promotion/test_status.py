from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from notellm2.artifacts import Artifact
from notellm2.index.layout import FILES, FileEntry
from notellm2.promotion.journal import JOURNAL, hold
from notellm2.promotion.status import Status, collect_status, render
from notellm2.publication.opening import open_location
from notellm2.publication.pointer import POINTER, Publication
from notellm2.recipe import RegistryConfig
from notellm2.registry import names, versions
from notellm2.registry.decisions import Verdict
from notellm2.registry.runs import Run
from notellm2.registry.tracking import URI_VARIABLE, Tracking
from notellm2.workspace import Workspace
from tests.unit.promotion.test_ledger import entry

MD5 = "0123456789abcdef0123456789abcdef.dir"


def publish(workspace: Workspace, model_name: str, model_version: str) -> None:
    publication = Publication(
        version="v1", model_name=model_name, model_version=model_version, data_md5=MD5, index_key="abc123",
        bundle="b0d1e", kind="flat", dimension=64, count=2000, published="2026-11-23T10:00:00+00:00",
        files={name: FileEntry("0" * 64, 1) for name in FILES},
    )  # fmt: skip
    workspace.published.mkdir(parents=True, exist_ok=True)
    (workspace.published / POINTER).write_text(json.dumps(publication.as_json()))


@pytest.fixture
def workspace(store_root: Path) -> Workspace:
    (store_root / "_published" / POINTER).unlink(missing_ok=True)
    return Workspace.at(store_root)


def test_nothing_yet_says_what_to_do_and_makes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(URI_VARIABLE, raising=False)
    status = collect_status(Workspace.at(tmp_path / "none"))
    assert (status.champion, status.challenger, status.published) == (None, None, None)
    text = render(status)
    assert "Champion    none" in text
    assert "notellm2 retrain" in text
    assert list(tmp_path.iterdir()) == []


def test_champion_challenger_and_publication(
    tracking: Tracking, workspace: Workspace, bundle: Path, evaluation: Callable[..., Artifact]
) -> None:
    config = RegistryConfig(experiment=tracking.experiment, model_name=tracking.model_name)
    with Run.open(tracking, "one", name="sample") as run:
        run.log_evaluation(evaluation())
        versions.register(run, bundle, data_md5=MD5, test_set="pairs-1")
    refused = collect_status(workspace, config)
    assert refused.champion is None
    assert refused.challenger is not None
    assert refused.problems == ("no gate has judged version 1: run the retraining again",)
    verdict = Verdict(passed=False, rules=(), sentence="too weak")
    versions.record_verdict(tracking, "1", verdict, None)
    assert "the gate refused version 1" in collect_status(workspace, config).problems[0]
    versions.record_verdict(tracking, "1", verdict.model_copy(update={"passed": True}), None)
    assert "notellm2 promote 1" in collect_status(workspace, config).problems[0]

    versions.move_alias(tracking, names.CHAMPION, "1")
    assert "no published index" in collect_status(workspace, config).problems[0]

    publish(workspace, tracking.model_name, "1")
    # Without a recipe the model is the one that is published.
    status = collect_status(workspace)
    assert status.model_name == tracking.model_name
    assert status.problems == ()
    assert status.champion is not None
    assert status.champion.metrics["both"]["short_query"]["recall@10"] == 0.35
    assert status.champion.data_md5 == MD5
    assert status.published is not None
    assert (status.published.index_key, status.published.count) == ("abc123", 2000)
    assert Status.model_validate_json(status.model_dump_json()) == status
    lines = render(status).splitlines()
    table = [line.split() for line in lines if line.strip().startswith(("R@10", "both", "tfidf"))]
    assert table == [["R@10", "all", "short", "query"], ["both", "0.4000", "0.3500"], ["tfidf", "0.1500", "-"]]
    assert "Challenger  version 1, the champion itself" in lines

    publish(workspace, tracking.model_name, "7")
    assert "of model version 7, the champion is 1" in collect_status(workspace).problems[0]


def test_a_damaged_pointer_is_told_not_raised(tracking: Tracking, workspace: Workspace) -> None:
    workspace.published.mkdir(parents=True, exist_ok=True)
    (workspace.published / POINTER).write_text("{")
    status = collect_status(workspace, RegistryConfig(model_name=tracking.model_name))
    assert status.published is None
    assert "current.json" in status.problems[0]


def test_what_is_pending_or_damaged_beside_the_pointer_is_told(tracking: Tracking, workspace: Workspace) -> None:
    config = RegistryConfig(model_name=tracking.model_name)
    with hold(open_location(workspace.published), "promoting", lease_s=60, wait_s=0) as held:
        held.record(entry("promote", "2", "1"))
        assert "a change to version 2 (promote) began at 2026" in collect_status(workspace, config).problems[0]
        held.record(None)
    assert "promotion" not in " ".join(collect_status(workspace, config).problems)
    journal = Path(workspace.published) / JOURNAL
    journal.write_text("{")
    assert "promotion.json" in collect_status(workspace, config).problems[0]
    journal.unlink()
