"""Train a linear map of frozen features: the strong simple baseline that a tuned model has to beat.

One matrix takes a note's TF-IDF vector (cut to its leading singular vectors) and its frozen image features to an
embedding; notes that go together are drawn together by InfoNCE over the batch. Half of the inputs are dropped in
training: the matrix would else learn its training notes by heart. No language model, no attention, no GPU: NumPy, with
the gradient written out, as this room must not import torch.

Shape suffixes: N notes, F input features, D embedding dimensions, B pairs of a batch, R = 2B rows of a batch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import sparse

from notellm2.evaluation.ranks import F32, I64, Bool


@dataclass(frozen=True)
class MapSettings:
    """How the map is trained; chosen on a split of hm-products that no reported figure is of.

    Attributes:
        dim: D, width of the embeddings.
        dropout: share of the inputs set to 0 in each step.
        epochs: passes over the pairs.
        max_steps: the fewest of this and `epochs` passes are taken: a minute of one core, whatever the data.
        batch: B, pairs of a step.
        lr: peak of the one-cycle schedule.
        weight_decay: of AdamW.
        log_scale: start of the logarithm of the inverse temperature, which is learnt.
        seed: of the start, of the order and of the dropout.
    """

    dim: int = 64
    dropout: float = 0.5
    epochs: int = 30
    max_steps: int = 5000
    batch: int = 256
    lr: float = 2e-3
    weight_decay: float = 1e-2
    log_scale: float = 3.0
    seed: int = 0


@dataclass(frozen=True)
class LinearMap:
    """A linear map as it was trained.

    Attributes:
        matrix_FD: f32[F, D].
        centre_D: f32[D], mean of the training notes' images under the matrix, taken away before the norm.
        loss: mean of the last tenth of the steps, nats.
        steps: how many were taken.
    """

    matrix_FD: F32
    centre_D: F32
    loss: float
    steps: int

    def embed(self, inputs_NF: F32) -> F32:
        """Map inputs to embeddings, f32[N, D], rows of length 1."""
        rows: F32 = inputs_NF @ self.matrix_FD - self.centre_D
        rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
        return rows


def train_map(inputs_NF: F32, pairs_M2: I64, settings: MapSettings) -> LinearMap:
    """Train a map on pairs of notes; equal inputs and settings give an equal map, up to the rounding of BLAS.

    Args:
        inputs_NF: f32[N, F], features of all notes that pairs name, scaled to about 1.
        pairs_M2: i64[M, 2], rows of notes that go together.
        settings: how.

    Raises:
        ValueError: there are no pairs.
    """
    if len(pairs_M2) == 0:
        raise ValueError("no pairs to train a linear map on")
    rng = np.random.default_rng(settings.seed)
    width = inputs_NF.shape[1]
    known = _known_partners(pairs_M2, len(inputs_NF))
    bound = 1 / math.sqrt(width)
    weights = rng.uniform(-bound, bound, (width, settings.dim)).astype(np.float32)
    scale = np.full(1, settings.log_scale, np.float32)
    optimisers = (_AdamW(weights, settings.weight_decay), _AdamW(scale, 0.0))
    a_pass = math.ceil(len(pairs_M2) / settings.batch)
    steps = min(settings.epochs * a_pass, settings.max_steps)
    order: I64 = np.empty(0, np.int64)
    losses = []
    for step in range(steps):
        if step % a_pass == 0:
            order = rng.permutation(len(pairs_M2))
        at = (step % a_pass) * settings.batch
        rows = pairs_M2[order[at : at + settings.batch]].ravel()
        kept = rng.random((len(rows), width), np.float32) >= settings.dropout
        inputs = np.where(kept, inputs_NF[rows] / np.float32(1 - settings.dropout), np.float32(0))
        loss, gradient, of_scale = info_nce(inputs @ weights, float(scale[0]), _masked(known, rows))
        losses.append(loss)
        lr = _one_cycle(step, steps, settings.lr)
        for optimiser, slope in zip(optimisers, (inputs.T @ gradient, np.full(1, of_scale, np.float32)), strict=True):
            optimiser.step(slope, lr)
    seen = np.unique(pairs_M2)
    centre = inputs_NF[seen].mean(axis=0) @ weights
    return LinearMap(weights, centre, float(np.mean(losses[-max(1, steps // 10) :])), steps)


def info_nce(outputs_RD: F32, log_scale: float, masked_RR: Bool) -> tuple[float, F32, float]:
    """Compute InfoNCE over a batch, centred and normalised, with its gradients.

    Args:
        outputs_RD: f32[R, D]; rows 2i and 2i + 1 are partners.
        log_scale: logarithm of the inverse temperature.
        masked_RR: bool[R, R], pairs of rows that are no negatives of each other; a row and its partner count anyway.

    Returns:
        The mean loss in nats, its gradient f32[R, D] by the outputs, and its derivative by `log_scale`.
    """
    n = len(outputs_RD)
    rows = np.arange(n)
    partner = rows ^ 1
    centred = outputs_RD - outputs_RD.mean(axis=0)
    norms = np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-12)
    unit = centred / norms
    cosines = unit @ unit.T
    logits = np.float32(math.exp(log_scale)) * cosines
    excluded = masked_RR.copy()
    excluded[rows, partner] = False
    excluded[rows, rows] = True
    logits[excluded] = -np.inf
    logits -= logits.max(axis=1, keepdims=True)
    share = np.exp(logits)
    totals = share.sum(axis=1, keepdims=True)
    loss = float((np.log(totals[:, 0]) - logits[rows, partner]).mean())
    share /= totals
    share[rows, partner] -= 1
    share /= n
    of_scale = math.exp(log_scale) * float((share * cosines).sum())
    of_unit = np.float32(math.exp(log_scale)) * ((share + share.T) @ unit)
    of_centred = (of_unit - unit * (of_unit * unit).sum(axis=1, keepdims=True)) / norms
    gradient: F32 = of_centred - of_centred.mean(axis=0)
    return loss, gradient, of_scale


class _AdamW:
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019), in place."""

    def __init__(self, weights: F32, weight_decay: float) -> None:
        self._weights, self._decay = weights, weight_decay
        self._mean, self._square = np.zeros_like(weights), np.zeros_like(weights)
        self._steps = 0

    def step(self, gradient: npt.NDArray[np.float32], lr: float, betas: tuple[float, float] = (0.9, 0.98)) -> None:
        """One step against the gradient."""
        self._steps += 1
        first, second = betas
        self._mean += (1 - first) * (gradient - self._mean)
        self._square += (1 - second) * (gradient**2 - self._square)
        mean = self._mean / (1 - first**self._steps)
        square = self._square / (1 - second**self._steps)
        self._weights *= 1 - lr * self._decay
        self._weights -= np.float32(lr) * mean / (np.sqrt(square) + np.float32(1e-8))


def _one_cycle(step: int, steps: int, peak: float, warm: float = 0.15) -> float:
    """Learning rate that rises from a 25th of its peak, then falls to nothing, by cosines (Smith and Topin 2018)."""
    top = max(1.0, warm * steps)
    if step < top:
        return peak / 25 + (peak - peak / 25) * (1 - math.cos(math.pi * step / top)) / 2
    return peak * (1 + math.cos(math.pi * (step - top) / max(1.0, steps - top))) / 2


def _known_partners(pairs_M2: I64, notes: int) -> sparse.csr_array:
    """bool[N, N]: notes that are partners, either way round, and each note with itself."""
    ends = np.concatenate([pairs_M2, pairs_M2[:, ::-1]])
    itself = np.unique(pairs_M2)
    first, second = (np.concatenate([ends[:, side], itself]) for side in (0, 1))
    return sparse.csr_array((np.ones(len(first), np.bool_), (first, second)), shape=(notes, notes))


def _masked(known: sparse.csr_array, rows: I64) -> Bool:
    """bool[R, R]: pairs of rows that are the same note or known partners."""
    distinct, back = np.unique(rows, return_inverse=True)
    masked: Bool = known[distinct][:, distinct].toarray()[np.ix_(back, back)]
    return masked
