from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from notellm2.artifacts import digest_tree
from notellm2.errors import InputError
from notellm2.model.backbones import load
from notellm2.model.backbones.load import backbone_digest, load_language_model, load_vision_encoder
from tests.unit.conftest import Backbone
from tests.unit.model.tiny import WIDTH

RED, BLUE = Image.new("RGB", (40, 30), (200, 10, 10)), Image.new("RGB", (30, 50), (10, 10, 200))


def copy(folder: Path, to: Path) -> Path:
    return Path(shutil.copytree(folder, to))


def change_weights(folder: Path, *, drop: str = "", add: str = "") -> None:
    weights = load_file(folder / "model.safetensors")
    weights = {name: weight for name, weight in weights.items() if not (drop and name.endswith(drop))}
    if add:
        weights[add] = torch.zeros(2)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(("name", "bos"), [("llama", True), ("qwen2", False), ("qwen3", False), ("gpt2", True)])
def test_language_models_load(name: str, bos: bool, backbone: Backbone) -> None:
    language = load_language_model(str(backbone(name)))
    assert language.digest == digest_tree(backbone(name))
    assert (language.tokenizer.bos_token_id is not None) == bos
    hidden = language.model(input_ids=torch.tensor([[4, 5, 6]])).last_hidden_state
    assert hidden.shape == (1, 3, WIDTH)
    assert hidden.dtype == torch.float32


@pytest.mark.parametrize(
    ("name", "tokens", "width"),
    [
        ("vit", 5, WIDTH),
        ("clip", 5, WIDTH),
        ("siglip", 5, WIDTH),
        ("dinov2", 5, WIDTH),
        ("dinov2-registers", 5, WIDTH),
        ("mobilenet", 5, 128),
    ],
)
def test_vision_encoders_load_and_encode(name: str, tokens: int, width: int, backbone: Backbone) -> None:
    vision = load_vision_encoder(str(backbone(name)))
    assert (vision.tokens, vision.width) == (tokens, width)
    assert vision.digest == digest_tree(backbone(name))
    assert not any(parameter.requires_grad for parameter in vision.model.parameters())
    both = vision.features([RED, BLUE])
    assert both.shape == (2, tokens, width)
    assert both.dtype == torch.float32
    torch.testing.assert_close(both[1:], vision.features([BLUE]), atol=1e-4, rtol=1e-3)
    assert float((both[0] - both[1]).abs().max()) > 1e-3, "two colours look alike"


def test_summary_is_cls_or_pooled_or_the_mean(backbone: Backbone) -> None:
    for name in ("vit", "clip", "dinov2"):
        vision = load_vision_encoder(str(backbone(name)))
        pixels = vision.processor([RED], return_tensors="pt")["pixel_values"]
        last = vision.model(pixel_values=pixels).last_hidden_state
        torch.testing.assert_close(vision.features([RED]), last.detach())
    siglip = load_vision_encoder(str(backbone("siglip")))
    output = siglip.model(pixel_values=siglip.processor([RED], return_tensors="pt")["pixel_values"])
    torch.testing.assert_close(siglip.features([RED])[:, 0], output.pooler_output.detach())
    torch.testing.assert_close(siglip.features([RED])[:, 1:], output.last_hidden_state.detach())
    features = load_vision_encoder(str(backbone("mobilenet"))).features([RED])
    torch.testing.assert_close(features[:, 0], features[:, 1:].mean(1), atol=1e-5, rtol=1e-4)


def test_registers_are_no_patches(backbone: Backbone) -> None:
    vision = load_vision_encoder(str(backbone("dinov2-registers")))
    last = vision.model(pixel_values=vision.processor([RED], return_tensors="pt")["pixel_values"]).last_hidden_state
    assert last.shape[1] == 1 + 3 + 4
    torch.testing.assert_close(vision.features([RED]), last[:, [0, 4, 5, 6, 7]].detach())
    assert load.left_out_tokens(str(backbone("dinov2-registers"))) == 3
    assert load.left_out_tokens(str(backbone("clip"))) == 0


def test_digest_follows_the_bytes(backbone: Backbone, tmp_path: Path) -> None:
    folder = copy(backbone("vit"), tmp_path / "vit")
    assert backbone_digest(str(folder)) == backbone_digest(str(backbone("vit")))
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[-3] ^= 1
    (folder / "model.safetensors").write_bytes(weights)
    assert backbone_digest(str(folder)) != backbone_digest(str(backbone("vit")))


COMMITS = {"main": "1" * 40, "v2": "2" * 40}
FROM_THE_HUB = """
import sys
from notellm2.errors import InputError
from notellm2.model.backbones.load import backbone_digest, load_language_model, load_vision_encoder
print(load_language_model("someone/words").digest)
print(load_language_model("someone/words", "v2").digest)
print(load_language_model("someone/words@v2", "main").digest)
print(load_vision_encoder("someone/eyes").digest)
print(backbone_digest("someone/eyes@" + "2" * 40))
for name in ("someone/nothing", "someone/eyes@v9"):
    try:
        backbone_digest(name)
    except InputError as error:
        print(str(error).splitlines()[0])
"""


