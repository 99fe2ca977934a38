from __future__ import annotations

import base64
import sys
import types
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from notellm2.artifacts import Artifact
from notellm2.errors import InputError
from notellm2.notes.schema import Note
from notellm2.registry import models, names, versions
from notellm2.registry.decisions import Verdict
from notellm2.registry.record import version_record
from notellm2.registry.runs import Run
from notellm2.registry.tracking import Tracking
from notellm2.registry.versions import Version

MD5 = "0123456789abcdef0123456789abcdef.dir"


def registered(tracking: Tracking, bundle: Path, key: str = "key") -> Version:
    with Run.open(tracking, key, name="sample") as run:
        return versions.register(run, bundle, data_md5=MD5, test_set="pairs-1")


class FakeBundle:
    """Stands in for `notellm2.model.bundle.bundle.Bundle`: what it was loaded from, and what it was asked to embed."""

    loaded: list[Path] = []  # noqa: RUF012 - one list, read by the tests
    asked: list[Note] = []  # noqa: RUF012

    @classmethod
    def load(cls, bundle: Path) -> FakeBundle:
        cls.loaded.append(bundle)
        return cls()

    def embed(self, notes: Sequence[Note]) -> np.ndarray:
        self.asked.extend(notes)
        return np.full((len(notes), 4), 0.5, dtype=np.float32)


@pytest.fixture
def embedder(monkeypatch: pytest.MonkeyPatch) -> type[FakeBundle]:
    module = types.ModuleType("notellm2.model.bundle.bundle")
    module.Bundle = FakeBundle  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "notellm2.model.bundle.bundle", module)
    monkeypatch.setattr(FakeBundle, "loaded", [])
    monkeypatch.setattr(FakeBundle, "asked", [])
    return FakeBundle


def test_a_version_keeps_where_it_was_made(tracking: Tracking, bundle: Path) -> None:
    def tags() -> dict[str, str]:
        return dict(tracking.client.get_model_version(tracking.model_name, "1").tags)

    def made_by(flow_run: str) -> None:
        with Run.open(tracking, "key", name="sample") as run:
            url = f"http://prefect/runs/flow-run/{flow_run}"
            run.log_origin(recipe="sample", data_md5=MD5, git_commit="abc", flow_run=flow_run, flow_run_url=url)
            versions.register(run, bundle, data_md5=MD5, test_set="pairs-1")

    made_by("first")
    first = tags()
    record = version_record(first)
    assert (record["recipe"], record["git_commit"], record["data_md5"]) == ("sample", "abc", MD5)
    assert (record["flow_run"], record["flow_run_url"]) == ("first", "http://prefect/runs/flow-run/first")
    made_by("second")
    assert tags() == first, "the second found it there"


