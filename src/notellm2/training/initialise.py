"""Put the fitted start (`notellm2.model.network.fitted_start`) into a network before its first step."""

from __future__ import annotations

import numpy as np
import torch

from notellm2.model.network.fitted_start import fit_map, mean_cosine
from notellm2.model.network.note_source import NoteSource, Rows, hidden_rows
from notellm2.model.network.notellm2 import Hidden, NoteLLM2
from notellm2.recipe import ModelConfig
from notellm2.training.sharding import lay_out

_FEWEST_PAIRS = 400
"""Pairs on either side below which late fusion keeps its random start: one in sixteen is left to judge by."""


def fit_start(
    network: NoteLLM2, source: NoteSource, pairs: Rows, config: ModelConfig, *, seed: int, size: int
) -> dict[str, float]:
    """Fit late fusion's W_p, then the head and the logit scale, to training pairs.

    Each is fitted to notes of its own: a map of a thousand image features knows the notes it was
    fitted to far better than others, and a head fitted to the same notes would believe it. (Seen on 7,000 notes:
    the loss fell faster and recall on held-out notes was half.)

    Args:
        network: changed in place.
        source: its notes.
        pairs: int64[M, 2], rows of partners.
        config: how many pairs the head's fit looks at, and whether the scale is fitted.
        seed: of the division of the notes and of the sample.
        size: notes a forward pass.

    Returns:
        Figures of the start: mean cosine before and after, shrinkages, expected gain over chance (nats), log scale.

    Raises:
        InputError: there are too few pairs to fit and judge a start.
    """
    figures: dict[str, float] = {}
    image_pairs, head_pairs = _separate_pairs(network, source, pairs, seed)
    chosen = np.random.default_rng([seed, 2]).permutation(len(head_pairs))[: config.start_pairs]
    rows, index = _numbered(head_pairs[chosen])
    hidden = hidden_rows(network, source, rows, size=size).multimodal_BH
    figures["mean_cosine_before"] = _spread(network, hidden)
    with torch.no_grad():
        if network.fusion is not None and source.vision is not None and len(image_pairs):
            pictured, partners = _numbered(image_pairs)
            summary = torch.from_numpy(source.vision[pictured, 0].astype(np.float32))
            image = fit_map(summary, partners, network.fusion.project.out_features, seed=seed)
            # The gate mixes v with n: the image should speak as loud as what the text makes differ between notes. The
            # whole length of n is 24 times that with stories260k, and an image as loud as it drowns the text.
            of_text = hidden_rows(network, source, rows, size=size, modality="text").multimodal_BH
            loudness = (of_text - of_text.mean(0)).square().mean().sqrt()
            weight = network.fusion.project.weight
            weight.copy_(lay_out(image.weight_DH * loudness, weight))
            figures |= {"image_shrinkage": image.shrinkage, "image_gain": image.gain}
            hidden = hidden_rows(network, source, rows, size=size).multimodal_BH
        head = fit_map(hidden, index, config.dim, seed=seed)
        network.head.weight.copy_(lay_out(head.weight_DH, network.head.weight))
        if config.log_scale is None:
            network.log_scale.fill_(head.log_scale)
    figures |= {"head_shrinkage": head.shrinkage, "head_gain": head.gain}
    return figures | {"mean_cosine_after": _spread(network, hidden), "log_scale": float(network.log_scale.detach())}


def _separate_pairs(network: NoteLLM2, source: NoteSource, pairs: Rows, seed: int) -> tuple[Rows, Rows]:
    """Separate pairs for W_p (both with images) from pairs for the head, of disjoint notes; none for W_p if few."""
    none = pairs[:0]
    if network.fusion is None or source.vision is None:
        return none, pairs
    first = np.random.default_rng([seed, 3]).random(len(source.vision)) < 0.5
    image_pairs, head_pairs = pairs[(first & source.has_image)[pairs].all(1)], pairs[~first[pairs].any(1)]
    return (image_pairs, head_pairs) if min(len(image_pairs), len(head_pairs)) >= _FEWEST_PAIRS else (none, pairs)


def _numbered(pairs: Rows) -> tuple[Rows, torch.Tensor]:
    """The distinct rows of some pairs, and the pairs as positions among them."""
    rows, positions = np.unique(pairs, return_inverse=True)
    return rows, torch.from_numpy(positions.reshape(-1, 2))


def _spread(network: NoteLLM2, hidden_BH: torch.Tensor) -> float:
    with torch.no_grad():
        return mean_cosine(network.embed(Hidden(hidden_BH.to(network.head.weight.device), None)).multimodal_BD)
