"""Measure a network between steps: the mean of its outputs, and how well it ranks held-out pairs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from notellm2.model.network.connector import visual_token_rank
from notellm2.model.network.loss import matryoshka_loss, spread
from notellm2.model.network.note_source import NoteSource, Rows, embed_rows, hidden_rows
from notellm2.model.network.notellm2 import Hidden, NoteLLM2
from notellm2.recipe import TrainingConfig
from notellm2.training.batches import PairOrder, pictured_pairs
from notellm2.training.process_group import ALONE, Team
from notellm2.training.sharding import is_sharded, lay_out, whole

_VALIDATION_BLOCK = 512
"""Queries scored at once against the validation pool; bounds memory."""
_CENTRE_NOTES = 512
"""Training notes whose mean output is the centre: the mean cosine that is left by chance is about 1 / 512."""
_TIE = 1e-6
_RANKED_NOTES = 8


@dataclass(frozen=True)
class Validation:
    """Held-out pairs for choosing weights: rows of queries and targets [Q, 2], and of the pool [M]."""

    pairs: Rows
    pool: Rows


def recentre(network: NoteLLM2, source: NoteSource, pairs: Rows, config: TrainingConfig, team: Team = ALONE) -> None:
    """Set the head's bias so that its outputs for training notes have mean zero, as a batch's have in training.

    Measured anew wherever the network is used, not averaged over steps: early on one step moves the mean further than
    what notes differ by, and an average lags. A network without centre stays as it is.

    Args:
        network: changed in place.
        source: its notes.
        pairs: int64[M, 2], training pairs; the mean is over a draw of their distinct notes.
        config: seed of that draw, and notes a forward pass.
        team: all its processes call this.
    """
    if not network.centred:
        return
    notes = np.unique(pairs)
    drawn = np.random.default_rng([config.seed, 4]).permutation(len(notes))[:_CENTRE_NOTES]
    y_ND = _embedded(network, source, notes[np.sort(drawn)], 2 * config.chunk_notes, team, bare=True)
    mean_D = torch.from_numpy(y_ND.mean(0, dtype=np.float64))
    with torch.no_grad():
        bias = whole(network.head.bias.detach()).cpu().double() - mean_D
        network.head.bias.copy_(lay_out(bias, network.head.bias))


def validate(
    network: NoteLLM2, source: NoteSource, validation: Validation, config: TrainingConfig, team: Team = ALONE
) -> dict[str, float]:
    """Rank held-out pairs; returns MRR and recall by name."""
    rows = np.unique(np.concatenate([validation.pairs.reshape(-1), validation.pool]))
    x = _embedded(network, source, rows, 2 * config.chunk_notes, team)
    pool = x[np.searchsorted(rows, validation.pool)].T
    ranks = []
    for start in range(0, len(validation.pairs), _VALIDATION_BLOCK):
        pairs = validation.pairs[start : start + _VALIDATION_BLOCK]
        query, target = (x[np.searchsorted(rows, pairs[:, i])] for i in (0, 1))
        scores = query @ pool
        scores[pairs[:, :1] == validation.pool[None, :]] = -np.inf  # a query is not its own neighbour
        scores[pairs[:, 1:] == validation.pool[None, :]] = -np.inf  # nor does a target outrank itself
        # Ties, to float32's rounding, count against the target: else a collapsed network would rank everything first.
        ranks.append(1 + (scores >= (query * target).sum(1, keepdims=True) - _TIE).sum(1))
    rank = np.concatenate(ranks)
    return {
        "validation_mrr": float((1 / rank).mean()),
        "validation_recall_at_10": float((rank <= 10).mean()),
        "validation_recall_at_100": float((rank <= 100).mean()),
    }


def validation_loss(network: NoteLLM2, source: NoteSource, validation: Validation, config: TrainingConfig) -> float:
    """Compute the training loss of the held-out pairs, without dropout, nats a pair.

    The pairs are taken in file order, ``pairs_per_batch`` at a time, each batch compared within itself as in training;
    a last batch of a single pair, which has nothing to be compared with, is left out. All processes compute all of it.
    """
    rows = np.unique(validation.pairs)
    hidden = hidden_rows(network, source, rows, size=2 * config.chunk_notes)
    device, order = network.head.weight.device, PairOrder(validation.pairs, config.pairs_per_batch, config.seed)

    def loss(hidden_BH: Tensor, batch: Rows) -> float:
        outputs = network.embed(Hidden(hidden_BH[np.searchsorted(rows, batch)].to(device), None), bare=True)
        mask = torch.from_numpy(order.not_negatives(batch, known_positives=config.mask_positives)).to(device)
        x_BD = spread(outputs.multimodal_BD, centre=network.centred)
        return float(matryoshka_loss(x_BD, network.log_scale, network.matryoshka, mask))

    losses, weights = [], []
    with torch.no_grad():
        for first in range(0, len(validation.pairs), config.pairs_per_batch):
            batch = validation.pairs[first : first + config.pairs_per_batch].reshape(-1)
            if len(batch) == 2:
                continue
            value = loss(hidden.multimodal_BH, batch)
            seen = batch[pictured_pairs(batch, source.has_image, None)]
            if hidden.visual_BH is not None and config.weight_visual and len(seen) > 2:
                both = config.weight_multimodal + config.weight_visual
                value = (config.weight_multimodal * value + config.weight_visual * loss(hidden.visual_BH, seen)) / both
            losses.append(value)
            weights.append(len(batch))
    return float(np.average(losses, weights=weights)) if losses else 0.0


def rank_visual_tokens(network: NoteLLM2, source: NoteSource, rows: Rows) -> float | None:
    """Measure how much the visual tokens of an image differ (`visual_token_rank`), without dropout.

    Args:
        network: its connector is run by itself.
        source: its notes.
        rows: of the notes to look at, the same in all processes; the first eight with an image are.

    Returns:
        Mean effective rank, 1 to Q; None where there is no connector that trains, or no image.
    """
    connector, pictured = network.connector, rows[source.has_image[rows]][:_RANKED_NOTES]
    if connector is None or source.vision is None or not len(pictured) or not any(True for _ in connector.parameters()):
        return None
    vision = torch.from_numpy(source.vision[pictured].astype(np.float32)).to(network.head.weight.device)
    training = connector.training
    connector.eval()
    with torch.no_grad():
        tokens = connector(vision)
    connector.train(training)
    return visual_token_rank(tokens)


def _embedded(
    network: NoteLLM2, source: NoteSource, rows: Rows, size: int, team: Team, *, bare: bool = False
) -> NDArray[np.float32]:
    """`embed_rows`, each process its share."""
    if team.size == 1:
        return embed_rows(network, source, rows, size=size, bare=bare)
    x = torch.zeros(len(rows), network.head.out_features, device=team.device)
    mine = np.arange(team.rank, len(rows), team.size)
    # Sharded weights are gathered by all processes: each runs the network equally often.
    spare = np.zeros(int(is_sharded(network) and len(mine) * team.size < len(rows)), np.int64)
    if len(mine) + len(spare):
        share = embed_rows(network, source, rows[np.concatenate([mine, spare])], size=size, bare=bare)[: len(mine)]
        x[torch.from_numpy(mine)] = torch.from_numpy(share).to(x.device)
    team.sum_([x])
    embedded: NDArray[np.float32] = x.cpu().numpy()
    return embedded
