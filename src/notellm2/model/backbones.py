"""The two pretrained halves: any Hugging Face causal LLM and any vision encoder, by hub name or local folder."""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from notellm2.artifacts import digest_tree
from notellm2.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from PIL.Image import Image
    from transformers import PreTrainedTokenizerBase

# Heads of other tasks that a checkpoint may carry and an encoder does not need. Anything else is an error.
_TASK_HEADS = re.compile(r"^(lm_head|classifier|score|cls|decoder|text_model|logit_scale|text_projection)\b")
# Poolers are not read here, and many checkpoints come without a trained one.
_POOLERS = re.compile(r"(^|\.)pooler\.")


@dataclass(frozen=True)
class LanguageModel:
    """A causal LLM without its language-model head, its tokenizer, and the digest of what was loaded."""

    model: nn.Module
    tokenizer: PreTrainedTokenizerBase
    digest: str


class VisionEncoder:
    """A frozen vision encoder that turns images into a summary and patches.

    The summary is the CLS token where there is one (ViT, CLIP, DINOv2), the pooled map of a convolutional network
    (MobileNetV2, whose grid gives the patches), else the encoder's own pooled output (SigLIP), else the patches' mean.

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
        self._has_cls = any(n.endswith(("cls_token", "class_embedding")) for n, _ in model.named_parameters())
        # Depthwise convolutions run about twice as fast on a CPU with channels last.
        self._channels_last = any(isinstance(m, nn.Conv2d) and m.groups > 1 for m in model.modules())
        if self._channels_last:
            self.model = self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        probe = self.features([_grey()])
        self.tokens, self.width = probe.shape[1], probe.shape[2]

    @torch.inference_mode()
    def features(self, images: Sequence[Image]) -> Tensor:
        """Encode RGB images: -> float32[B, P, V], index 0 the summary."""
        device = next(self.model.parameters()).device
        pixels = self.processor(list(images), return_tensors="pt")["pixel_values"].to(device)
        if self._channels_last:
            pixels = pixels.contiguous(memory_format=torch.channels_last)
        output = self.model(pixel_values=pixels)
        last = output.last_hidden_state
        if last.ndim == 4:  # [B, V, rows, columns]: a convolutional map
            patches = last.flatten(2).transpose(1, 2)
            summary = patches.mean(1)
        elif self._has_cls:
            features: Tensor = last.float().cpu()
            return features
        else:
            patches = last
            pooled = getattr(output, "pooler_output", None)
            summary = pooled if pooled is not None and pooled.shape[-1] == last.shape[-1] else patches.mean(1)
        return torch.cat([summary[:, None], patches], 1).float().cpu()


def load_language_model(
    name: str, revision: str | None = None, dtype: torch.dtype | None = None, tokenizer: str | None = None
) -> LanguageModel:
    """Load a causal LLM and its tokenizer.

    Args:
        name: a local folder in Hugging Face format, or a hub name.
        revision: hub revision; ignored for folders.
        dtype: of the weights; None: float32.
        tokenizer: folder of the tokenizer where it does not lie beside the weights.

    Raises:
        InputError: the folder is missing or not a causal LLM, or a weight is missing or unexpected (each is named).
    """
    from transformers import AutoModel, AutoTokenizer

    model, digest = _load(AutoModel, name, revision, dtype=dtype or torch.float32)
    if not _is_causal(model):
        raise InputError(f"LLM {name!r}: a {type(model).__name__} is no causal language model; name one that is")
    if tokenizer is not None:
        return LanguageModel(model, AutoTokenizer.from_pretrained(tokenizer), digest)
    return LanguageModel(model, AutoTokenizer.from_pretrained(name, revision=revision), digest)


def load_vision_encoder(name: str, revision: str | None = None) -> VisionEncoder:
    """Load a vision encoder and its image processor; of a two-tower model (CLIP, SigLIP) the vision tower.

    Raises:
        InputError: as `load_language_model`.
    """
    from transformers import AutoImageProcessor, AutoModel

    model, digest = _load(AutoModel, name, revision, dtype=torch.float32)
    processor = AutoImageProcessor.from_pretrained(name, revision=revision)
    return VisionEncoder(getattr(model, "vision_model", model), processor, digest)


def backbone_digest(name: str, revision: str | None = None) -> str:
    """What identifies a backbone: a folder by its bytes, a hub name by its revision.

    Raises:
        InputError: it looks like a folder, and there is none.
    """
    path = Path(name)
    if path.is_dir():
        return digest_tree(path)
    if path.is_absolute() or name.startswith("."):
        raise InputError(f"backbone {name!r}: no such folder; expected a Hugging Face model folder or a hub name")
    return f"{name}@{revision or 'main'}"


def _load(auto: Any, name: str, revision: str | None, dtype: torch.dtype) -> tuple[nn.Module, str]:
    digest = backbone_digest(name, revision)
    try:
        with _quiet():
            model, report = auto.from_pretrained(name, revision=revision, dtype=dtype, output_loading_info=True)
    except (OSError, ValueError, SafetensorError) as error:
        raise InputError(f"backbone {name!r}: cannot be loaded: {error}") from error
    missing = sorted(k for k in report["missing_keys"] if not _POOLERS.search(k))
    unexpected = sorted(k for k in report["unexpected_keys"] if not _TASK_HEADS.match(k) and not _POOLERS.search(k))
    mismatched = sorted(str(k) for k in report["mismatched_keys"])
    if missing or unexpected or mismatched:
        found = {"missing": missing, "unexpected": unexpected, "of another shape": mismatched}
        lines = [
            f"  {kind}: {', '.join(keys[:8])}{' ...' if len(keys) > 8 else ''}" for kind, keys in found.items() if keys
        ]
        raise InputError(f"backbone {name!r}: its weights do not fit its configuration\n" + "\n".join(lines))
    commit = getattr(model.config, "_commit_hash", None)
    return model, f"{name}@{commit}" if commit and not Path(name).is_dir() else digest


@torch.no_grad()
def _is_causal(model: Any) -> bool:
    """Whether a later token leaves the earlier ones alone: padding without a mask and n_v rest on it."""
    embeddings = None if model.config.is_encoder_decoder else model.get_input_embeddings()
    if not isinstance(embeddings, nn.Embedding):
        return False
    x_2LH = embeddings(torch.tensor([[0, 0, 0], [0, 0, 1]]))
    first, second = model(inputs_embeds=x_2LH, use_cache=False).last_hidden_state[:, 0].float()
    return torch.allclose(first, second, rtol=1e-3, atol=1e-4)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' own report of odd weights and its bars: what matters is raised as an error here."""
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
