"""Load the two backbones: any Hugging Face causal LLM and any vision encoder, by hub name or local folder."""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from notellm2.artifacts import digest_tree
from notellm2.errors import InputError
from notellm2.model.backbones.before_loading import lfs_pointers, require_bitsandbytes
from notellm2.model.backbones.multimodal import MultimodalVision, is_multimodal, language_part
from notellm2.model.backbones.vision_output import has_class_token, register_tokens, summary_and_patches

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from PIL.Image import Image
    from transformers import PreTrainedTokenizerBase

# Heads of other tasks that a checkpoint may carry and an encoder does not need. Anything else is an error.
_TASK_HEADS = re.compile(r"^(lm_head|classifier|score|cls|decoder|text_model|logit_scale|text_projection)\b")
# Poolers are not read here, and many checkpoints come without a trained one.
_POOLERS = re.compile(r"(^|\.)pooler\.")
_COMMIT = re.compile(r"^[0-9a-f]{40}$")

Weights = Literal["fp32", "bf16", "nf4"]
"""What an LLM's weights are held in, as `ModelConfig.base_weights`."""


@dataclass(frozen=True)
class LanguageModel:
    """A causal LLM without its language-model head (None: not wanted), its tokenizer, and the digest of what it is."""

    model: nn.Module | None
    tokenizer: PreTrainedTokenizerBase
    digest: str

    @property
    def module(self) -> nn.Module:
        """The LLM, where there is one."""
        if self.model is None:
            raise ValueError("this language model was loaded as a tokenizer alone")
        return self.model


class VisionEncoder:
    """A frozen vision encoder that turns images into a summary and patches (see `summary_and_patches`).

    Attributes:
        model: the encoder.
        processor: its image processor.
        digest: of the folder or hub commit it came from.
        width: V, width of summary and patches.
        tokens: P, summary and patches together.
    """

    def __init__(self, model: nn.Module, processor: Any, digest: str) -> None:
        self.model = model.eval().requires_grad_(False)
        self.processor = processor
        self.digest = digest
        self._class_token = has_class_token(model)
        self._multimodal = model if isinstance(model, MultimodalVision) else None
        self._registers = 0 if self._multimodal is not None else register_tokens(model.config)
        # Depthwise convolutions run about twice as fast on a CPU with channels last.
        self._channels_last = any(isinstance(m, nn.Conv2d) and m.groups > 1 for m in model.modules())
        if self._channels_last:
            self.model = self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        probe = self.features([_grey()])
        self.tokens, self.width = probe.shape[1], probe.shape[2]

    @torch.inference_mode()
    def features(self, images: Sequence[Image]) -> Tensor:
        """Encode RGB images: -> float32[B, P, V], index 0 the summary."""
        if self._multimodal is not None:
            return self._multimodal.read(self.processor, images).float().cpu()
        device = next(self.model.parameters()).device
        pixels = self.processor(list(images), return_tensors="pt")["pixel_values"].to(device)
        if self._channels_last:
            pixels = pixels.contiguous(memory_format=torch.channels_last)
        output = self.model(pixel_values=pixels)
        return summary_and_patches(output, self._class_token, self._registers).float().cpu()


def load_language_model(
    name: str, revision: str | None = None, *, weights: Weights = "fp32", tokenizer: str | None = None
) -> LanguageModel:
    """Load a causal LLM and its tokenizer; of a multimodal LLM its language model.

    Args:
        name: a local folder in Hugging Face format, or a hub name, ``name@revision`` to pin it.
        revision: hub revision of a name that pins none; ignored for folders.
        weights: what they are held in.
        tokenizer: folder of the tokenizer where it does not lie beside the weights.

    Raises:
        InputError: the folder is missing or not a causal LLM, a weight is missing or unexpected (each is named), or
            4-bit weights are asked for without bitsandbytes; or the tokenizer knows words that the LLM does not.
    """
    model, digest = _load(name, revision, **_held_in(weights))
    if is_multimodal(model.config):
        model = language_part(model)
    if not _is_causal(model):
        raise InputError(f"LLM {name!r}: a {type(model).__name__} is no causal language model; name one that is")
    source, commit = _located(tokenizer or name, revision)
    words = _tokenizer(source, commit)
    _check_words(name, words, model)
    return LanguageModel(model, words, digest)