def test_a_version_is_registered_once_and_keeps_its_figures(
    tracking: Tracking,
    bundle: Path,
    evaluation: Callable[..., Artifact],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    embedder: type[FakeBundle],
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    with Run.open(tracking, "key", name="sample") as run:
        run.log_evaluation(evaluation())
        first = versions.register(run, bundle, data_md5=MD5, test_set="pairs-1")
        again = versions.register(run, bundle, data_md5=MD5, test_set="pairs-1")
    assert first == again
    assert (first.version, first.run_id, first.data_md5, first.test_set) == ("1", run.run_id, MD5, "pairs-1")
    assert first.metrics["both"]["all"] == {"recall@10": 0.4, "mrr": 0.2, "n": 200.0}
    assert set(first.artifacts) == {"evaluation"}
    assert versions.challenger(tracking) == first
    assert versions.champion(tracking) is None
    assert len(tracking.client.search_logged_models([tracking.experiment_id()])) == 1
    assert embedder.loaded == [], "logging must not load the model"
    assert list(Path.cwd().iterdir()) == [], "no stray mlruns or mlflow.db where the flow was started"

    # The run may go on to log other figures; the version keeps those it was judged by.
    with Run.open(tracking, "key", name="sample") as run:
        run.log_evaluation(evaluation({"both": {"all": {"recall@10": 0.1}}}, other=1))
    assert versions.get_version(tracking, "1").metrics["both"]["all"]["recall@10"] == 0.4


def test_another_bundle_or_another_run_is_another_version(tracking: Tracking, bundle: Path) -> None:
    assert registered(tracking, bundle).version == "1"
    assert registered(tracking, bundle, key="other").version == "2"
    (bundle / "config.json").write_text('{"dim": 8}')
    assert registered(tracking, bundle, key="other").version == "3"
    challenger = versions.challenger(tracking)
    assert challenger is not None
    assert challenger.version == "3"
    # Putting the first forward again moves the alias back.
    (bundle / "config.json").write_text('{"dim": 4}')
    assert registered(tracking, bundle).version == "1"
    challenger = versions.challenger(tracking)
    assert challenger is not None
    assert challenger.version == "1"


def test_a_registration_that_was_killed_half_way_is_finished(tracking: Tracking, bundle: Path) -> None:
    from notellm2.artifacts import digest_tree

    digest = digest_tree(bundle)[:20]
    with Run.open(tracking, "key", name="sample") as run:
        client = tracking.client
        pending = client.create_logged_model(
            tracking.experiment_id(), name="x", source_run_id=run.run_id, tags={names.BUNDLE: digest}
        )
        ready = models.log_model(run, bundle, digest)
        assert ready.model_id != pending.model_id
        version = versions.register(run, bundle, data_md5=MD5, test_set="pairs-1")
    states = {m.model_id: str(m.status) for m in client.search_logged_models([tracking.experiment_id()])}
    assert states == {pending.model_id: "FAILED", ready.model_id: "READY"}
    assert client.get_model_version(tracking.model_name, version.version).source == ready.artifact_location


def test_the_logged_model_is_code_and_data_without_pickles(tracking: Tracking, bundle: Path, tmp_path: Path) -> None:
    version = registered(tracking, bundle)
    stored = versions.bundle_path(tracking, version.version, tmp_path / "download")
    assert (stored / "config.json").read_bytes() == (bundle / "config.json").read_bytes()
    root = stored.parents[1]
    names_ = {path.name for path in root.rglob("*") if path.is_file()}
    assert names_ == {
        "MLmodel", "pyfunc_model.py", "config.json", "heads.safetensors", "requirements.txt", "conda.yaml",
        "python_env.yaml", "README.md", "input_example.json", "serving_input_example.json",
    }  # fmt: skip
    pins = (root / "requirements.txt").read_text().split()
    assert all("==" in pin for pin in pins)
    assert {pin.partition("==")[0] for pin in pins} >= {"notellm2", "mlflow", "torch", "transformers"}
    assert not any("+" in pin for pin in pins), "local versions are on no public index"
    assert "fastapi-slim" not in pins


def test_the_model_serves_what_its_signature_says(
    tracking: Tracking, bundle: Path, embedder: type[FakeBundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow.pyfunc
    import pandas as pd
    from fastapi.testclient import TestClient
    from mlflow.pyfunc import scoring_server

    version = registered(tracking, bundle)
    uri = tracking.client.get_model_version_download_uri(tracking.model_name, version.version)
    model = mlflow.pyfunc.load_model(uri)
    assert (embedder.loaded[0] / "config.json").read_text() == '{"dim": 4}'

    frame: Any = model.predict(models.input_example())
    assert list(frame.columns) == ["embedding"]
    assert frame["embedding"].tolist() == [[0.5] * 4] * 2
    first, second = embedder.asked
    assert (first.note_id, first.title, first.topics) == (
        "example-1",
        "Sourdough for beginners",
        ("baking", "bread"),
    )
    assert first.image is not None
    assert first.image.startswith(b"\x89PNG")
    assert second == Note("example-2", "Evening walk")
    assert model.predict(models.input_example().iloc[:0])["embedding"].tolist() == []

    embedder.asked.clear()
    without = pd.DataFrame([{"note_id": "n", "title": "t", "topics": ["a"], "content": "c"}])
    model.predict(without)
    assert embedder.asked == [Note("n", "t", ("a",), "c")]
    with pytest.raises(Exception, match="content"):
        model.predict(without.drop(columns="content"))

    # Over HTTP: base64 in JSON.
    embedder.asked.clear()
    image = base64.b64encode(b"bytes").decode()
    rows = [
        {"note_id": "n", "title": "t", "topics": ["a"], "content": "c", "image": image},
        {"note_id": "m", "title": "t", "topics": [], "content": "c", "image": ""},
    ]
    with TestClient(scoring_server.init(model)) as client:
        answer = client.post("/invocations", json={"dataframe_records": rows})
    assert answer.status_code == 200, answer.text
    assert answer.json() == {"predictions": [{"embedding": [0.5] * 4}] * 2}
    assert [note.image for note in embedder.asked] == [b"bytes", None]


def test_an_alias_moves_to_a_version_and_away(tracking: Tracking, bundle: Path) -> None:
    for key in ("one", "two"):
        registered(tracking, bundle, key=key)
    assert versions.alias_version(tracking, names.CHAMPION) is None
    versions.move_alias(tracking, names.CHAMPION, None)
    for version in ("1", "2", "2", None):
        versions.move_alias(tracking, names.CHAMPION, version)
        assert versions.alias_version(tracking, names.CHAMPION) == version
    assert versions.champion(tracking) is None


def test_a_version_keeps_what_the_gate_said_of_it(tracking: Tracking, bundle: Path) -> None:
    before = registered(tracking, bundle)
    assert (before.gate, before.verdict, before.compared_with, before.canary) == (None, "", None, False)
    verdict = Verdict(passed=True, rules=(), sentence="version 1 passes")
    versions.record_verdict(tracking, "1", verdict, None)
    versions.record_canary(tracking, "1")
    found = versions.get_version(tracking, "1")
    assert (found.gate, found.verdict, found.compared_with, found.canary) == ("passed", "version 1 passes", None, True)
    versions.record_verdict(tracking, "1", verdict.model_copy(update={"passed": False}), "7")
    found = versions.get_version(tracking, "1")
    assert (found.gate, found.compared_with) == ("refused", "7")


def test_a_verdict_that_was_half_recorded_promotes_nothing(
    tracking: Tracking, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second look refuses what a first one passed, and the process ends between any two tags."""
    registered(tracking, bundle)
    passed = Verdict(passed=True, rules=(), sentence="version 1 passes")
    tag, left = tracking.client.set_model_version_tag, 0

    def end(*arguments: str) -> None:
        nonlocal left
        if left == 0:
            raise SystemExit
        left -= 1
        tag(*arguments)

    for written in (1, 2):
        versions.record_verdict(tracking, "1", passed, None)
        left = written
        with monkeypatch.context() as patch:
            patch.setattr(tracking.client, "set_model_version_tag", end)
            with pytest.raises(SystemExit):
                versions.record_verdict(
                    tracking, "1", passed.model_copy(update={"passed": False, "sentence": "it does not"}), "7"
                )
        assert versions.get_version(tracking, "1").gate == "refused"


def test_a_version_keeps_the_key_of_its_index(
    tracking: Tracking, bundle: Path, evaluation: Callable[..., Artifact]
) -> None:
    registered(tracking, bundle)
    artifact = evaluation()
    for _ in range(2):
        versions.add_artifact(tracking, "1", artifact)
        assert versions.get_version(tracking, "1").artifacts == {"evaluation": artifact.key}


def test_an_unknown_version_is_an_input_error(tracking: Tracking, bundle: Path) -> None:
    with pytest.raises(InputError, match="version '7'"):
        versions.get_version(tracking, "7")
    registered(tracking, bundle)
    for version in ("7", "latest"):
        with pytest.raises(InputError, match="notellm2 status"):
            versions.get_version(tracking, version)
