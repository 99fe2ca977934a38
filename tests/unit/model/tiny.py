"""Random backbones of a few thousand weights, saved as Hugging Face folders, and networks made of them."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from notellm2.model.backbones.adapters import tune
from notellm2.model.backbones.load import LanguageModel, backbone_digest, load_language_model
from notellm2.model.bundle.bundle import BundleConfig
from notellm2.model.network.note_source import NoteSource
from notellm2.model.network.notellm2 import NoteLLM2
from notellm2.model.network.prompt import WORDINGS, encode_texts, layout
from notellm2.notes.schema import Note
from notellm2.recipe import ConnectorConfig, ImageLimits, LoraSettings, ModelConfig

WIDTH = 16
VISION = (5, 12)
"""Tokens and width of made-up vision features."""

_SENTENCES = (
    "Note: {image: , title: a walk in the hills, topics: #hills #walk, content: we walked all day",
    '}, compressed into one word: "". the river ran low and the bridge was closed',
    "笔记：{图片：，标题：山里散步，话题：#山 #散步，内容：我们走了一整天",
    "}，压缩成一个词：“”。",
)


def tokenizer(*, bos: bool = True) -> Any:
    """A byte-level BPE tokenizer of at most 400 tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<pad>", "<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(_SENTENCES * 4, trainer)
    special = {"pad_token": "<pad>", "eos_token": "</s>"} | ({"bos_token": "<s>"} if bos else {})
    return PreTrainedTokenizerFast(tokenizer_object=core, **special)


def save_llama(folder: Path, width: int = WIDTH) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    words = tokenizer()
    config = LlamaConfig(
        vocab_size=len(words),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=512,
    )
    _save(folder, LlamaForCausalLM(config), words)


def save_qwen2(folder: Path) -> None:
    from transformers import Qwen2Config, Qwen2ForCausalLM

    words = tokenizer(bos=False)
    config = Qwen2Config(
        vocab_size=len(words),
        hidden_size=WIDTH,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=512,
        tie_word_embeddings=True,
    )
    _save(folder, Qwen2ForCausalLM(config), words)


def save_qwen3(folder: Path) -> None:
    from transformers import Qwen3Config, Qwen3ForCausalLM

    words = tokenizer(bos=False)
    config = Qwen3Config(
        vocab_size=len(words),
        hidden_size=WIDTH,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=12,  # as the real ones: heads x head_dim is not the width
        max_position_embeddings=512,
    )
    _save(folder, Qwen3ForCausalLM(config), words)


def save_gpt2(folder: Path) -> None:
    from transformers import GPT2Config, GPT2Model

    words = tokenizer()
    config = GPT2Config(
        vocab_size=len(words),
        n_embd=WIDTH,
        n_layer=2,
        n_head=2,
        n_positions=512,
        bos_token_id=words.bos_token_id,
        eos_token_id=words.eos_token_id,
    )
    _save(folder, GPT2Model(config), words)


def save_bert(folder: Path) -> None:
    from transformers import BertConfig, BertModel

    words = tokenizer()
    config = BertConfig(
        vocab_size=len(words), hidden_size=WIDTH, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2
    )
    _save(folder, BertModel(config), words)


def save_vit(folder: Path) -> None:
    from transformers import ViTConfig, ViTImageProcessor, ViTModel

    processor = ViTImageProcessor(size={"height": 32, "width": 32})
    _save(folder, ViTModel(ViTConfig(image_size=32, patch_size=16, **_sizes())), processor)


def save_clip(folder: Path) -> None:
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

    config = CLIPConfig(
        text_config={"vocab_size": 50, "max_position_embeddings": 16, **_sizes()},
        vision_config={"image_size": 32, "patch_size": 16, **_sizes()},
        projection_dim=8,
    )
    processor = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    _save(folder, CLIPModel(config), processor)


def save_siglip(folder: Path) -> None:
    from transformers import SiglipConfig, SiglipImageProcessor, SiglipModel

    config = SiglipConfig(
        text_config={"vocab_size": 50, "max_position_embeddings": 16, **_sizes()},
        vision_config={"image_size": 32, "patch_size": 16, **_sizes()},
    )
    _save(folder, SiglipModel(config), SiglipImageProcessor(size={"height": 32, "width": 32}))


def save_dinov2(folder: Path) -> None:
    from transformers import BitImageProcessor, Dinov2Config, Dinov2Model

    config = Dinov2Config(
        image_size=32, patch_size=16, hidden_size=WIDTH, mlp_ratio=2, num_hidden_layers=1, num_attention_heads=2
    )
    processor = BitImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    _save(folder, Dinov2Model(config), processor)


def save_dinov2_registers(folder: Path) -> None:
    from transformers import BitImageProcessor, Dinov2WithRegistersConfig, Dinov2WithRegistersModel

    config = Dinov2WithRegistersConfig(
        image_size=32,
        patch_size=16,
        hidden_size=WIDTH,
        mlp_ratio=2,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_register_tokens=3,
    )
    processor = BitImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    _save(folder, Dinov2WithRegistersModel(config), processor)


def save_mobilenet(folder: Path) -> None:
    from transformers import MobileNetV2Config, MobileNetV2ImageProcessor, MobileNetV2Model

    config = MobileNetV2Config(image_size=64, depth_multiplier=0.1, finegrained_output=False)
    processor = MobileNetV2ImageProcessor(size={"shortest_edge": 64}, crop_size={"height": 64, "width": 64})
    _save(folder, MobileNetV2Model(config), processor)


