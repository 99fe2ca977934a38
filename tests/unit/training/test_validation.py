from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from notellm2.model.network.note_source import NoteSource, Rows, embed_rows
from notellm2.model.network.notellm2 import NoteLLM2
from notellm2.training import validation
from notellm2.training.loop import TrainingRun, train
from notellm2.training.validation import Validation, recentre, validate
from tests.unit.conftest import Backbone
from tests.unit.model.tiny import model_config
from tests.unit.training.small_task import CONNECTOR, NOTES, network_for, training_config

VALIDATION = Validation(np.array([[0, 20], [1, 21], [2, 42], [3, 300]]), np.arange(60))


def off_centre(network: NoteLLM2, source: NoteSource, pairs: Rows) -> float:
    """Largest coordinate of the mean output over the notes of the pairs."""
    y = embed_rows(network, source, np.unique(pairs), size=64, bare=True)
    return float(np.abs(y.mean(0, dtype=np.float64)).max())


def ranks(x: np.ndarray, validation: Validation) -> list[int]:
    found = []
    for query, target in validation.pairs:
        others = [n for n in validation.pool if n not in (query, target)]
        found.append(1 + sum(x[query] @ x[n] >= x[query] @ x[target] - 1e-6 for n in others))
    return found


@pytest.mark.parametrize("block", [1, 2, 512])
def test_validation_ranks_are_counted_by_hand(block: int, backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    network, source, _ = network_for(backbone("llama"), model_config(connector=CONNECTOR))
    x = embed_rows(network, source, np.arange(NOTES), size=64)
    monkeypatch.setattr(validation, "_VALIDATION_BLOCK", block)
    found = validate(network, source, VALIDATION, training_config())
    expected = np.array(ranks(x.astype(np.float64), VALIDATION))
    assert found["validation_mrr"] == pytest.approx(float((1 / expected).mean()), rel=1e-6)
    assert found["validation_recall_at_10"] == pytest.approx(float((expected <= 10).mean()))
    assert network.training


def test_a_collapsed_network_validates_last(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    network, source, _ = network_for(backbone("llama"), model_config(connector=CONNECTOR))
    direction = np.random.default_rng(0).standard_normal(8).astype(np.float32)
    direction /= np.linalg.norm(direction)
    monkeypatch.setattr(validation, "embed_rows", lambda network, source, rows, **_: np.tile(direction, (len(rows), 1)))
    found = validate(network, source, VALIDATION, training_config())
    assert found["validation_mrr"] < 0.02


@pytest.mark.parametrize("steps", [0, 3])
@pytest.mark.parametrize("validation", [None, VALIDATION], ids=["alone", "validated"])
def test_a_run_ends_centred(steps: int, validation: Validation | None, backbone: Backbone, tmp_path: Path) -> None:
    network, source, pairs = network_for(backbone("llama"), model_config(connector=CONNECTOR))
    assert off_centre(network, source, pairs) > 0.01
    train(TrainingRun(network, source, pairs, validation, training_config(steps=steps, head_lr=0.1), tmp_path))
    assert off_centre(network, source, pairs) < 1e-6


def test_centring_again_moves_nothing(backbone: Backbone) -> None:
    network, source, pairs = network_for(backbone("llama"), model_config(connector=CONNECTOR))
    recentre(network, source, pairs, training_config())
    before = network.head.bias.detach().clone()
    recentre(network, source, pairs, training_config())
    torch.testing.assert_close(network.head.bias.detach(), before, atol=1e-6, rtol=0)
    assert network.training


def test_the_centre_is_a_draw_of_training_notes_alone(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    network, source, pairs = network_for(backbone("llama"), model_config(connector=CONNECTOR))
    seen: list[Rows] = []
    plain = validation.embed_rows

    def watched(network: NoteLLM2, source: NoteSource, rows: Rows, *, size: int, bare: bool) -> np.ndarray:
        seen.append(rows)
        return plain(network, source, rows, size=size, bare=bare)

    monkeypatch.setattr(validation, "embed_rows", watched)
    monkeypatch.setattr(validation, "_CENTRE_NOTES", 16)
    for seed in (1, 1, 2):
        recentre(network, source, pairs[:100], training_config(seed=seed))
    assert all(len(rows) == len(np.unique(rows)) == 16 for rows in seen)
    assert set(np.concatenate(seen).tolist()) <= set(np.unique(pairs[:100]).tolist())
    assert np.array_equal(seen[0], seen[1])
    assert not np.array_equal(seen[0], seen[2])


def test_a_head_without_centre_stays_as_it_is(backbone: Backbone) -> None:
    network, source, pairs = network_for(backbone("llama"), model_config(connector=CONNECTOR, centre=False))
    recentre(network, source, pairs, training_config())
    assert network.head.bias is None


@pytest.mark.parametrize("centre", [True, False])
def test_nearly_parallel_hidden_states_are_left_within_dozens_of_steps(
    centre: bool, backbone: Backbone, tmp_path: Path
) -> None:
    """At a high rate and from a random head; without centring the same run stays at chance."""
    config = model_config(connector=CONNECTOR, centre=centre, tuning="full")
    network, source, pairs = network_for(backbone("llama"), config)
    assert network.llm is not None
    common = 300 * torch.randn(network.head.in_features, generator=torch.Generator().manual_seed(0))

    def shift(_module: torch.nn.Module, _given: object, out: object) -> None:
        out.last_hidden_state = out.last_hidden_state + common  # type: ignore[attr-defined]

    network.llm.register_forward_hook(shift)
    schedule = training_config(steps=60, pairs_per_batch=16, validate_every=1000, checkpoint_every=1000, lr=1e-3)
    figures = train(TrainingRun(network, source, pairs, None, schedule, tmp_path))
    assert figures["left_chance"] == centre
