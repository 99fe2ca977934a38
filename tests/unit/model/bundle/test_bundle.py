from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from notellm2.artifacts import digest_file, digest_tree
from notellm2.errors import InputError
from notellm2.model.backbones.encode_images import encode_images
from notellm2.model.backbones.load import backbone_digest, load_vision_encoder
from notellm2.model.bundle.bundle import CANARY_TOLERANCE, Bundle, BundleConfig, BundleError, save_bundle
from notellm2.model.network.note_source import NoteSource
from notellm2.model.network.notellm2 import NoteLLM2
from notellm2.model.network.prompt import encode_texts
from notellm2.notes.schema import Note
from notellm2.recipe import ImageLimits, ModelConfig
from tests.unit.conftest import Backbone
from tests.unit.model.tiny import VARIANTS, WIDTH, build_network, model_config, png

NOTES = [
    Note("both", "a walk", ("hills",), "we walked all day", png((200, 30, 30))),
    Note("text", "a river", (), "it ran low"),
    Note("image", image=png((20, 40, 220))),
]


def saved(folder: Path, backbone: Backbone, config: ModelConfig, llm: str = "llama") -> tuple[Path, NoteLLM2]:
    network, language = build_network(backbone(llm), config, WIDTH)
    described = BundleConfig(
        model=config,
        images=ImageLimits(),
        llm=str(backbone(llm)),
        llm_digest=backbone_digest(str(backbone(llm))),
        vision=str(backbone("vit")),
        vision_digest=backbone_digest(str(backbone("vit"))),
        revision=None,
    )
    save_bundle(folder / "bundle", network, language, described, NOTES)
    return folder / "bundle", network


def expected(network: NoteLLM2, backbone: Backbone, bundle: Bundle) -> np.ndarray:
    """The notes through the trained network itself, one by one."""
    vision = load_vision_encoder(str(backbone("vit")))
    rows = []
    for note in NOTES:
        features, _ = encode_images(vision, [note], ImageLimits())
        texts = encode_texts(bundle.tokenizer, [note], bundle.config.model)
        batch = NoteSource(network.layout, texts, features if bundle.vision else None).batch(np.array([0]))
        with torch.no_grad():
            rows.append(network(batch).multimodal_BD.numpy())
    return np.concatenate(rows)


@pytest.mark.parametrize(
    ("tuning", "variant", "llm"),
    [
        ("lora", "micl + late", "llama"),
        ("lora", "basic", "gpt2"),
        ("full", "micl + late", "qwen2"),
        ("full", "late", "gpt2"),
        ("frozen", "micl", "llama"),
        ("frozen", "text", "llama"),
    ],
)
def test_a_saved_bundle_embeds_as_the_trained_network(
    tuning: str, variant: str, llm: str, backbone: Backbone, tmp_path: Path
) -> None:
    config = model_config(tuning=tuning, **VARIANTS[variant])
    folder, network = saved(tmp_path, backbone, config, llm)
    assert (folder / "adapter").is_dir() == (tuning == "lora")
    assert (folder / "llm").is_dir() == (tuning == "full")
    assert (folder / "base" / "llm").is_dir() == (tuning != "full")
    assert (folder / "base" / "vision").is_dir() == (variant != "text")
    assert not [p for p in folder.rglob("*") if p.suffix in {".bin", ".pkl", ".pt"}], "a pickle in the bundle"
    bundle = Bundle.load(folder)
    found = bundle.embed(NOTES, batch=2)
    assert found.shape == (3, bundle.dim)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected(network, backbone, bundle), atol=1e-4)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)


def test_a_bundle_stands_alone(backbone: Backbone, tmp_path: Path) -> None:
    """It is moved, and the folders that it came from are gone."""
    llm = Path(shutil.copytree(backbone("llama"), tmp_path / "llm"))
    vit = Path(shutil.copytree(backbone("vit"), tmp_path / "vit"))
    folder, _ = saved(tmp_path, lambda name: {"llama": llm, "vit": vit}[name], model_config())
    before = Bundle.load(folder).embed(NOTES)
    shutil.rmtree(llm)
    shutil.rmtree(vit)
    moved = folder.rename(tmp_path / "moved")
    np.testing.assert_array_equal(Bundle.load(moved).embed(NOTES), before)


def test_a_bundle_from_before_heads_were_centred_embeds_as_it_did(backbone: Backbone, tmp_path: Path) -> None:
    folder, _ = saved(tmp_path, backbone, model_config(centre=False))
    before = Bundle.load(folder).embed(NOTES)
    config = json.loads((folder / "config.json").read_text())
    del config["model"]["centre"]
    (folder / "config.json").write_text(json.dumps(config))
    files = json.loads((folder / "files.json").read_text())
    files["config.json"] = digest_file(folder / "config.json")
    (folder / "files.json").write_text(json.dumps(files))
    bundle = Bundle.load(folder)
    assert not bundle.config.model.centre
    np.testing.assert_array_equal(bundle.embed(NOTES), before)


@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_a_bundle_does_not_tell_where_its_backbones_lay(tuning: str, backbone: Backbone, tmp_path: Path) -> None:
    """Else one model would have another digest in every store, and the store's path would be published with it."""
    digests = []
    for place in ("here", "elsewhere"):
        lying = {name: shutil.copytree(backbone(name), tmp_path / place / name) for name in ("llama", "vit")}
        folder, _ = saved(tmp_path / place, lambda name, lying=lying: Path(lying[name]), model_config(tuning=tuning))
        digests.append(digest_tree(folder))
        found = [p for p in folder.rglob("*") if p.is_file() and str(tmp_path).encode() in p.read_bytes()]
        assert not found, "the path is in a file"
    assert digests[0] == digests[1]


