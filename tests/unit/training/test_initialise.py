from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from notellm2.errors import InputError
from notellm2.model.network.loss import pair_loss
from notellm2.model.network.note_source import NoteSource, hidden_rows
from notellm2.training.batches import PairOrder
from notellm2.training.initialise import fit_start
from tests.unit.conftest import Backbone
from tests.unit.model.tiny import VARIANTS, model_config
from tests.unit.training.small_task import CONNECTOR, NOTES, network_for


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_start_tells_partners_from_strangers(variant: str, backbone: Backbone) -> None:
    config = model_config(connector=CONNECTOR, **VARIANTS[variant])
    network, source, pairs = network_for(backbone("llama"), config)
    figures = fit_start(network, source, pairs, config, seed=0, size=64)
    assert figures["head_gain"] > 0.1
    assert ("image_gain" in figures) == ("late" in variant)
    assert all(math.isfinite(value) for value in figures.values())
    assert network.training
    order = PairOrder(pairs, 32, seed=1)
    rows = order.step(0)
    mask = torch.from_numpy(order.not_negatives(rows, known_positives=True))
    with torch.no_grad():
        x = network(source.batch(rows)).multimodal_BD
        alike = torch.ones_like(x) / math.sqrt(x.shape[1])
        assert float(pair_loss(x, network.log_scale, mask)) < float(pair_loss(alike, network.log_scale, mask)) - 0.1


def test_the_image_speaks_as_loud_as_what_differs_between_texts(backbone: Backbone) -> None:
    config = model_config(connector=CONNECTOR)
    network, source, pairs = network_for(backbone("llama"), config)
    fit_start(network, source, pairs, config, seed=0, size=64)
    texts = hidden_rows(network, source, np.arange(NOTES), size=64, modality="text").multimodal_BH
    with torch.no_grad():
        images = network.fusion.project(torch.from_numpy(source.vision[:, 0].astype(np.float32)))  # type: ignore[union-attr,index]
    loudness = float(images.square().mean().sqrt() / (texts - texts.mean(0)).square().mean().sqrt())
    assert loudness == pytest.approx(1.0, abs=0.2)


def test_it_is_a_function_of_the_seed(backbone: Backbone) -> None:
    config = model_config(connector=CONNECTOR, start_pairs=400)
    heads = []
    for seed in (1, 1, 2):
        network, source, pairs = network_for(backbone("llama"), config)
        torch.rand(3)
        fit_start(network, source, pairs, config, seed=seed, size=64)
        heads.append(network.head.weight.detach().clone())
    assert heads[0].equal(heads[1])
    assert not heads[0].equal(heads[2])


def test_a_given_scale_stays(backbone: Backbone) -> None:
    config = model_config(connector=CONNECTOR, log_scale=3.0)
    network, source, pairs = network_for(backbone("llama"), config)
    fit_start(network, source, pairs, config, seed=0, size=64)
    assert network.log_scale.item() == 3.0


def test_few_images_leave_late_fusion_alone(backbone: Backbone) -> None:
    config = model_config(connector=CONNECTOR)
    network, source, pairs = network_for(backbone("llama"), config)
    vision = source.vision.copy()  # type: ignore[union-attr]
    vision[40:] = 0
    before = network.fusion.project.weight.detach().clone()  # type: ignore[union-attr]
    figures = fit_start(network, NoteSource(source.layout, source.texts, vision), pairs, config, seed=0, size=64)
    assert network.fusion.project.weight.equal(before)  # type: ignore[union-attr]
    assert "image_gain" not in figures


def test_missing_images_do_not_enter_the_images_fit(backbone: Backbone) -> None:
    config = model_config(connector=CONNECTOR)
    network, source, pairs = network_for(backbone("llama"), config)
    vision = source.vision.copy()  # type: ignore[union-attr]
    vision[::5] = 0
    figures = fit_start(network, NoteSource(source.layout, source.texts, vision), pairs, config, seed=0, size=64)
    assert figures["image_gain"] > 1.0, "zeros of missing images spoil the fit"


def test_too_few_pairs_are_an_input_error(backbone: Backbone) -> None:
    config = model_config(connector=CONNECTOR)
    network, source, pairs = network_for(backbone("llama"), config)
    with pytest.raises(InputError, match=r"model.start: random"):
        fit_start(network, source, pairs[np.array([0, 9])], config, seed=0, size=64)