def load_tokenizer(name: str, digest: str, revision: str | None = None) -> LanguageModel:
    """Load the tokenizer alone, for what has no LLM (the vision encoder by itself); `digest` is that of its LLM.

    Raises:
        InputError: it cannot be loaded.
    """
    source, commit = _located(name, revision)
    return LanguageModel(None, _tokenizer(source, commit), digest)


def load_language_head(name: str, revision: str | None = None) -> Tensor:
    """Load the weight of an LLM's language-model head, float32[W, H]: it turns hidden states into scores of words.

    Of the LLM only its words are read beside it, no layer.

    Raises:
        InputError: as `load_language_model`; also a checkpoint without a head, which names it as missing.
    """
    model, _ = _load(name, revision, head=True, dtype=torch.float32)
    head: Tensor = model.get_output_embeddings().weight.detach().clone()
    return head


def load_vision_encoder(name: str, revision: str | None = None) -> VisionEncoder:
    """Load a vision encoder and its image processor.

    Of a two-tower model (CLIP, SigLIP) that is the vision tower, of a multimodal LLM tower and projector.

    Raises:
        InputError: as `load_language_model`.
    """
    from transformers import AutoImageProcessor

    model, digest = _load(name, revision, dtype=torch.float32)
    source, commit = _located(name, revision)
    with _part_of(source, "image processor", "preprocessor_config.json"):
        processor = AutoImageProcessor.from_pretrained(source, revision=commit)
    if is_multimodal(model.config):
        return VisionEncoder(MultimodalVision(model), processor, digest)
    return VisionEncoder(getattr(model, "vision_model", model), processor, digest)


def _tokenizer(source: str, commit: str | None) -> PreTrainedTokenizerBase:
    from transformers import AutoTokenizer

    with _part_of(source, "tokenizer", "tokenizer.json", "tokenizer_config.json"):
        words: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(source, revision=commit)
        if len(words.get_vocab()) <= len(set(words.all_special_ids)):
            raise ValueError("it knows no words")  # transformers makes an empty one where its files are missing
        return words


@contextlib.contextmanager
def _part_of(source: str, part: str, *files: str) -> Iterator[None]:
    """Turn what transformers raises on a damaged or missing part of a backbone into an error that names its folder."""
    try:
        yield
    except Exception as error:
        # JSONDecodeError, ValueError, OSError, KeyError, tokenizers' own: which one depends on the file that is wrong.
        said = (str(error) or type(error).__name__).splitlines()[0]
        cause = lfs_pointers(source) or f"{said} (its files: {', '.join(files)})"
        raise InputError(f"backbone {source!r}: its {part} cannot be loaded: {cause}") from error


def left_out_tokens(name: str, revision: str | None = None) -> int:
    """Count the tokens of a vision encoder's output that are neither summary nor patches, by its configuration.

    Raises:
        InputError: it has no readable configuration.
    """
    from transformers import AutoConfig

    source, commit = _located(name, revision)
    try:
        return register_tokens(AutoConfig.from_pretrained(source, revision=commit))
    except (OSError, ValueError) as error:
        raise InputError(f"backbone {name!r}: its configuration cannot be read: {error}") from error


def backbone_digest(name: str, revision: str | None = None) -> str:
    """Identify a backbone: a folder by its bytes, a hub name as ``name@commit``.

    A branch such as main moves, so it is looked up, in the local cache where the hub cannot be reached.

    Raises:
        InputError: it looks like a folder and there is none, or the hub knows no such name or revision.
    """
    if Path(name).is_dir():
        return digest_tree(Path(name))
    source, commit = _located(name, revision)
    return f"{source}@{commit}"


def _located(name: str, revision: str | None) -> tuple[str, str | None]:
    """A folder as it is; a hub name and the commit that name and revision mean now."""
    from transformers.utils.hub import cached_file, extract_commit_hash

    if Path(name).is_dir():
        return name, None
    if Path(name).is_absolute() or name.startswith("."):
        raise InputError(f"backbone {name!r}: no such folder; expected a Hugging Face model folder or a hub name")
    source, _, pinned = name.partition("@")
    wanted = pinned or revision or "main"
    if _COMMIT.match(wanted):
        return source, wanted
    try:
        commit = extract_commit_hash(cached_file(source, "config.json", revision=wanted), None)
    except (OSError, ValueError) as error:
        raise InputError(f"backbone {name!r}: neither a folder nor a model that the hub gives: {error}") from error
    if commit is None:
        raise InputError(f"backbone {name!r}: the hub's cache does not say which commit {wanted!r} is")
    return source, commit


