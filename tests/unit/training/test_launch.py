"""Real processes, by ``accelerate launch``, talking over gloo on the loopback."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from notellm2.artifacts import Artifact, Store
from notellm2.errors import InputError
from notellm2.model.bundle.bundle import Bundle
from notellm2.recipe import ImageLimits
from notellm2.training import __main__, launch, training_stage
from notellm2.training.fit import Assignment
from notellm2.training.process_group import Team
from tests.unit.training.small_run import MD5, MODEL, TRAINING, Stages
from tests.unit.training.test_training_stage import history, weights, with_pairs

TWO = TRAINING.model_copy(update={"processes": 2, "chunk_notes": 4, "grad_cache": True})


class Killed(Exception):
    """Stands for a kill in the middle of the training."""


@pytest.fixture(scope="module")
def two(stages: Stages) -> Artifact:
    return stages.train(training=TWO)


def test_two_processes_learn_what_one_learns(two: Artifact, stages: Stages) -> None:
    """Negatives come from both, with gradients: the same curve to 1e-5, and the same weights as closely."""
    alone = stages.train(training=TWO.model_copy(update={"processes": 1, "grad_cache": False}))
    ours, theirs = history(two), history(alone)
    assert [row["step"] for row in ours] == [row["step"] for row in theirs] == [1, 2, 3, 4, 5, 6]
    for row, other in zip(ours, theirs, strict=True):
        for name in ("loss", "loss_multimodal", "loss_visual", "chance", "mean_cosine"):
            assert row[name] == pytest.approx(other[name], abs=1e-5), (row["step"], name)
        assert row["gradient_norm"] == pytest.approx(other["gradient_norm"], rel=1e-3)
        assert row.keys() == other.keys()
    for name, weight in weights(alone).items():
        np.testing.assert_allclose(weights(two)[name], weight, atol=5e-5, err_msg=name)
    assert Bundle.load(two.file("bundle")).dim == MODEL.dim
    assert two.summary["steps"] == 6


def test_killed_they_continue_bit_for_bit(two: Artifact, stages: Stages, tmp_path: Path) -> None:
    store = Store(tmp_path)
    seen = []

    def die(step: int, values: Mapping[str, float]) -> None:
        seen.append(step)
        if step >= 3:
            raise Killed

    with pytest.raises(Killed):
        stages.train(training=TWO, store=store, on_metrics=die)
    assert seen == [1, 2, 3], "steps are told as they come"
    (work,) = (store.root / "training").glob(".*.work")
    assert list(work.glob("step-*")), "no checkpoint was left to continue from"
    resumed = stages.train(training=TWO, store=store)
    for name, weight in weights(two).items():
        np.testing.assert_array_equal(weights(resumed)[name], weight, err_msg=name)
    assert history(resumed) == history(two)


def say(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """Processes that only do `code`, with the work folder in `work`."""
    start = "import pathlib, sys; work = pathlib.Path(sys.argv[1]); "
    monkeypatch.setattr(launch, "command", lambda given: [sys.executable, "-c", start + code, str(given.work)])


def test_wrong_input_is_told_by_the_process_that_asked(
    stages: Stages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the leading process writes down becomes an error of the caller."""
    pairs = with_pairs(stages, "two processes", [("n001", "stranger")])
    store = Store(tmp_path)
    say(monkeypatch, "sys.exit(5)")
    with pytest.raises(RuntimeError, match="ended with 5"):
        training_stage.train(store, stages.inputs(pairs=pairs), MODEL, TWO)
    (work,) = (store.root / "training").glob(".*.work")
    monkeypatch.setattr(Team, "joined", Team.alone)
    assert __main__.main([str(work / launch.ASSIGNMENT)]) == __main__.EXIT_INPUT
    message = json.loads((work / launch.OUTCOME).read_text())["input_error"]
    assert "note 'stranger' is not in the data set" in message
    say(monkeypatch, f"(work / 'outcome.json').write_text({json.dumps({'input_error': message})!r}); sys.exit(2)")
    with pytest.raises(InputError, match="note 'stranger' is not in the data set"):
        training_stage.train(store, stages.inputs(pairs=pairs), MODEL, TWO)


