from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import BaseModel

from notellm2.errors import InputError
from notellm2.recipe import (
    ConnectorConfig,
    ModelConfig,
    PairsConfig,
    Recipe,
    TinyLLMConfig,
    TrainingConfig,
    as_recorded,
    load_recipe,
)
from tests.conftest import ROOT

NOTHING_TRAINED = ("model.tuning=frozen", "model.head=none", "model.start=random", "model.log_scale=3.0")


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text("name: tiny\ntraining:\n  steps: 20\n")
    return path


def test_what_the_file_says_and_defaults_for_the_rest(recipe: Path) -> None:
    loaded = load_recipe(recipe)
    assert loaded.name == "tiny"
    assert loaded.training.steps == 20
    assert loaded.pairs == PairsConfig()
    assert isinstance(loaded.backbones.llm, TinyLLMConfig)


def test_overrides_win_and_are_yaml(recipe: Path) -> None:
    loaded = load_recipe(
        recipe, ("training.steps=7", "model.tuning=full", "evaluation.ks=[5, 10]", "backbones.llm=some/folder")
    )
    assert loaded.training.steps == 7
    assert loaded.model.tuning == "full"
    assert loaded.evaluation.ks == (5, 10)
    assert loaded.backbones.llm == "some/folder"


def test_every_wrong_field_is_named_at_once(recipe: Path) -> None:
    recipe.write_text("name: tiny\ntraining:\n  steps: -1\n  momentum: 0.9\npairs:\n  score: jaccard\n")
    with pytest.raises(InputError) as caught:
        load_recipe(recipe)
    message = str(caught.value)
    assert "3 field(s) to mend" in message
    for field in ("training.steps", "training.momentum", "pairs.score"):
        assert field in message


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("- a\n- b\n", "expected a mapping of sections, found list"),
        ("", "expected a mapping of sections, found NoneType"),
        ("name: [", "not valid YAML"),
        ("training: {}\n", "name: Field required"),
        ("name: Not A Name\n", "name: String should match"),
    ],
)
def test_a_file_that_is_no_recipe(recipe: Path, text: str, expected: str) -> None:
    recipe.write_text(text)
    with pytest.raises(InputError, match=expected):
        load_recipe(recipe)


