"""The refit: head and shortcuts fitted together to cached features, once the network is trained.

Contrastive tuning of an LLM must stop early, after one or two passes over the pairs: it learns the training notes by
heart. A linear map of frozen features wants twenty passes, with half of its inputs left out. So each gets its own: the
network is trained as ever, then runs once over the training notes, and what it and the frozen features say of them is
mapped to the embedding by one linear map, in a minute. Standardisation and singular vectors are folded into its
weights: what is left is a head, and the tables of the shortcuts (`notellm2.model.network.shortcuts`).

Shape suffixes: N training notes, K inputs of a part, F runs of tokens, H LLM width, D embedding width, B pairs a step.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from notellm2.model.network.loss import pair_loss, spread
from notellm2.model.network.note_source import NoteSource, Rows, evaluating
from notellm2.model.network.notellm2 import NoteLLM2
from notellm2.model.network.shortcuts import UNUSED, TokenRuns, token_runs
from notellm2.recipe import RefitConfig
from notellm2.training.batches import PairOrder

logger = logging.getLogger(__name__)

STATE, IMAGE, RUNS = "state", "image", "runs"
_LOG_SCALE = 3.0
_WARMUP_SHARE = 0.15
_FEWEST_NOTES = 2
"""Training notes that must hold a run of tokens for it to be kept."""


@dataclass(frozen=True)
class Part:
    """Standardised inputs of one part of the map, and what undoes the standardisation.

    Attributes:
        inputs_NK: of each training note; zeros where the note has nothing to say.
        unfold_KF: from the standardised inputs back to the raw ones; None: the scale alone.
        mean_K, scale_K: subtracted from the raw inputs, and what they are divided by.
        dropout: share of the inputs that a step leaves out.
    """

    inputs_NK: Tensor
    mean_K: Tensor
    scale_K: Tensor
    dropout: float
    unfold_KF: Tensor | None = None


def refit(
    network: NoteLLM2, source: NoteSource, pairs: Rows, config: RefitConfig, *, seed: int, size: int
) -> dict[str, float]:
    """Fit head and shortcuts to the training pairs, in place.

    Args:
        network: trained, whole on its device.
        source: its notes.
        pairs: int64[M, 2], training pairs; their notes are what everything is fitted to.
        config: passes, dropout, learning rate.
        seed: of start, order and dropout.
        size: notes a forward pass.

    Returns:
        Figures: the last steps' loss, the logit scale, the number of runs that were kept.
    """
    rows, numbered = np.unique(pairs, return_inverse=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        parts = _parts(network, source, rows, config, size, seed)
        weights, figures = _fit(parts, numbered.reshape(-1, 2), network.head.out_features, config, seed)
    with torch.no_grad():
        _fold(network, parts, weights)
        network.log_scale.fill_(figures["refit_log_scale"])
    logger.info("refit: %s", ", ".join(f"{name} {value:.4g}" for name, value in figures.items()))
    return figures


def _parts(
    network: NoteLLM2, source: NoteSource, rows: Rows, config: RefitConfig, size: int, seed: int
) -> dict[str, Part]:
    """What the map is fitted to, by name, from one pass over the notes."""
    states, images, texts, order = [], [], [], []
    shortcuts, device = network.shortcuts, network.head.weight.device
    with evaluating(network):
        for positions, batch in source.chunks(rows, size):
            order.append(positions)
            states.append(network.hidden(batch.to(device)).multimodal_BH.cpu())
            if shortcuts is not None and shortcuts.image is not None and batch.vision_BPV is not None:
                images.append(shortcuts.image_features(batch.vision_BPV))
            texts.append((batch.tokens_BL, batch.last_B + 1 - len(source.layout.tail)))
    back = torch.from_numpy(np.argsort(np.concatenate(order)))
    parts = {STATE: standardise(torch.cat(states)[back], config.state_dropout)}
    if images:
        shown = torch.from_numpy(source.has_image[rows])
        parts[IMAGE] = standardise(torch.cat(images)[back], config.dropout, shown)
    if shortcuts is not None and shortcuts.runs is not None:
        first = len(source.layout.head)
        known = _set_vocabulary(shortcuts.runs, texts, first)
        logger.info("refit: %d runs of tokens are known", known)
        features = _run_features(shortcuts.runs, texts, first)
        parts[RUNS] = _components(features[back.numpy()], config, seed)
    return parts


def standardise(x_NK: Tensor, dropout: float, shown_N: Tensor | None = None) -> Part:
    """Standardise inputs to mean zero and variance one, over the notes that are `shown_N`; the others are zero."""
    measured = x_NK if shown_N is None else x_NK[shown_N]
    mean_K, scale_K = measured.mean(0), measured.std(0) + 1e-6
    inputs_NK = (x_NK - mean_K) / scale_K
    return Part(inputs_NK if shown_N is None else inputs_NK * shown_N[:, None], mean_K, scale_K, dropout)


def _set_vocabulary(runs: TokenRuns, texts: list[tuple[Tensor, Tensor]], first: int) -> int:
    """The most frequent runs of the notes, and how rare each is; returns their number."""
    codes: list[NDArray[np.int64]] = []
    notes = 0
    for tokens_BL, end_B in texts:
        notes += len(tokens_BL)
        inside = [(codes_BL, inside_BL) for codes_BL, inside_BL in token_runs(tokens_BL, first, end_B, runs.longest)]
        codes += [
            np.unique(np.concatenate([codes_BL[note][inside_BL[note]].numpy() for codes_BL, inside_BL in inside]))
            for note in range(len(tokens_BL))
        ]
    known, holders = np.unique(np.concatenate(codes), return_counts=True)
    frequent = np.flatnonzero(holders >= _FEWEST_NOTES)
    kept = np.sort(frequent[np.argsort(-holders[frequent], kind="stable")[: len(runs.codes)]])
    with torch.no_grad():
        runs.codes.fill_(UNUSED)
        runs.rarity.zero_()
        runs.codes[: len(kept)] = torch.from_numpy(known[kept])
        runs.rarity[: len(kept)] = torch.from_numpy(np.log((1 + notes) / (1 + holders[kept])) + 1).float()
    return len(kept)


def _run_features(runs: TokenRuns, texts: list[tuple[Tensor, Tensor]], first: int) -> Any:
    from scipy import sparse

    device = runs.codes.device
    rows = [
        sparse.csr_matrix(runs.features(tokens_BL[at].to(device), first, end_B[at].to(device)).cpu().numpy())
        for tokens_BL, end_B in texts
        for at in torch.arange(len(tokens_BL)).split(64)
    ]
    return sparse.vstack(rows).tocsr()


def _components(features_NF: Any, config: RefitConfig, seed: int) -> Part:
    """Leading singular vectors of sparse features, scaled to unit mean square."""
    from sklearn.decomposition import TruncatedSVD

    count = min(config.components, features_NF.shape[0] - 1, features_NF.shape[1] - 1)
    svd = TruncatedSVD(count, random_state=seed).fit(features_NF)
    inputs_NK = torch.from_numpy(svd.transform(features_NF)).float()
    scale = inputs_NK.square().mean().sqrt() + 1e-9
    return Part(
        inputs_NK / scale,
        torch.zeros(count),
        torch.full((count,), float(scale)),
        config.dropout,
        torch.from_numpy(svd.components_).float(),
    )


def _fit(
    parts: Mapping[str, Part], pairs: Rows, width: int, config: RefitConfig, seed: int
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """One matrix a part, trained by the pair loss: AdamW, one cycle; every part's output is summed.

    Args:
        parts: inputs of N notes.
        pairs: int64[M, 2], positions of partners among them.
        width: D.
        config: passes and rates.
        seed: of the order.
    """
    steps = max(1, math.ceil(config.epochs * len(pairs) / config.pairs_per_batch))
    weights, log_scale = _random_weights(parts, width), torch.tensor(_LOG_SCALE, requires_grad=True)
    optimiser, schedule = _optimiser(list(weights.values()), log_scale, config, steps)
    order, offset_N = PairOrder(pairs, config.pairs_per_batch, seed), _frequency_offset(pairs, config.popularity)
    losses: list[float] = []
    for step in range(steps):
        rows = order.step(step)
        x_2BD = spread(_outputs(parts, weights, rows), centre=True)
        mask = torch.from_numpy(order.not_negatives(rows, known_positives=True))
        loss = pair_loss(x_2BD, log_scale, mask, offset_2B=offset_N[torch.from_numpy(rows)])
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_([*weights.values(), log_scale], 1.0)
        optimiser.step()
        schedule.step()
        losses.append(float(loss.detach()))
    figures = {"refit_loss": float(np.mean(losses[-20:])), "refit_log_scale": float(log_scale.detach())}
    return {name: weight.detach() for name, weight in weights.items()}, figures


def _random_weights(parts: Mapping[str, Part], width: int) -> dict[str, Tensor]:
    """[D, K] of each part, small enough for outputs of unit size."""
    inputs_K = sum(part.inputs_NK.shape[1] for part in parts.values())
    return {
        name: (torch.randn(width, part.inputs_NK.shape[1]) * math.sqrt(1 / (3 * inputs_K))).requires_grad_()
        for name, part in parts.items()
    }


def _optimiser(
    weights: list[Tensor], log_scale: Tensor, config: RefitConfig, steps: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    groups = [
        {"params": weights, "weight_decay": config.weight_decay},
        {"params": [log_scale], "weight_decay": 0.0},
    ]
    optimiser = torch.optim.AdamW(groups, lr=config.lr, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, config.lr, total_steps=max(2, steps), pct_start=_WARMUP_SHARE
    )
    return optimiser, schedule


def _frequency_offset(pairs: Rows, popularity: float) -> Tensor:
    """[N]: what is added to a note's logits as a negative, for how often the pairs hold it (logQ correction)."""
    drawn = np.bincount(pairs.reshape(-1), minlength=int(pairs.max()) + 1)
    return -popularity * torch.from_numpy(np.log(np.maximum(drawn, 1) / drawn.mean())).float()