def test_hub_names_load_the_commit_that_they_mean(backbone: Backbone, tmp_path: Path) -> None:
    """The hub's cache as its client lays it out, and the client told to stay offline."""
    for repository, folder in (("words", backbone("llama")), ("eyes", backbone("vit"))):
        root = tmp_path / "hub" / f"models--someone--{repository}"
        (root / "refs").mkdir(parents=True)
        for name, commit in COMMITS.items():
            shutil.copytree(folder, root / "snapshots" / commit)
            (root / "refs" / name).write_text(commit)
    environment = {**os.environ, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    environment.pop("HF_HUB_CACHE", None)
    done = subprocess.run(
        [sys.executable, "-c", FROM_THE_HUB], capture_output=True, text=True, timeout=120, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[:5] == [
        f"someone/words@{COMMITS['main']}",
        f"someone/words@{COMMITS['v2']}",
        f"someone/words@{COMMITS['v2']}",
        f"someone/eyes@{COMMITS['main']}",
        f"someone/eyes@{COMMITS['v2']}",
    ]
    assert [line.split(":")[0] for line in lines[5:]] == ["backbone 'someone/nothing'", "backbone 'someone/eyes@v9'"]
    assert all("neither a folder nor a model that the hub gives" in line for line in lines[5:])


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    for name in (str(tmp_path / "nowhere"), "./nowhere"):
        with pytest.raises(InputError, match=r"nowhere.*no such folder"):
            load_language_model(name)


def test_an_empty_folder_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be loaded"):
        load_vision_encoder(str(tmp_path))


@pytest.mark.parametrize("name", ["bert", "vit"])
def test_what_is_not_causal_is_refused(name: str, backbone: Backbone) -> None:
    with pytest.raises(InputError, match="is no causal language model"):
        load_language_model(str(backbone(name)))


def test_missing_and_unexpected_weights_are_named(backbone: Backbone, tmp_path: Path) -> None:
    missing = copy(backbone("llama"), tmp_path / "missing")
    change_weights(missing, drop="layers.1.mlp.up_proj.weight")
    with pytest.raises(InputError, match=r"missing: layers\.1\.mlp\.up_proj\.weight"):
        load_language_model(str(missing))
    unexpected = copy(backbone("vit"), tmp_path / "unexpected")
    change_weights(unexpected, add="strange.weight")
    with pytest.raises(InputError, match=r"unexpected: strange\.weight"):
        load_vision_encoder(str(unexpected))


def test_heads_of_other_tasks_and_poolers_do_not_matter(backbone: Backbone, tmp_path: Path) -> None:
    folder = copy(backbone("vit"), tmp_path / "vit")
    change_weights(folder, drop="pooler.dense.weight", add="classifier.weight")
    expected = load_vision_encoder(str(backbone("vit"))).features([RED])
    torch.testing.assert_close(load_vision_encoder(str(folder)).features([RED]), expected)


def test_a_damaged_weight_file_is_an_input_error(backbone: Backbone, tmp_path: Path) -> None:
    folder = copy(backbone("gpt2"), tmp_path / "gpt2")
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"gpt2.*cannot be loaded"):
        load_language_model(str(folder))


LFS_POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 1000\n"


def refusal(load_backbone: Callable[[str], object], folder: Path) -> str:
    with pytest.raises(InputError) as caught:
        load_backbone(str(folder))
    assert repr(str(folder)) in str(caught.value)
    return str(caught.value)


def test_git_lfs_pointers_are_named_with_what_to_do(backbone: Backbone, tmp_path: Path) -> None:
    for name in ("model.safetensors", "tokenizer.json"):
        folder = copy(backbone("qwen2"), tmp_path / name)
        (folder / name).write_text(LFS_POINTER)
        assert f"{name} is a Git LFS pointer; run `git lfs pull`" in refusal(load_language_model, folder)


def test_a_missing_or_damaged_tokenizer_is_named_with_its_folder(backbone: Backbone, tmp_path: Path) -> None:
    missing = copy(backbone("qwen2"), tmp_path / "missing")
    (missing / "tokenizer.json").unlink()
    assert "its tokenizer cannot be loaded: " in refusal(load_language_model, missing)
    damaged = copy(backbone("qwen2"), tmp_path / "damaged")
    (damaged / "tokenizer.json").write_text('{"model": ')
    assert "its tokenizer cannot be loaded: " in refusal(load_language_model, damaged)


def test_a_missing_image_processor_is_named_with_its_folder(backbone: Backbone, tmp_path: Path) -> None:
    folder = copy(backbone("vit"), tmp_path / "vit")
    (folder / "preprocessor_config.json").unlink()
    message = refusal(load_vision_encoder, folder)
    assert "its image processor cannot be loaded: " in message
    assert "preprocessor_config.json" in message


@pytest.mark.shared
def test_16_the_collected_lfs_pointer_is_recognised(shared: Path, backbone: Backbone, tmp_path: Path) -> None:
    pointer = shared / "cases" / "16-lfs-weights" / "model.safetensors"
    if not pointer.is_file():
        pytest.skip(f"needs the collected case {pointer}")
    folder = copy(backbone("qwen2"), tmp_path / "llm")
    shutil.copy(pointer, folder / "model.safetensors")
    assert "model.safetensors is a Git LFS pointer" in refusal(load_language_model, folder)


def test_a_tokenizer_with_words_that_the_llm_lacks_is_refused(backbone: Backbone, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    folder = copy(backbone("llama"), tmp_path / "llama")
    words = AutoTokenizer.from_pretrained(folder)
    words.add_tokens(["unheard-of"])
    words.save_pretrained(folder)
    with pytest.raises(InputError, match=r"has 400 word embeddings.*'unheard-of'"):
        load_language_model(str(folder))


def test_an_llm_is_probed_where_its_weights_are(backbone: Backbone) -> None:
    """4-bit weights are put onto a GPU as they are loaded; "meta" stands for it here, whose results cannot be read."""
    llm = load_language_model(str(backbone("llama"))).module.to("meta")
    asked: list[torch.device] = []
    llm.get_input_embeddings().register_forward_pre_hook(  # type: ignore[operator]
        lambda module, given: asked.append(given[0].device)
    )
    with contextlib.suppress(NotImplementedError, RuntimeError):
        load._is_causal(llm)
    assert asked == [torch.device("meta")]