def test_a_missing_file_and_a_binary_one(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        load_recipe(tmp_path / "none.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(InputError, match="not valid YAML"):
        load_recipe(tmp_path / "binary.yaml")


@pytest.mark.parametrize("assignment", ["training.steps", "=3", "training.=3", "name.first=x"])
def test_an_override_of_the_wrong_form(recipe: Path, assignment: str) -> None:
    with pytest.raises(InputError, match="override"):
        load_recipe(recipe, (assignment,))


def test_sections_that_contradict_themselves(recipe: Path) -> None:
    for assignments, expected in (
        (("pairs.lower=3", "pairs.upper=2"), "lower .* is above upper"),
        (("pairs.validation_share=0.5", "pairs.test_share=0.5"), "leave no notes"),
        (("model.prompt=text",), "set late_fusion to false"),
        (("model.visual_tokens=false",), "needs visual_tokens"),
        (("model.connector.width=100",), r"model.connector: .*width \(100\) is not a multiple of its heads \(12\)"),
        (("model.connector.width=100", "model.connector.kind=perceiver"), "not a multiple"),
        (("training.hard_negatives=33",), "training.hard_negatives: .*32"),
        (("training.weight_multimodal=0", "training.weight_visual=0"), "no loss to train by"),
        ((*NOTHING_TRAINED, "model.prompt=text", "model.late_fusion=false"), "nothing of this model is trained"),
        ((*NOTHING_TRAINED, "model.prompt=vision", "model.late_fusion=false"), "nothing of this model is trained"),
        (("evaluation.linear=false",), "gate.baselines names linear"),
        (("choice.variants=[text, basic]", "pairs.validation_share=0"), "set pairs.validation_share above 0"),
        (("choice.variants=[text]",), "expected two variants or more, each once, or none"),
        (("choice.rounds=[1, 0.5]",), "expected rising shares"),
    ):
        with pytest.raises(InputError, match=expected):
            load_recipe(recipe, assignments)


@pytest.mark.parametrize(
    "changes",
    [
        ("model.connector.kind=mlp", "model.connector.width=100"),
        (*NOTHING_TRAINED, "model.prompt=text", "model.late_fusion=false", "training.steps=0"),
        NOTHING_TRAINED,  # connector, gate and <IMG_EMB> are
    ],
)
def test_sections_that_do_not(recipe: Path, changes: tuple[str, ...]) -> None:
    load_recipe(recipe, changes)


def test_a_recipe_cannot_be_changed_under_way() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Recipe(name="x").training.steps = 3  # type: ignore[misc]


def every_field(model: type[BaseModel], prefix: str = "") -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for name, field in model.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            found |= every_field(inner, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = field.description
    return found


def test_every_field_says_what_it_is() -> None:
    silent = [name for name, description in every_field(Recipe).items() if not description]
    assert silent == []
    assert len(every_field(ModelConfig)) > 10


def test_the_papers_baseline_variants_are_derived_from_any_model() -> None:
    model = ModelConfig(dim=32)
    assert model.variant("text") == ModelConfig(dim=32, prompt="text", late_fusion=False)
    assert model.variant("basic") == ModelConfig(dim=32, prompt="basic", late_fusion=False)
    assert not model.variant("text").reads_images


@pytest.mark.parametrize(
    ("recorded", "kind", "std"),
    [
        ({}, "qformer-prenorm", None),
        ({"kind": "qformer", "queries": 4}, "qformer-prenorm", None),
        ({"kind": "perceiver"}, "perceiver", 0.02),
        ({"kind": "mlp"}, "mlp", 0.0),
        ({"kind": "none"}, "none", None),
        ({"kind": "qformer", "dropout": 0.1}, "qformer", None),
        ({"kind": "perceiver", "dropout": 0.1, "query_std": None}, "perceiver", None),
    ],
)
def test_a_recorded_connector_is_what_its_name_meant_then(recorded: dict[str, object], kind: str, std: object) -> None:
    read = ModelConfig.model_validate(as_recorded({"model": {"connector": recorded}})["model"]).connector
    assert (read.kind, read.query_std) == (kind, std)


def test_connectors_of_the_first_release_keep_their_part_of_the_key() -> None:
    first = {"queries": 16, "layers": 6, "width": 768, "heads": 12}
    for kind, std, name in (("qformer-prenorm", None, "qformer"), ("perceiver", 0.02, "perceiver"), ("mlp", 0, "mlp")):
        config = ConnectorConfig(kind=kind, query_std=std)  # type: ignore[arg-type]
        assert config.keyed(used=True) == {"kind": name, **first}
    assert ConnectorConfig(kind="qformer").keyed(used=True) == {
        "kind": "qformer", **first, "dropout": 0.1, "query_std": None,
    }  # fmt: skip
    assert ConnectorConfig(kind="qformer").keyed(used=False) == {"kind": "qformer", **first}
    assert "query_std" in ConnectorConfig(kind="perceiver").keyed(used=True)


def test_the_papers_recipe_is_its_setting_to_the_last_field() -> None:
    paper = load_recipe(ROOT / "recipes" / "paper.yaml")
    training, model = paper.training, paper.model
    assert {training.lr, training.head_lr, training.image_lr, training.scale_lr} == {3e-6}
    assert (training.betas, training.decay, training.warmup_share) == ((0.9, 0.999), "linear", 0.1)
    assert (training.weight_decay, training.clip_norm, training.select) == (1e-3, 1.0, "loss")
    assert (training.pairs_per_batch, training.epochs, training.steps) == (128, 1.0, None)
    assert (training.weight_multimodal, training.weight_visual, training.mask_positives) == (9.0, 1.0, False)
    assert (model.centre, model.start, model.log_scale, model.tuning, model.dim) == (False, "random", 3.0, "full", 64)
    assert (model.connector.kind, model.connector.queries, model.connector.layers) == ("qformer", 16, 6)
    assert model.limit_covers_prompt
    assert (paper.pairs.min_support, paper.pairs.lower, paper.pairs.upper) == (1, 0.01, 30)


def test_training_fields_of_later_versions_count_in_the_key_where_they_are_set() -> None:
    assert {"decay", "betas", "sharding"}.isdisjoint(TrainingConfig().keyed())
    assert TrainingConfig(decay="linear", betas=(0.9, 0.999)).keyed().items() >= {"decay": "linear"}.items()
    assert TrainingConfig(betas=(0.9, 0.999)).keyed()["betas"] == [0.9, 0.999]


def test_a_training_is_shortened_by_its_steps_or_its_passes() -> None:
    assert TrainingConfig(steps=10).shortened(0.25).steps == 2
    assert TrainingConfig(steps=1).shortened(0.25).steps == 1
    assert TrainingConfig(epochs=2).shortened(0.25).epochs == 0.5
    whole = TrainingConfig(steps=10)
    assert whole.shortened(1.0) is whole, "so that its artifact is the one of a training without a choice"
