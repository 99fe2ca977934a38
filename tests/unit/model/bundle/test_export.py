"""An exported model embeds as its bundle does: in transformers without this project, and in ONNX Runtime."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from notellm2.errors import InputError
from notellm2.model.backbones.adapters import with_lora
from notellm2.model.backbones.load import load_language_model
from notellm2.model.bundle import export
from notellm2.model.bundle.bundle import Bundle, BundleConfig, BundleError, save_bundle
from notellm2.model.bundle.export import export_bundle, standalone
from notellm2.model.bundle.exported_model import NoteLLM2Model, _picture
from notellm2.model.network.notellm2 import NoteLLM2
from notellm2.model.network.prompt import layout
from notellm2.notes.images import decode_image
from notellm2.notes.schema import Note
from notellm2.recipe import ConnectorConfig, ImageLimits, ModelConfig
from tests.conftest import ROOT
from tests.unit.conftest import Backbone
from tests.unit.model.tiny import VARIANTS, build_network, bundle_config, model_config, png

RED, BLUE = (200, 30, 30), (20, 40, 220)
NOTES = [
    Note("both", "a walk", ("hills",), "we walked all day", png(RED)),
    Note("text", "a river", (), "it ran low"),
    Note("image", image=png(BLUE)),
    Note("long", "a walk", content="we walked all day and the river ran low " * 3, image=png(BLUE)),
]
PLAIN: list[dict[str, Any]] = [
    {
        "title": n.title,
        "topics": n.topics,
        "content": n.content,
        "image": None if n.image is None else Image.new("RGB", (24, 24), RED if n.note_id == "both" else BLUE),
    }
    for n in NOTES
]


def bundle_of(folder: Path, backbone: Backbone, config: ModelConfig, llm: str, eyes: str, width: int) -> Path:
    network, language = build_network(backbone(llm), config, width)
    described = bundle_config(config, language, backbone(llm), backbone(eyes))
    save_bundle(folder / "bundle", network, language, described, NOTES[:3])
    return folder / "bundle"


@pytest.fixture(scope="module")
def bundle(backbone: Backbone, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bundle_of(tmp_path_factory.mktemp("bundle"), backbone, model_config(), "llama", "vit", 16)


@pytest.fixture(scope="module")
def exported(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export") / "exported"
    export_bundle(bundle, folder)
    return folder


@pytest.mark.parametrize(
    ("variant", "tuning", "llm", "eyes", "width"),
    [
        ("micl + late", "lora", "qwen3", "clip", 16),
        ("micl", "full", "qwen2", "siglip", 16),
        ("basic", "lora", "gpt2", "mobilenet", 128),
        ("late", "frozen", "llama", "dinov2-registers", 16),
        ("text", "lora", "llama", "vit", 16),
        ("vision", "frozen", "llama", "clip", 16),
    ],
)
def test_every_kind_of_bundle_exports(
    variant: str, tuning: str, llm: str, eyes: str, width: int, backbone: Backbone, tmp_path: Path
) -> None:
    config = model_config(tuning=tuning, **VARIANTS[variant])
    made = bundle_of(tmp_path, backbone, config, llm, eyes, width)
    export_bundle(made, tmp_path / "exported")
    model = NoteLLM2Model.from_pretrained(tmp_path / "exported")
    np.testing.assert_allclose(model.embed(PLAIN, batch=3), Bundle.load(made).embed(NOTES), atol=1e-4)
    assert not any("lora" in name for name, _ in model.named_parameters())
    assert (model.network.llm is None) == (variant == "vision")
    assert (model.vision is None) == (variant == "text")
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_blip2s_qformer_exports(backbone: Backbone, tmp_path: Path) -> None:
    config = model_config(connector=ConnectorConfig(kind="qformer", queries=3, layers=2, width=8, heads=2))
    made = bundle_of(tmp_path, backbone, config, "llama", "vit", 16)
    export_bundle(made, tmp_path / "exported", onnx=True)
    model = NoteLLM2Model.from_pretrained(tmp_path / "exported")
    np.testing.assert_allclose(model.embed(PLAIN, batch=3), Bundle.load(made).embed(NOTES), atol=1e-4)


def test_narrow_weights_are_widened_so_that_adapters_can_be_folded_in(backbone: Backbone, tmp_path: Path) -> None:
    config = model_config(base_weights="bf16", prompt="text", late_fusion=False)
    language = load_language_model(str(backbone("llama")), weights="bf16")
    llm = with_lora(language.module.requires_grad_(False), config.lora)
    network = NoteLLM2(llm, layout(language.tokenizer, config), config, 0)
    described = BundleConfig(
        model=config,
        images=ImageLimits(),
        llm=str(backbone("llama")),
        llm_digest=language.digest,
        vision=str(backbone("vit")),
        vision_digest="unused",
        revision=None,
    )
    save_bundle(tmp_path / "bundle", network.eval(), language, described, NOTES[:2])
    export_bundle(tmp_path / "bundle", tmp_path / "exported")
    model = NoteLLM2Model.from_pretrained(tmp_path / "exported")
    assert {str(p.dtype) for p in model.parameters()} == {"torch.float32"}


def documented() -> str:
    """The first lines of Python that docs/guides/export-a-model.md shows."""
    page = (ROOT / "docs" / "guides" / "export-a-model.md").read_text()
    found = re.search(r"```python\n(.*?)```", page, re.DOTALL)
    assert found is not None
    return found[1]


def test_the_documented_lines_load_it_without_this_project(bundle: Path, exported: Path, tmp_path: Path) -> None:
    lines = documented()
    assert len([line for line in lines.splitlines() if line.strip()]) <= 5
    Image.new("RGB", (24, 24), RED).save(exported.parent / "photo.png")
    program = (
        "import sys\nsys.modules['notellm2'] = None\n"  # importing it, or a part of it, now fails
        f"{lines}\nimport numpy\nnumpy.save(sys.argv[1], vectors)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "vectors.npy")],
        cwd=exported.parent,
        env={**os.environ, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    np.testing.assert_allclose(np.load(tmp_path / "vectors.npy"), Bundle.load(bundle).embed(NOTES[:2]), atol=1e-3)


def test_onnx_runtime_embeds_as_torch_does(bundle: Path, tmp_path: Path) -> None:
    if any(importlib.util.find_spec(name) is None for name in ("onnx", "onnxscript", "onnxruntime")):
        pytest.skip("needs the extra 'onnx'")
    import onnxruntime

    export_bundle(bundle, tmp_path / "exported", onnx=True)
    model = NoteLLM2Model.from_pretrained(tmp_path / "exported")
    session = onnxruntime.InferenceSession(str(tmp_path / "exported" / "onnx" / "model.onnx"))
    assert {given.name for given in session.get_inputs()} == {"tokens", "last", "pixel_values", "has_image"}
    expected = Bundle.load(bundle).embed(NOTES)
    lengths = set()
    for rows in ([3], [0, 1], [0, 1, 2, 3], [3, 2, 1, 0, 0, 0, 0]):
        feeds = {name: x.numpy() for name, x in model.inputs([PLAIN[i] for i in rows]).items() if x is not None}
        lengths.add(feeds["tokens"].shape[1])
        (found,) = session.run(None, feeds)
        np.testing.assert_allclose(found, expected[rows], atol=1e-3)
    assert len(lengths) == 2, "the graph was only tried on one length"


def test_pictures_are_read_as_the_project_decodes_them(tmp_path: Path) -> None:
    """Turned by a camera, transparent, grey, by palette: the same RGB as in training."""
    gradient = np.add.outer(np.arange(20), np.arange(30)).astype(np.uint8) * 5
    turned = Image.fromarray(np.stack([gradient, gradient.T[:20, :20].repeat(2, 1)[:, :30], gradient], -1))
    exif = Image.Exif()
    exif[0x0112] = 6
    turned.save(tmp_path / "turned.png", exif=exif)
    glass = turned.convert("RGBA")
    glass.putalpha(Image.fromarray(gradient))
    glass.save(tmp_path / "glass.png")
    turned.convert("L").save(tmp_path / "grey.png")
    turned.quantize(8).save(tmp_path / "palette.png")
    for path in tmp_path.glob("*.png"):
        expected = np.asarray(decode_image(path.read_bytes(), ImageLimits()))
        found = np.asarray(_picture(path))
        assert found.shape == expected.shape, path
        assert np.abs(found.astype(int) - expected.astype(int)).max() <= 1, path


def test_a_folder_that_exists_is_left_alone(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("keep")
    with pytest.raises(InputError, match="mine: exists already"):
        export_bundle(bundle, tmp_path / "mine")
    assert (tmp_path / "mine").read_text() == "keep"


def test_an_export_that_embeds_otherwise_leaves_nothing(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = export._write

    def spoiled(loaded: Bundle, folder: Path) -> None:
        loaded.network.head.weight.data.neg_()
        loaded.network.head.weight.data[0].zero_()
        write(loaded, folder)

    monkeypatch.setattr(export, "_write", spoiled)
    with pytest.raises(BundleError, match="embeds otherwise than the bundle"):
        export_bundle(bundle, tmp_path / "exported")
    assert list(tmp_path.iterdir()) == []


def test_onnx_without_its_libraries_says_what_to_install(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"install notellm2\[onnx\]"):
        export_bundle(bundle, tmp_path / "exported", onnx=True)


def test_modules_are_cut_loose_from_the_package() -> None:
    source = (
        "from __future__ import annotations\n"
        "from typing import TYPE_CHECKING\n"
        "from notellm2.errors import InputError  # why\n"
        "from notellm2.model.network.prompt import (\n    IMAGE_WORD,\n)\n"
        "if TYPE_CHECKING:\n    from notellm2.recipe import ModelConfig\n"
        "x: ModelConfig\n"
    )
    assert standalone(source) == (
        "from __future__ import annotations\n"
        "from typing import TYPE_CHECKING\n"
        "from .errors import InputError  # why\n"
        "from .prompt import (\n    IMAGE_WORD,\n)\n"
        "x: ModelConfig\n"
    )
    with pytest.raises(ValueError, match=r"notellm2\.recipe is imported by an exported module"):
        standalone("from notellm2.recipe import ModelConfig\n")
