"""Head and shortcuts, fitted together to cached features."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from notellm2.model.bundle.bundle import Bundle
from notellm2.model.network.loss import spread
from notellm2.model.network.note_source import NoteSource, embed_rows, hidden_rows
from notellm2.model.network.prompt import encode_texts
from notellm2.recipe import ModelConfig, RefitConfig, ShortcutsConfig, TrainingConfig
from notellm2.training.fit import pair_rows
from notellm2.training.refit import refit
from tests.unit.training.small_run import COUNT, MODEL, TRAINING, Stages

SHORTCUTS = MODEL.model_copy(update={"shortcuts": ShortcutsConfig(image_grid=2, runs=3, runs_kept=512)})
REFIT = RefitConfig(epochs=4, pairs_per_batch=32, components=16, lr=1e-2)


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> Stages:
    return Stages.build(tmp_path_factory.mktemp("refit"))


@pytest.fixture(scope="module")
def refitted(stages: Stages) -> Path:
    training = TRAINING.model_copy(update={"refit": REFIT})
    made = stages.train(SHORTCUTS, training)
    assert made.summary["refit_loss"] < np.log(63)
    assert 0 <= made.summary["refit_validation_mrr"] <= 1
    return made.file("bundle")


def _source(stages: Stages, bundle: Bundle) -> NoteSource:
    texts = encode_texts(bundle.tokenizer, stages.dataset.texts(), bundle.config.model)
    return NoteSource(bundle.network.layout, texts, np.load(stages.features.file("features.npy")))


def _pairs(stages: Stages) -> np.ndarray:
    row_of = {note.note_id: row for row, note in enumerate(stages.dataset.texts())}
    return pair_rows(stages.pairs, "train.parquet", row_of)


def test_the_bundle_carries_vocabulary_and_standardisation(stages: Stages, refitted: Path) -> None:
    bundle = Bundle.load(refitted)
    shortcuts = bundle.network.shortcuts
    assert shortcuts is not None
    assert shortcuts.image is not None
    assert shortcuts.runs is not None
    for fitted in (shortcuts.image.weight, shortcuts.image.bias, shortcuts.runs.weight):
        assert fitted.any()
    source = _source(stages, bundle)
    np.testing.assert_allclose(
        embed_rows(bundle.network, source, np.arange(3), size=8, modality="text"),
        bundle.embed(stages.dataset.texts()[:3], modality="text"),
        atol=1e-5,
    )


def test_outputs_are_centred_over_the_training_notes(stages: Stages, refitted: Path) -> None:
    bundle = Bundle.load(refitted)
    outputs = embed_rows(bundle.network, _source(stages, bundle), np.unique(_pairs(stages)), size=32, bare=True)
    assert np.abs(outputs.mean(0)).max() < 1e-3 * np.abs(outputs).max()


def test_the_folded_map_is_the_one_that_was_fitted(
    stages: Stages, refitted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from notellm2.training import refit as module

    bundle = Bundle.load(refitted)
    network, source, pairs = bundle.network, _source(stages, bundle), _pairs(stages)
    fitted = {}

    def watched(parts, *rest):
        weights, figures = original(parts, *rest)
        fitted["y"] = torch.stack([part.inputs_NK @ weights[name].T for name, part in parts.items()]).sum(0)
        return weights, figures

    original = module._fit
    monkeypatch.setattr(module, "_fit", watched)
    refit(network, source, pairs, REFIT, seed=3, size=16)
    found = embed_rows(network, source, np.unique(pairs), size=16)
    expected = spread(fitted["y"], centre=True).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_a_refit_is_the_same_every_time(stages: Stages, refitted: Path) -> None:
    bundle = Bundle.load(refitted)
    source, pairs = _source(stages, bundle), _pairs(stages)
    rows = np.arange(COUNT)
    made = []
    for _ in range(2):
        torch.manual_seed(len(made))
        refit(bundle.network, source, pairs, REFIT, seed=0, size=16)
        made.append(embed_rows(bundle.network, source, rows, size=16))
    np.testing.assert_array_equal(made[0], made[1])


def test_without_shortcuts_the_head_alone_is_refitted(stages: Stages) -> None:
    bundle = Bundle.load(stages.train().file("bundle"))
    source, pairs = _source(stages, bundle), _pairs(stages)
    before = hidden_rows(bundle.network, source, np.arange(8), size=8).multimodal_BH
    refit(bundle.network, source, pairs, REFIT, seed=0, size=16)
    after = hidden_rows(bundle.network, source, np.arange(8), size=8).multimodal_BH
    torch.testing.assert_close(before, after)


def test_shortcuts_are_silent_while_the_network_trains(stages: Stages) -> None:
    plain, with_shortcuts = stages.train(MODEL), stages.train(SHORTCUTS)
    losses = [
        [json.loads(line)["loss"] for line in made.file("metrics.jsonl").read_text().splitlines()]
        for made in (plain, with_shortcuts)
    ]
    assert losses[0] == losses[1]


def test_a_key_without_refit_and_shortcuts_is_what_it_was() -> None:
    assert "shortcuts" not in ModelConfig().keyed()
    assert "refit" not in TrainingConfig().keyed()
    assert SHORTCUTS.keyed()["shortcuts"]["runs"] == 3
    assert TRAINING.model_copy(update={"refit": REFIT}).keyed()["refit"]["epochs"] == 4
