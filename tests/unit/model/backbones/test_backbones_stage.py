from __future__ import annotations

import json

import pytest

from notellm2.artifacts import Artifact, digest_tree
from notellm2.embedding.vectors_stage import vision_features
from notellm2.errors import InputError
from notellm2.model.backbones import backbones_stage
from notellm2.model.backbones.backbones_stage import Backbones, Corpus, build_backbones
from notellm2.model.backbones.load import load_language_model, load_vision_encoder
from notellm2.recipe import BackbonesConfig, ImageLimits, ModelConfig
from tests.unit.conftest import Backbone
from tests.unit.training.small_run import BACKBONES, COUNT, MD5, MODEL, Stages


def build(stages: Stages, config: BackbonesConfig, model: ModelConfig = MODEL) -> Artifact:
    return build_backbones(stages.store, Corpus(stages.dataset, MD5, stages.pairs, ImageLimits()), config, model)


def test_built_ones_load_and_are_known_by_their_bytes(stages: Stages) -> None:
    named = Backbones.of(stages.backbones)
    assert load_language_model(named.llm).digest == named.llm_digest == digest_tree(stages.backbones.file("llm"))
    assert load_vision_encoder(named.vision).digest == named.vision_digest
    assert stages.backbones.summary["notes"] == 100, f"{COUNT - 100} held-out notes should not be read"


def test_they_are_built_once(stages: Stages, monkeypatch: pytest.MonkeyPatch) -> None:
    def again(*args: object) -> None:
        raise AssertionError("built again")

    monkeypatch.setattr(backbones_stage, "_build_tiny", again)
    assert build(stages, BACKBONES) == stages.backbones
    with pytest.raises(AssertionError, match="built again"):
        build(stages, BACKBONES.model_copy(update={"seed": 5}))
    with pytest.raises(AssertionError, match="built again"):
        build(stages, BACKBONES, MODEL.model_copy(update={"language": "zh"}))


def test_folders_are_named_not_copied(stages: Stages, backbone: Backbone) -> None:
    config = BackbonesConfig(llm=str(backbone("gpt2")), vision=str(backbone("clip")))
    artifact = build(stages, config)
    named = Backbones.of(artifact)
    assert (named.llm, named.vision) == (config.llm, config.vision)
    assert named.llm_digest == digest_tree(backbone("gpt2"))
    assert sorted(artifact.manifest["files"]) == ["backbones.json"]
    assert MD5 not in artifact.manifest["inputs"].values(), "named backbones do not depend on the data"


def test_an_encoder_with_registers_has_keys_of_its_own(stages: Stages, backbone: Backbone) -> None:
    """Registers once counted as patches: features made then are not those of today. Other encoders keep their keys."""
    named = BACKBONES.model_copy(update={"vision": str(backbone("dinov2-registers"))})
    assert Backbones.of(build(stages, named)).registers == 3
    assert build(stages, named).manifest["inputs"]["registers"] == "3"
    other = build(stages, BACKBONES.model_copy(update={"vision": str(backbone("clip"))}))
    assert "registers" not in {**other.manifest["inputs"], **json.loads(other.file("backbones.json").read_text())}
    features = vision_features(stages.store, stages.dataset, MD5, build(stages, named), ImageLimits())
    assert features.summary["tokens"] == 5
    assert features.manifest["inputs"]["registers"] == "3"


def test_one_may_be_named_and_the_other_built(stages: Stages, backbone: Backbone) -> None:
    named = Backbones.of(build(stages, BACKBONES.model_copy(update={"llm": str(backbone("qwen2"))})))
    assert named.llm == str(backbone("qwen2"))
    assert load_vision_encoder(named.vision).width == 16


def test_a_folder_that_is_not_there_is_an_input_error(stages: Stages) -> None:
    with pytest.raises(InputError, match="no such folder"):
        build(stages, BACKBONES.model_copy(update={"llm": "./nowhere"}))
