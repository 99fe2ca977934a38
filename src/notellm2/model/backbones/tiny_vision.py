"""A small vision transformer, trained contrastively on a data set's images and texts (as CLIP is).

Each image and its note's text are partners; so are two random crops of one image, which teaches it to tell apart what
no text mentions. Saved as an ordinary Hugging Face folder and loaded by the same code as any other backbone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from notellm2.errors import InputError
from notellm2.recipe import TinyVisionConfig

_MEAN = _STD = 0.5


@dataclass(frozen=True)
class VisionCorpus:
    """What a tiny vision encoder is trained on.

    Attributes:
        images: uint8[N, S, S, 3], already at the encoder's ``image_px``.
        texts: N token arrays (may be empty); any tokenizer will do, the text side is a bag of tokens.
        vocabulary: number of tokens.
    """

    images: NDArray[np.uint8]
    texts: Sequence[NDArray[np.int32]]
    vocabulary: int


def build_tiny_vision(
    corpus: VisionCorpus,
    folder: Path,
    config: TinyVisionConfig,
    seed: int,
    progress: Callable[[int, float], None] = lambda step, loss: None,
) -> dict[str, float]:
    """Train an encoder and save it with its image processor into `folder`.

    Args:
        corpus: images and texts.
        folder: written as a Hugging Face model folder.
        config: sizes and schedule.
        seed: of initialisation, order and crops.
        progress: called with (step, loss) after each step.

    Returns:
        Figures: first and last loss (nats).

    Raises:
        InputError: there are too few images to train on, or sizes that do not fit.
    """
    from transformers import ViTImageProcessor

    if len(corpus.images) < 2:
        raise InputError("tiny vision encoder: fewer than two images to train on; name one in backbones.vision")
    if config.image_px % config.patch_px or config.width % config.heads:
        raise InputError(
            f"backbones.vision: image_px ({config.image_px}) must be a multiple of patch_px ({config.patch_px}) and "
            f"width ({config.width}) of heads ({config.heads})"
        )
    torch.manual_seed(seed)
    encoder = _new_encoder(config)
    losses = _pretrain(encoder, corpus, config, seed, progress)
    encoder.save_pretrained(folder)
    side = {"height": config.image_px, "width": config.image_px}
    ViTImageProcessor(size=side, image_mean=[_MEAN] * 3, image_std=[_STD] * 3).save_pretrained(folder)
    return {"first_loss": losses[0], "last_loss": float(np.mean(losses[-10:]))} if losses else {}


def _new_encoder(config: TinyVisionConfig) -> Any:
    from transformers import ViTConfig, ViTModel

    return ViTModel(
        ViTConfig(
            image_size=config.image_px,
            patch_size=config.patch_px,
            hidden_size=config.width,
            intermediate_size=4 * config.width,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
        ),
        add_pooling_layer=False,
    )


def _pretrain(
    encoder: Any, corpus: VisionCorpus, config: TinyVisionConfig, seed: int, progress: Callable[[int, float], None]
) -> list[float]:
    """Train the encoder in place; returns the loss of each step, nats."""
    bag = nn.EmbeddingBag(corpus.vocabulary, config.width, mode="mean")
    scale = nn.Parameter(torch.tensor(2.0))
    parameters = [*encoder.parameters(), *bag.parameters(), scale]
    optimiser = torch.optim.AdamW(parameters, lr=config.lr, weight_decay=0.05, betas=(0.9, 0.98))
    # A rise of exactly one step would divide by zero, so short trainings rise for one and a half.
    total = max(config.steps, 2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, config.lr, total_steps=total, pct_start=max(0.1, 1.5 / total)
    )
    rng = np.random.default_rng(seed)
    encoder.train()
    losses = []
    for step in range(config.steps):
        chosen = rng.choice(len(corpus.images), size=min(config.batch, len(corpus.images)), replace=False)
        views = torch.cat([_crops(corpus.images[chosen], rng), _crops(corpus.images[chosen], rng)])
        cls = functional.normalize(encoder(pixel_values=views).last_hidden_state[:, 0], dim=-1)
        first, second = cls.chunk(2)
        loss = _two_way(first, second, scale)
        worded = np.flatnonzero([len(corpus.texts[i]) > 0 for i in chosen])
        if len(worded) > 1:
            tokens = [torch.from_numpy(corpus.texts[chosen[i]].astype(np.int64)) for i in worded]
            offsets = torch.tensor([0, *np.cumsum([len(t) for t in tokens])[:-1]])
            words = functional.normalize(bag(torch.cat(tokens), offsets), dim=-1)
            loss = (loss + _two_way(first[torch.from_numpy(worded)], words, scale)) / 2
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        schedule.step()
        losses.append(float(loss.detach()))
        progress(step + 1, losses[-1])
    encoder.eval()
    return losses


def _two_way(a_ND: Tensor, b_ND: Tensor, scale: Tensor) -> Tensor:
    logits = a_ND @ b_ND.T * scale.clamp(max=4.6).exp()
    target = torch.arange(len(logits))
    return (functional.cross_entropy(logits, target) + functional.cross_entropy(logits.T, target)) / 2


def _crops(images_NSSC: NDArray[np.uint8], rng: np.random.Generator) -> Tensor:
    """Random crops (70-100 % of the side), flips and brightness, resized back: float32[N, 3, S, S] in [-1, 1]."""
    count, side = images_NSSC.shape[:2]
    x = torch.from_numpy(images_NSSC).permute(0, 3, 1, 2).float() / 255
    zoom = torch.from_numpy(rng.uniform(0.7, 1.0, count)).float()
    shift = torch.from_numpy(rng.uniform(-1, 1, (count, 2))).float() * (1 - zoom)[:, None]
    flip = torch.from_numpy(rng.choice([-1.0, 1.0], count)).float()
    zeros = torch.zeros(count)
    affine = torch.stack(
        [torch.stack([zoom * flip, zeros, shift[:, 0]], 1), torch.stack([zeros, zoom, shift[:, 1]], 1)], 1
    )
    grid = functional.affine_grid(affine, [count, 3, side, side], align_corners=False)
    x = functional.grid_sample(x, grid, padding_mode="border", align_corners=False)
    bright = torch.from_numpy(rng.uniform(0.8, 1.2, (count, 1, 1, 1))).float()
    return ((x * bright).clamp(0, 1) - _MEAN) / _STD