def _outputs(parts: Mapping[str, Part], weights: Mapping[str, Tensor], rows: Rows) -> Tensor:
    """[2B, D]: the map of some notes' inputs, with dropout; a note that is there twice has one output."""
    distinct, back = np.unique(rows, return_inverse=True)
    y_PUD = torch.stack(
        [functional.dropout(part.inputs_NK[distinct], part.dropout) @ weights[name].T for name, part in parts.items()]
    )
    return y_PUD.sum(0)[torch.from_numpy(back)]


def _fold(network: NoteLLM2, parts: Mapping[str, Part], weights: Mapping[str, Tensor]) -> None:
    """Put the map into the network: its standardisation into weights and biases, its mean into the head's bias."""
    common_D = torch.zeros(network.head.out_features)
    for name, part in parts.items():
        raw_DK = weights[name] / part.scale_K
        shift_D = raw_DK @ part.mean_K
        common_D += (part.inputs_NK @ weights[name].T).mean(0)
        if name == STATE:
            network.head.weight.copy_(raw_DK)
            network.head.bias.copy_(-shift_D)
        elif name == IMAGE:
            network.shortcuts.image.weight.copy_(raw_DK)  # type: ignore[union-attr]
            network.shortcuts.image.bias.copy_(-shift_D)  # type: ignore[union-attr]
        else:
            network.shortcuts.runs.weight.copy_((raw_DK @ part.unfold_KF).T)  # type: ignore[union-attr, operator]
    network.head.bias.sub_(common_D.to(network.head.bias.device))
