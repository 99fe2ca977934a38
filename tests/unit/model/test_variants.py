"""Every variant by its overrides alone: it is what it says, it trains, embeds, saves and loads."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from notellm2.embedding.vectors_stage import embed
from notellm2.errors import InputError
from notellm2.model.bundle.bundle import Bundle
from notellm2.model.variants import TRAINED, find_variant, variants
from notellm2.recipe import Recipe, load_recipe
from tests.conftest import ROOT
from tests.unit.training.small_run import MD5, Stages, vectors

SMALL = (
    "model.connector={queries: 2, layers: 1, width: 8, heads: 2}",
    "model.dim=8",
    "model.lora={rank: 2, alpha: 4}",
    "training.steps=2",
    "training.pairs_per_batch=8",
    "training.select=last",
)
PARTS = {
    #               LLM    tokens  word   fusion  vision
    "text": (True, False, False, False, False),
    "vision": (False, False, False, False, True),
    "basic": (True, True, False, False, True),
    "late": (True, False, False, True, True),
    "basic-late": (True, True, False, True, True),
    "micl": (True, True, True, False, True),
    "notellm2": (True, True, True, True, True),
}


def recipe(name: str) -> Recipe:
    return load_recipe(ROOT / "recipes" / "sample.yaml", (*SMALL, *find_variant(name).overrides))


def parts(bundle: Bundle) -> tuple[bool, ...]:
    n = bundle.network
    return tuple(part is not None for part in (n.llm, n.connector, n.image_word, n.fusion, bundle.vision))


def test_the_catalogue_is_complete() -> None:
    assert [v.name for v in TRAINED] == list(PARTS)
    assert list(variants()) == [*PARTS, *(f"{name}-zero-shot" for name in PARTS)]
    with pytest.raises(InputError, match=r"variant .late-late.: there is none.*basic-late"):
        find_variant("late-late")


def test_the_default_recipe_is_notellm2() -> None:
    with_overrides = load_recipe(ROOT / "recipes" / "sample.yaml", find_variant("notellm2").overrides)
    assert with_overrides == load_recipe(ROOT / "recipes" / "sample.yaml")


@pytest.mark.parametrize("name", PARTS)
def test_a_variant_trains_embeds_saves_and_loads(name: str, stages: Stages) -> None:
    wanted = recipe(name)
    trained = stages.train(wanted.model, wanted.training)
    assert trained.summary["steps"] == 2
    bundle = Bundle.load(trained.file("bundle"))
    assert parts(bundle) == PARTS[name]
    assert (trained.file("bundle") / "base" / "llm").exists() == PARTS[name][0]
    embedded = embed(stages.store, stages.dataset, MD5, trained, stages.features)
    x = vectors(embedded, "both")
    assert x.shape == (len(stages.dataset.texts()), 8)
    assert np.unique(x.round(6), axis=0).shape[0] > 20, "the notes are all alike"
    first = [note for batch in stages.dataset.batches() for note in batch][:6]
    np.testing.assert_allclose(bundle.embed(first), x[:6], atol=1e-3)


@pytest.mark.parametrize("name", PARTS)
def test_zero_shot_is_the_network_before_any_training(name: str, stages: Stages) -> None:
    wanted = recipe(f"{name}-zero-shot")
    trained = stages.train(wanted.model, wanted.training)
    summary = trained.summary
    assert (summary["steps"], summary["left_chance"], summary["start"]) == (0, None, {})
    assert 0 < summary["best_validation_mrr"] <= 1
    bundle = Bundle.load(trained.file("bundle"))
    assert parts(bundle) == PARTS[name]
    width = 16  # of both tiny backbones
    np.testing.assert_array_equal(bundle.network.head.weight.detach().numpy(), np.eye(width))
    assert bundle.dim == width
    first = [note for batch in stages.dataset.batches() for note in batch][1:5]
    np.testing.assert_allclose(bundle.embed(first), expected_zero_shot(bundle, first), atol=1e-5)


def expected_zero_shot(bundle: Bundle, notes: Any) -> np.ndarray:
    """The hidden state itself, normalised; for the encoder alone its summary."""
    import torch

    from notellm2.model.network.note_source import NoteSource
    from notellm2.model.network.prompt import encode_texts

    features = bundle.vision_features(notes) if bundle.vision else None
    texts = encode_texts(bundle.tokenizer, notes, bundle.config.model)
    with torch.no_grad():
        hidden = bundle.network.hidden(
            NoteSource(bundle.network.layout, texts, features).batch(np.arange(len(notes)))
        ).multimodal_BH
    if bundle.network.llm is None:
        assert features is not None
        np.testing.assert_array_equal(hidden.numpy(), features[:, 0].astype(np.float32))
    x = hidden.numpy()
    return np.asarray(x / np.linalg.norm(x, axis=1, keepdims=True))


def test_what_contradicts_itself_is_refused() -> None:
    sample = ROOT / "recipes" / "sample.yaml"
    for assignments, expected in (
        (("model.prompt=vision",), "nothing to fuse"),
        (("model.head=none",), "nothing to fit"),
        (("model.base_weights=nf4", "model.tuning=full"), "nf4 weights cannot be tuned whole"),
        (("model.base_weights=bf16", "model.tuning=full"), "bf16 weights cannot be tuned whole"),
    ):
        with pytest.raises(InputError, match=expected):
            load_recipe(sample, assignments)