def test_a_failure_says_what_the_processes_said(
    stages: Stages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    say(monkeypatch, "print('the sky fell'); sys.exit(7)")
    with pytest.raises(RuntimeError, match=r"(?s)ended with 7.*the sky fell"):
        stages.train(training=TWO, store=Store(tmp_path))


def test_processes_end_with_the_one_that_asked() -> None:
    """However it died: they then read the end of their standard input."""
    code = "from notellm2.training.__main__ import _exit_with_parent; _exit_with_parent()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE) as child:
        assert child.stdin is not None
        child.stdin.close()
        assert child.wait(timeout=60) == __main__.EXIT_ORPHANED


def test_steps_are_told_once_though_the_file_grows_by_halves_and_is_replaced(tmp_path: Path) -> None:
    path, told = tmp_path / "metrics.jsonl", []
    heard = launch._Metrics(path, lambda step, values: told.append((step, dict(values))))
    heard.report_new()
    path.write_text('{"step": 1, "loss": 3.0}\n{"step": 2, "lo')
    heard.report_new()
    assert told == [(1, {"loss": 3.0})]
    with path.open("a") as handle:
        handle.write('ss": 2.0}\n')
    heard.report_new()
    other = tmp_path / "resumed"
    other.write_text('{"step": 1, "loss": 3.0}\n{"step": 2, "loss": 2.0}\n{"step": 3, "loss": 1.0}\n')
    other.replace(path)
    heard.report_new()
    assert [step for step, _ in told] == [1, 2, 3]


def test_what_the_recipe_adds_to_the_launch_comes_after_ours(stages: Stages, tmp_path: Path) -> None:
    training = TWO.model_copy(update={"launch_args": ("--num_machines", "3")})
    given = Assignment(
        store=tmp_path, provenance={}, dataset=tmp_path, data_md5=MD5, pairs={}, backbones={}, features={},
        published=None,
        model=MODEL, training=training, images=ImageLimits(), work=tmp_path, folder=tmp_path,
    )  # fmt: skip
    line = launch.command(given)
    assert line[line.index("--num_processes") + 1] == "2"
    assert line.index("3") > line.index("1") > line.index("--num_machines")
    assert line[-2:] == [str(tmp_path / launch.ASSIGNMENT), "--exit-with-parent"]


def test_sharded_processes_leave_the_bundle_of_one(stages: Stages) -> None:
    """The whole stage: a fitted start, the best weights, and a bundle of whole weights that the leader proved."""
    model = MODEL.model_copy(update={"tuning": "full"})
    alone = stages.train(model, TRAINING)
    shared = stages.train(model, TRAINING.model_copy(update={"processes": 2, "sharding": "full"}))
    for row, other in zip(history(shared), history(alone), strict=True):
        assert row["loss"] == pytest.approx(other["loss"], abs=1e-5), row["step"]
    files = {p.relative_to(alone.path).as_posix() for p in alone.path.rglob("*") if p.is_file()}
    assert {p.relative_to(shared.path).as_posix() for p in shared.path.rglob("*") if p.is_file()} == files
    for name in ("llm/model.safetensors", "heads.safetensors"):
        found, expected = (load_file(artifact.file("bundle") / name) for artifact in (shared, alone))
        assert found.keys() == expected.keys()
        for part in found.keys() - {"connector.layers.0.kv.bias", "connector.layers.0.qkv.bias"}:
            np.testing.assert_allclose(found[part], expected[part], atol=5e-5, err_msg=part)
    notes = stages.dataset.texts()[:5]
    x, y = (Bundle.load(artifact.file("bundle")).embed(notes) for artifact in (shared, alone))
    np.testing.assert_allclose(x, y, atol=1e-4)
    first, second = shared.summary["held_bytes"]
    trained, weights_ = shared.summary["trained_weights"], shared.summary["weights"]
    assert max(first, second) < 0.52 * (4 * weights_ + 8 * trained)
