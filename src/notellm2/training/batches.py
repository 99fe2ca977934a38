"""Which pairs a step sees, and which entries of its similarity matrix are no negatives.

Everything is a function of (seed, step): a resumed run needs no state but its step.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from notellm2.model.source import Rows


class PairOrder:
    """A random order of the pairs, another one each epoch; the last, short batch of an epoch is filled from the next.

    Args:
        pairs: int64[M, 2], rows of partners.
        batch: B, pairs a step.
        seed: of the order.
    """

    def __init__(self, pairs: Rows, batch: int, seed: int) -> None:
        if len(pairs) == 0:
            raise ValueError("no pairs to train on")
        self.pairs = pairs
        self.batch = batch
        self.seed = seed
        codes = pairs[:, 0] * (int(pairs.max()) + 1) + pairs[:, 1]
        self._base = int(pairs.max()) + 1
        self._known = np.unique(np.concatenate([codes, pairs[:, 1] * self._base + pairs[:, 0]]))

    def step(self, step: int) -> Rows:
        """int64[2B] rows of step `step` (from 0): partners lie side by side."""
        positions = np.arange(step * self.batch, (step + 1) * self.batch)
        epochs = positions // len(self.pairs)
        chosen = np.empty(self.batch, np.int64)
        for epoch in np.unique(epochs):
            order = np.random.default_rng([self.seed, int(epoch)]).permutation(len(self.pairs))
            here = epochs == epoch
            chosen[here] = order[positions[here] % len(self.pairs)]
        return self.pairs[chosen].reshape(-1)

    def not_negatives(self, rows: Rows, *, known_positives: bool) -> NDArray[np.bool_]:
        """bool[2B, 2B]: the same note drawn twice and, if asked, known partners of the row's note."""
        masked: NDArray[np.bool_] = rows[:, None] == rows[None, :]
        if known_positives:
            codes = rows[:, None] * self._base + rows[None, :]
            nearest = np.searchsorted(self._known, codes).clip(max=len(self._known) - 1)
            masked |= self._known[nearest] == codes
        return masked
