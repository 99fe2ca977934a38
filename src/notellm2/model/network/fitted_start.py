"""Fit a start from which contrastive tuning learns.

The trap: hidden states of a language model at one prompt position are nearly parallel (mean cosine 0.987 over
different notes with a 260 k Llama). A randomly started head maps every note to one direction, the loss sits at
ln(2B - 1) and its gradient is close to zero. A plain whitening spreads the notes, but blindly: at a fixed logit scale
the loss then starts *above* chance, and the quickest way down is to collapse again (seen: mean cosine 0.993 after 25
steps). The way out is closed form, over a few thousand notes, before the first step:

1. the common direction of the inputs is projected out, so that different notes start with mean cosine near zero
   before the head has a bias;
2. what remains is whitened, with shrinkage, and turned to the directions on which *partners* agree, each weighted by
   the root of its correlation: the linear-discriminant start;
3. shrinkage and logit scale τ are chosen by the pair loss on notes that the fit has not seen. With 1,280 inputs and a
   thousand notes an unshrunk fit knows its own pairs by heart (loss 1.6 against 4.8 on others), and a τ fitted to
   that would pull towards collapse at once.

Training moves the common direction again from its first step on; that it cannot take over is `model.centre`'s work
(`notellm2.model.network.loss.spread`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from notellm2.errors import InputError
from notellm2.model.network.loss import chance_loss, pair_loss

SHRINKAGES = (0.1, 1.0, 10.0, 100.0)
"""Candidates: what is added to every variance, as a multiple of the mean variance."""

FIT_SHARE = 0.75
"""Share of the notes whose pairs are fitted; the pairs among the rest choose shrinkage and scale."""

_LOG_SCALES = torch.arange(-2.0, 4.01, 0.25)
_JUDGED_PAIRS = 256
_WEIGHT_FLOOR = 1e-2


@dataclass(frozen=True)
class FittedMap:
    """A linear map without bias and what it promises on unseen notes.

    Attributes:
        weight_DH: float32[D, H].
        shrinkage: the one chosen from `SHRINKAGES`.
        log_scale: the τ at which the pair loss on unseen notes was least.
        gain: chance minus that loss, nats; 0 when nothing was learnt.
    """

    weight_DH: Tensor
    shrinkage: float
    log_scale: float
    gain: float


class Discriminant:
    """Linear maps whose output tells partners from strangers best, in the least-squares sense.

    With the common direction removed, M = E[x xᵀ] over notes and C = E[x_a x_bᵀ] over pairs (symmetrised), the rows of
    a map are the leading eigenvectors of (M + εI)^(-1/2) C (M + εI)^(-1/2), mapped back and weighted by the root of
    their eigenvalue (the correlation between partners).

    Args:
        x_NH: float[N, H] inputs of a sample of notes.
        pairs_M2: int64[M, 2] rows of `x_NH` that are partners.

    Raises:
        ValueError: the inputs are not finite, or all alike.
    """

    def __init__(self, x_NH: Tensor, pairs_M2: Tensor) -> None:
        x = x_NH.double()
        common = x.mean(0)
        self._common = common / common.norm().clamp(min=1e-12)
        x = x - torch.outer(x @ self._common, self._common)
        moment = x.T @ x / len(x)
        if not torch.isfinite(moment).all() or moment.trace() <= 1e-12:
            raise ValueError("no start can be fitted: the inputs are all alike or not finite")
        values, self._vectors = torch.linalg.eigh(moment)
        self._values = values.clamp(min=0)
        agreement = x[pairs_M2[:, 0]].T @ x[pairs_M2[:, 1]] / max(1, len(pairs_M2))
        self._agreement = (agreement + agreement.T) / 2
        self._x = x

    def map(self, width: int, shrinkage: float) -> Tensor:
        """Return the map float32[width, H], scaled to outputs of unit mean square; rows beyond H are zero.

        Args:
            width: D, number of outputs.
            shrinkage: ε as a multiple of the mean variance.
        """
        whiten = (self._vectors * (self._values + shrinkage * self._values.mean()).rsqrt()) @ self._vectors.T
        correlations, directions = torch.linalg.eigh(whiten @ self._agreement @ whiten)
        keep = min(width, len(correlations))
        correlations, directions = correlations[-keep:].flip(0), directions[:, -keep:].flip(1)
        # eigh leaves signs free; fixing them keeps the start the same on every machine.
        directions = directions * directions[directions.abs().argmax(0), torch.arange(keep)].sign()
        # A small floor keeps the weakest directions alive, so that training can still use them.
        floor = _WEIGHT_FLOOR * float(correlations[0].clamp(min=1e-6))
        rows = torch.zeros(width, len(self._common), dtype=torch.float64)
        rows[:keep] = (whiten @ directions * correlations.clamp(min=floor).sqrt()).T
        rows -= torch.outer(rows @ self._common, self._common)
        return (rows / (self._x @ rows.T).square().mean().sqrt()).float()


def fit_map(x_NH: Tensor, pairs_M2: Tensor, width: int, *, seed: int) -> FittedMap:
    """Fit the discriminant map of all pairs, at the shrinkage that serves unseen notes best.

    Args:
        x_NH: float[N, H] inputs of a sample of notes.
        pairs_M2: int64[M, 2] rows of `x_NH` that are partners.
        width: D, number of outputs.
        seed: of the division into fitted and judging notes.

    Raises:
        ValueError: the inputs are not finite or all alike.
        InputError: too few pairs are left on either side.
    """
    fitted = torch.from_numpy(np.random.default_rng([seed, 1]).random(len(x_NH)) < FIT_SHARE)
    fit = pairs_M2[fitted[pairs_M2].all(1)]
    judge = pairs_M2[~fitted[pairs_M2].any(1)]
    # Drawn, not the first ones: mined pairs lie sorted by query, and few queries would judge.
    judge = judge[np.random.default_rng([seed, 3]).permutation(len(judge))[:_JUDGED_PAIRS]]
    if len(fit) < 2 or len(judge) < 2:
        raise InputError(f"no start can be fitted to {len(pairs_M2)} pairs; use more, or model.start: random")
    fit_rows = torch.full((len(x_NH),), -1).masked_scatter(fitted, torch.arange(int(fitted.sum())))
    trial = Discriminant(x_NH[fitted], fit_rows[fit])
    judged = x_NH[judge.reshape(-1)].float()
    mask = _not_negatives(judge.reshape(-1), pairs_M2)
    best = (float("inf"), 0.0, 0.0)
    for shrinkage in SHRINKAGES:
        x = functional.normalize(judged @ trial.map(width, shrinkage).T, dim=-1)
        scale, loss = fitted_log_scale(x, mask)
        best = min(best, (loss, shrinkage, scale))
    loss, shrinkage, scale = best
    weight = Discriminant(x_NH, pairs_M2).map(width, shrinkage)
    return FittedMap(weight, shrinkage, scale, chance_loss(len(judge), mask) - loss)


def _not_negatives(rows: Tensor, pairs_M2: Tensor) -> Tensor:
    """bool[2B, 2B], as in training: a note drawn twice, at cosine 1, would else outdo every partner and flatten τ."""
    base = 1 + int(pairs_M2.max())
    first, second = pairs_M2.T
    known = torch.cat([first * base + second, second * base + first])
    return (rows[:, None] == rows[None, :]) | torch.isin(rows[:, None] * base + rows[None, :], known)


def fitted_log_scale(x_2BD: Tensor, mask_22: Tensor | None = None) -> tuple[float, float]:
    """Find the logit scale τ with the least pair loss, on a grid of quarters in [-2, 4], and that loss.

    Args:
        x_2BD: [2B, D], L2-normalised; rows 2i and 2i+1 are partners.
        mask_22: bool[2B, 2B] of entries that are no negatives, as in `pair_loss`.
    """
    losses = torch.stack([pair_loss(x_2BD, scale, mask_22) for scale in _LOG_SCALES])
    best = int(losses.argmin())
    return float(_LOG_SCALES[best]), float(losses[best])


def mean_cosine(x_BD: Tensor) -> float:
    """Average the cosine between different rows of L2-normalised `x_BD`; 1 when all are alike, 0 when spread."""
    rows = len(x_BD)
    total = x_BD.detach().sum(0).square().sum() - rows
    return float(total / (rows * (rows - 1)))
