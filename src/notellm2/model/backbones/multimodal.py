"""A pretrained multimodal LLM as both backbones of a network: the paper's other route, and its baseline.

Its language model is the LLM, its vision tower with projector the frozen encoder, and nothing stands between them
(``model.connector.kind: none``): same prompts, pooling, loss, bundle and evaluation as for two separate backbones.

Every image is first brought to 224 x 224 pixels, the paper's size, so that each gives the same number of tokens.

Shape suffixes: B images or notes, T visual tokens, L tokens, H LLM width.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from notellm2.errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image

KINDS = ("idefics3", "llava", "qwen2_5_vl", "qwen2_vl", "smolvlm")
"""Model types whose visual tokens enter at the first layer alone. (Others feed later layers too.)"""

_SIDE = 224
_ONE_IMAGE_A_SAMPLE = ("idefics3", "smolvlm")
"""Processors that want a list of images for each sample."""


def is_multimodal(config: Any) -> bool:
    """Return whether a configuration is of an image-text-to-text model.

    Raises:
        InputError: it is, and of a kind that is not supported.
    """
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

    if config.model_type not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
        return False
    if config.model_type not in KINDS:
        raise InputError(f"a multimodal LLM of type {config.model_type!r}: expected one of {', '.join(KINDS)}")
    return True


def language_part(model: Any) -> nn.Module:
    """Return the language model of a multimodal one, without its head."""
    decoder: nn.Module = model.model.get_decoder()
    return decoder


class MultimodalVision(nn.Module):
    """Vision tower and projector of a multimodal LLM: images to the LLM's own visual tokens.

    Args:
        model: the multimodal model; its language model is dropped.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        decoder = language_part(model)
        base = model.model
        for name, child in list(base.named_children()):
            if child is decoder:
                setattr(base, name, nn.Identity())
        self.base = base
        self.kind: str = model.config.model_type

    def read(self, processor: Any, images: Sequence[Image]) -> Tensor:
        """Encode RGB images as [B, 1 + T, H]: the mean of the visual tokens, then each of them."""
        from PIL import Image as Pillow

        squares = [image.resize((_SIDE, _SIDE), Pillow.Resampling.BICUBIC) for image in images]
        options = {"do_image_splitting": False} if hasattr(processor, "do_image_splitting") else {}
        batch: Any = [[square] for square in squares] if self.kind in _ONE_IMAGE_A_SAMPLE else squares
        pixels = processor(batch, return_tensors="pt", **options)
        device = next(self.base.parameters()).device
        read = inspect.signature(self.base.get_image_features).parameters
        output = self.base.get_image_features(**{n: x.to(device) for n, x in pixels.items() if n in read})
        x_BTH = torch.stack(list(output.pooler_output))
        return torch.cat([x_BTH.mean(1, keepdim=True), x_BTH], 1)


class PretrainedConnector(nn.Module):
    """No connector: the encoder's tokens are the LLM's visual tokens already.

    Args:
        queries: T as the recipe says; the prompt has that many slots.
        vision_width: V.
        llm_width: H.

    Raises:
        InputError: V is not H.
    """

    def __init__(self, queries: int, vision_width: int, llm_width: int) -> None:
        super().__init__()
        if vision_width != llm_width:
            raise InputError(
                f"model.connector.kind none: the encoder's tokens have {vision_width} numbers, the LLM reads "
                f"{llm_width}; name one multimodal LLM in backbones.mllm, or a connector"
            )
        self._queries = queries

    def forward(self, vision_BPV: Tensor) -> Tensor:
        """Return the visual tokens: [B, 1 + T, H] -> [B, T, H]."""
        tokens = vision_BPV.shape[1] - 1
        if tokens != self._queries:
            raise InputError(f"model.connector.queries ({self._queries}): the encoder gives {tokens} tokens; set it so")
        return vision_BPV[:, 1:]


def reads_grids(llm: nn.Module) -> bool:
    """Return whether the LLM's rotary positions have rows and columns (Qwen2-VL's M-RoPE)."""
    rope = getattr(getattr(llm, "config", None), "rope_parameters", None) or {}
    return "mrope_section" in rope


def grid_positions(slots: NDArray[np.int64], length: int) -> Tensor:
    """Compute time, row and column of each token, int64[3, 1, L]; of text all three are alike (Qwen2-VL).

    The visual tokens share one time and lie in a square; the text goes on after its longest side.

    Args:
        slots: int64[T], where the visual tokens are, next to each other; may be empty.
        length: L.
    """
    place = np.tile(np.arange(length), (3, 1))
    if len(slots):
        first, side = int(slots[0]), math.isqrt(len(slots))
        cell = np.arange(len(slots))
        place[:, slots] = first + np.stack([0 * cell, cell // side, cell % side])
        place[:, first + len(slots) :] -= len(slots) - side
    return torch.from_numpy(place)[:, None]