def save_qwen2_vl(folder: Path) -> None:
    from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    words = tokenizer(bos=False)
    marks = ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
    words.add_special_tokens({"additional_special_tokens": marks})
    start, end, image, video = words.convert_tokens_to_ids(marks)
    config = Qwen2VLConfig(
        text_config={
            "vocab_size": len(words) + 8,
            "hidden_size": 2 * WIDTH,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "max_position_embeddings": 512,
            "rope_parameters": {"rope_type": "default", "rope_theta": 100.0, "mrope_section": [2, 3, 3]},
        },
        vision_config={"depth": 1, "embed_dim": WIDTH, "hidden_size": 2 * WIDTH, "num_heads": 2, "mlp_ratio": 2},
        image_token_id=image,
        video_token_id=video,
        vision_start_token_id=start,
        vision_end_token_id=end,
    )
    _save(folder, Qwen2VLForConditionalGeneration(config), words)
    Qwen2VLImageProcessorPil().save_pretrained(folder)


def save_smolvlm(folder: Path) -> None:
    from transformers import SmolVLMConfig, SmolVLMForConditionalGeneration
    from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil

    words = tokenizer()
    marks = ["<fake_token_around_image>", "<global-img>", "<image>"]
    words.add_special_tokens({"additional_special_tokens": marks})
    config = SmolVLMConfig(
        text_config={
            "model_type": "llama",
            "vocab_size": len(words),
            "hidden_size": WIDTH,
            "intermediate_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "max_position_embeddings": 512,
            "pad_token_id": 0,
        },
        vision_config={"image_size": 64, "patch_size": 16, **_sizes()},
        image_token_id=words.convert_tokens_to_ids("<image>"),
        scale_factor=2,
    )
    _save(folder, SmolVLMForConditionalGeneration(config), words)
    SmolVLMImageProcessorPil(size={"longest_edge": 64}, max_image_size={"longest_edge": 64}).save_pretrained(folder)


SAVE: dict[str, Callable[[Path], None]] = {
    "llama": save_llama,
    "llama-64": lambda folder: save_llama(folder, 64),
    "qwen2": save_qwen2,
    "qwen3": save_qwen3,
    "gpt2": save_gpt2,
    "bert": save_bert,
    "qwen2-vl": save_qwen2_vl,
    "smolvlm": save_smolvlm,
    "vit": save_vit,
    "clip": save_clip,
    "siglip": save_siglip,
    "dinov2": save_dinov2,
    "dinov2-registers": save_dinov2_registers,
    "mobilenet": save_mobilenet,
}


def model_config(**changed: Any) -> ModelConfig:
    """The default variant, small."""
    small: dict[str, Any] = {
        "connector": ConnectorConfig(queries=3, layers=1, width=8, heads=2),
        "dim": 8,
        "lora": LoraSettings(rank=2, alpha=4),
    }
    return ModelConfig(**(small | changed))


VARIANTS = {
    "micl + late": {},
    "micl": {"late_fusion": False},
    "basic": {"prompt": "basic", "late_fusion": False},
    "basic + late": {"prompt": "basic"},
    "late": {"prompt": "basic", "visual_tokens": False},
    "text": {"prompt": "text", "late_fusion": False},
    "vision": {"prompt": "vision", "late_fusion": False},
}
"""The paper's variants: each a configuration and nothing else."""


def build_network(folder: Path, config: ModelConfig, vision_width: int = VISION[1]) -> tuple[NoteLLM2, LanguageModel]:
    """A network on the LLM in `folder`, evaluation mode, always the same weights."""
    torch.manual_seed(0)
    language = load_language_model(str(folder))
    llm = tune(language.model, config) if config.reads_text else None
    network = NoteLLM2(llm, layout(language.tokenizer, config), config, vision_width)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if "lora_B" in name or name == "head.bias":  # fresh ones do nothing; these shall
                parameter.normal_(std=0.1)
    return network.eval(), language


def bundle_config(config: ModelConfig, language: LanguageModel, llm: Path, vision: Path) -> BundleConfig:
    """A bundle's description over backbones in two folders."""
    return BundleConfig(
        model=config,
        images=ImageLimits(),
        llm=str(llm),
        llm_digest=language.digest,
        vision=str(vision),
        vision_digest=backbone_digest(str(vision)),
        revision=None,
    )


def source_of(
    words: Any, notes: Sequence[Note], config: ModelConfig, *, seed: int = 0, vision_width: int = VISION[1]
) -> NoteSource:
    """The notes as rows, with made-up vision features."""
    vision = np.random.default_rng(seed).standard_normal((len(notes), VISION[0], vision_width)).astype(np.float16)
    return NoteSource(layout(words, config), encode_texts(words, notes, config), vision)


def varied_notes(count: int = 12) -> list[Note]:
    """Notes of very different lengths; the first has no text at all."""
    notes = [Note("n0")]
    for i in range(1, count):
        topics = tuple(f"topic{i}{j}" for j in range(i % 4))
        notes.append(Note(f"n{i}", f"title {i}", topics, f"walk number {i} " * (i * 5 % 7)))
    return notes


def png(colour: tuple[int, int, int], side: int = 24) -> bytes:
    """A plain picture."""
    buffer = io.BytesIO()
    Image.new("RGB", (side, side), colour).save(buffer, "PNG")
    return buffer.getvalue()


def field_names(language: str) -> tuple[str, str, str]:
    """Title, topics and content as the prompt calls them."""
    words = WORDINGS[language]  # type: ignore[index]
    return words.title, words.topics, words.content


def _sizes() -> dict[str, int]:
    return {"hidden_size": WIDTH, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}


def _save(folder: Path, model: Any, beside: Any) -> None:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            # Larger than the libraries' 0.02, so that a wrong position or a lost weight shows in the output.
            if parameter.ndim > 1:
                scale = 0.15 if parameter.ndim == 2 else 1.5 / math.sqrt(parameter[0].numel())
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
    model.save_pretrained(folder)
    beside.save_pretrained(folder)