def _held_in(weights: Weights) -> dict[str, Any]:
    """Loading options for what the LLM's weights are held in."""
    if weights != "nf4":
        return {"dtype": torch.float32 if weights == "fp32" else torch.bfloat16}
    require_bitsandbytes()
    from transformers import BitsAndBytesConfig

    # Normal-float 4 bits with quantised scales, as QLoRA (arXiv 2305.14314) has them: 4.1 bits a weight.
    quantised = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    return {"dtype": torch.bfloat16, "quantization_config": quantised}


def _load(name: str, revision: str | None, *, head: bool = False, **options: Any) -> tuple[Any, str]:
    from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForImageTextToText

    digest = backbone_digest(name, revision)
    source, commit = _located(name, revision)
    try:
        config = AutoConfig.from_pretrained(source, revision=commit)
        auto: Any = AutoModelForCausalLM if head else AutoModel
        if is_multimodal(config):
            auto = AutoModelForImageTextToText
        if head:
            options["config"] = _without_layers(config)
        with quiet():
            model, report = auto.from_pretrained(source, revision=commit, output_loading_info=True, **options)
    except (OSError, ValueError, SafetensorError) as error:
        raise InputError(f"backbone {name!r}: cannot be loaded: {lfs_pointers(source) or error}") from error
    missing = sorted(k for k in report["missing_keys"] if not _POOLERS.search(k))
    unexpected = sorted(k for k in report["unexpected_keys"] if not _TASK_HEADS.match(k) and not _POOLERS.search(k))
    unexpected = [] if head else unexpected  # the layers, which are not wanted
    mismatched = sorted(str(k) for k in report["mismatched_keys"])
    if missing or unexpected or mismatched:
        problems = {"missing": missing, "unexpected": unexpected, "of another shape": mismatched}
        lines = [
            f"  {kind}: {', '.join(keys[:8])}{' ...' if len(keys) > 8 else ''}"
            for kind, keys in problems.items()
            if keys
        ]
        raise InputError(f"backbone {name!r}: its weights do not fit its configuration\n" + "\n".join(lines))
    return model, digest


def _without_layers(config: Any) -> Any:
    """A configuration of the same LLM with no layer between words and head; changed in place."""
    text = config.get_text_config()
    text.num_hidden_layers = 0
    if getattr(text, "layer_types", None):
        text.layer_types = []
    return config


@torch.no_grad()
def _is_causal(model: Any) -> bool:
    """Whether a later token leaves the earlier ones alone: padding without a mask and n_v rest on it."""
    embeddings = None if model.config.is_encoder_decoder else model.get_input_embeddings()
    if not isinstance(embeddings, nn.Embedding):
        return False
    # 4-bit weights are on a GPU already, where there is one.
    x_2LH = embeddings(torch.tensor([[0, 0, 0], [0, 0, 1]], device=embeddings.weight.device))
    first, second = model(inputs_embeds=x_2LH, use_cache=False).last_hidden_state[:, 0].float()
    return torch.allclose(first, second, rtol=1e-3, atol=1e-4)


def _check_words(name: str, tokenizer: PreTrainedTokenizerBase, model: Any) -> None:
    """Every word of a prompt or a note has a row. (A note cannot spell special tokens, and pads are never read.)"""
    rows = model.get_input_embeddings().weight.shape[0]
    unread = set(tokenizer.all_special_ids) - {tokenizer.bos_token_id}
    strange = [word for word, index in tokenizer.get_vocab().items() if index >= rows and index not in unread]
    if strange:
        raise InputError(
            f"LLM {name!r}: it has {rows} word embeddings, and its tokenizer gives words beyond them "
            f"({', '.join(map(repr, sorted(strange)[:4]))}); name a tokenizer and weights that belong together"
        )


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence transformers' report of odd weights and its bars: what matters is raised as an error here."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _grey() -> Image:
    from PIL import Image

    return Image.new("RGB", (64, 64), (128, 128, 128))