def test_an_adapter_names_its_modules_in_one_order(folder: Path) -> None:
    """peft keeps them in a set, whose order is another in every process."""
    targets = json.loads((folder / "adapter" / "adapter_config.json").read_text())["target_modules"]
    assert len(targets) > 3
    assert targets == sorted(targets)


def test_a_bundle_without_its_backbone_says_so(own: Path) -> None:
    shutil.rmtree(own / "base" / "llm")
    with pytest.raises(BundleError, match="base/llm: missing"):
        Bundle.load(own)


@pytest.fixture(scope="module")
def folder(backbone: Backbone, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("bundle"), backbone, model_config())[0]


@pytest.fixture
def own(folder: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(folder, tmp_path / "copy"))


def flip(path: Path, at: int = -5) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 0b10
    path.write_bytes(data)


def test_network_and_encoder_go_to_the_device_that_is_asked_for(folder: Path) -> None:
    """ "meta" stands for a GPU: weights that are moved there, heads and encoder too, and cannot be read."""
    bundle = Bundle.load(folder, check=False, device="meta")
    assert bundle.vision is not None
    for module in (bundle.network, bundle.vision.model):
        assert {p.device.type for p in module.parameters()} == {"meta"}
    here = Bundle.load(folder)
    assert {p.device.type for p in here.network.parameters()} == {"cuda" if torch.cuda.is_available() else "cpu"}


def test_heads_hold_every_weight_outside_the_llm(folder: Path) -> None:
    heads = load_file(folder / "heads.safetensors")
    assert {name.split(".")[0] for name in heads} == {"connector", "fusion", "head", "image_word", "log_scale"}
    assert heads["image_word"].shape == (WIDTH,)


@pytest.mark.parametrize(
    "name",
    [
        "heads.safetensors",
        "adapter/adapter_model.safetensors",
        "base/llm/model.safetensors",
        "base/vision/model.safetensors",
        "base/vision/preprocessor_config.json",
        "tokenizer/tokenizer.json",
    ],
)
def test_a_flipped_bit_is_refused(name: str, own: Path) -> None:
    flip(own / name)
    with pytest.raises(BundleError, match=name.split("/")[0] if "base" not in name else r"base/\w+: its bytes"):
        Bundle.load(own)


@pytest.mark.parametrize("name", ["heads.safetensors", "adapter/adapter_config.json", "files.json", "canary.json"])
def test_a_missing_file_is_refused_by_name(name: str, own: Path) -> None:
    (own / name).unlink()
    with pytest.raises(BundleError, match=name):
        Bundle.load(own)


def test_embeddings_other_than_the_canarys_are_refused(own: Path) -> None:
    canaries = json.loads((own / "canary.json").read_text())
    canaries[1]["embedding"][0] += 2 * CANARY_TOLERANCE
    (own / "canary.json").write_text(json.dumps(canaries))
    with pytest.raises(BundleError, match="other embeddings than the saved one"):
        Bundle.load(own)
    Bundle.load(own, check=False)
    (own / "canary.json").write_text(json.dumps([{**c, "embedding": c["embedding"][:-1]} for c in canaries]))
    with pytest.raises(BundleError, match="other embeddings"):
        Bundle.load(own)


def test_what_is_no_bundle_is_an_input_error(own: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a model bundle"):
        Bundle.load(tmp_path)
    config = json.loads((own / "config.json").read_text())
    (own / "config.json").write_text(json.dumps(config | {"format": 99}))
    with pytest.raises(InputError, match="bundle format 99"):
        Bundle.load(own)


def test_saving_proves_that_the_bundle_loads_back(
    backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An adapter that is lost on the way would leave a bundle of the untuned LLM."""
    from peft import PeftModel

    def lose(self: PeftModel, folder: str, **_: object) -> None:
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                if "lora_B" in name:
                    parameter.mul_(2)
        save(self, folder)
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                if "lora_B" in name:
                    parameter.div_(2)

    save = PeftModel.save_pretrained
    monkeypatch.setattr(PeftModel, "save_pretrained", lose)
    with pytest.raises(BundleError, match="does not load back as trained"):
        saved(tmp_path, backbone, model_config())


def test_a_broken_image_is_counted_logged_and_embedded_without(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    bundle = Bundle.load(folder)
    broken = Note("torn", "a river", (), "it ran low", image=png((9, 9, 9))[:40])
    found = bundle.embed([broken, NOTES[1], NOTES[0]])
    assert bundle.undecodable == 1
    assert "note torn: its image does not decode" in caplog.text
    np.testing.assert_allclose(found[0], found[1], atol=1e-5)
    assert float(np.abs(found[0] - found[2]).max()) > 1e-3


def test_no_notes_give_no_rows(folder: Path) -> None:
    assert Bundle.load(folder, check=False).embed([]).shape == (0, 8)


def test_a_bundle_from_before_blip2s_qformer_embeds_as_it_did(backbone: Backbone, tmp_path: Path) -> None:
    """There `qformer` named the pre-norm one."""
    folder, _ = saved(tmp_path, backbone, model_config())
    path = folder / "config.json"
    config = json.loads(path.read_text())
    connector = config["model"]["connector"]
    assert connector["kind"] == "qformer-prenorm"
    del connector["dropout"], connector["query_std"]
    connector["kind"] = "qformer"
    path.write_text(json.dumps(config))
    digests = json.loads((folder / "files.json").read_text())
    digests["config.json"] = digest_file(path)
    (folder / "files.json").write_text(json.dumps(digests))
    assert Bundle.load(folder).config.model.connector.kind == "qformer-prenorm"
