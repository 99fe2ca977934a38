from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from notellm2.errors import InputError
from notellm2.model.bundle.bundle import Bundle
from notellm2.model.network.prefix import prefixes
from notellm2.recipe import ModelConfig
from tests.unit.training.small_run import MODEL, TRAINING, Stages
from tests.unit.training.test_training_stage import history


def test_prefixes_have_length_one_and_zeros_stay() -> None:
    x = np.array([[3, 4, 12], [0, 0, 1], [0, 2, 0]], np.float64)
    np.testing.assert_allclose(prefixes(x, 2), [[0.6, 0.8], [0, 0], [0, 1]], rtol=1e-6)
    assert prefixes(x, 2).dtype == np.float32


def test_a_model_trained_for_several_widths_serves_them(stages: Stages, tmp_path: Path) -> None:
    model = ModelConfig.model_validate(MODEL.model_dump() | {"matryoshka": [2, 4]})
    trained = stages.train(model, TRAINING.model_copy(update={"steps": 2}))
    plain = stages.train(MODEL, TRAINING.model_copy(update={"steps": 2}))
    assert history(trained)[0]["loss"] != history(plain)[0]["loss"], "the prefixes are not in the loss"
    bundle = Bundle.load(trained.file("bundle"))
    notes = next(iter(stages.dataset.batches()))[:5]
    whole = bundle.embed(notes)
    for width in (2, 4):
        short = bundle.embed(notes, width=width)
        np.testing.assert_allclose(short, prefixes(whole, width), atol=1e-6)
        np.testing.assert_allclose(np.linalg.norm(short, axis=1), 1, atol=1e-5)
    np.testing.assert_array_equal(bundle.embed(notes, width=8), whole)
    assert bundle.embed([], width=4).shape == (0, 4)
    with pytest.raises(InputError, match="width 3: this model serves 2, 4, 8"):
        bundle.embed(notes, width=3)


@pytest.mark.parametrize("widths", [[8], [1], [4, 2], [4, 4]])
def test_widths_that_make_no_sense_are_refused(widths: list[int]) -> None:
    with pytest.raises(ValueError, match="expected rising widths"):
        ModelConfig.model_validate(MODEL.model_dump() | {"matryoshka": widths})
