"""Choose the pairs of a step, the images it withholds, and the entries of its similarity matrix that are no negatives.

Everything is a function of (seed, step): a resumed run needs no state but its step.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from notellm2.model.network.note_source import Flags, Rows


class PairOrder:
    """A random order of the pairs, another one each epoch; the last, short batch of an epoch is filled from the next.

    Args:
        pairs: int64[M, 2], rows of partners.
        batch: B, pairs a step.
        seed: of the order.
        related: int64[R, 2], rows that are no pair and no negatives of each other either; None: there are none.
    """

    def __init__(self, pairs: Rows, batch: int, seed: int, related: Rows | None = None) -> None:
        if len(pairs) == 0:
            raise ValueError("no pairs to train on")
        self.pairs = pairs
        self.batch = batch
        self.seed = seed
        known = pairs if related is None else np.concatenate([pairs, related])
        self._base = int(known.max()) + 1
        forth, back = known[:, 0] * self._base + known[:, 1], known[:, 1] * self._base + known[:, 0]
        # Sorted by the first note: the partners of a note lie side by side.
        self._known = np.unique(np.concatenate([forth, back]))

    def step(self, step: int) -> Rows:
        """Return the rows of step `step` (from 0), int64[2B]: partners lie side by side."""
        positions = np.arange(step * self.batch, (step + 1) * self.batch)
        epochs = positions // len(self.pairs)
        chosen = np.empty(self.batch, np.int64)
        for epoch in np.unique(epochs):
            order = np.random.default_rng([self.seed, int(epoch)]).permutation(len(self.pairs))
            here = epochs == epoch
            chosen[here] = order[positions[here] % len(self.pairs)]
        return self.pairs[chosen].reshape(-1)

    def excluded(self, rows: Rows, *, known_positives: bool) -> NotNegatives:
        """Find the entries of the similarity matrix of `rows`, int64[C], that are no negatives.

        They are the same note drawn twice and, if asked, known partners and related notes of the row's note.
        """
        distinct, back = np.unique(rows, return_inverse=True)
        if not known_positives:
            return NotNegatives(back, len(distinct), back[:0], back[:0])
        first = np.searchsorted(self._known, distinct * self._base)
        counts = np.searchsorted(self._known, (distinct + 1) * self._base) - first
        ends = np.cumsum(counts)
        each = np.repeat(np.arange(len(distinct)), counts)
        partners = self._known[np.arange(ends[-1]) + np.repeat(first - ends + counts, counts)] % self._base
        nearest = np.searchsorted(distinct, partners).clip(max=len(distinct) - 1)
        here = distinct[nearest] == partners
        return NotNegatives(back, len(distinct), each[here], nearest[here])

    def related(self, rows: Rows, columns: Rows) -> Flags:
        """Mark the same note, known partners and related ones, bool[R, C]."""
        codes = rows[:, None] * self._base + columns[None, :]
        nearest = np.searchsorted(self._known, codes).clip(max=len(self._known) - 1)
        # A note beyond every pair's has no code of its own, and no partners.
        known: Flags = (self._known[nearest] == codes) & (columns < self._base)[None, :]
        known |= rows[:, None] == columns[None, :]
        return known

    def not_negatives(self, rows: Rows, *, known_positives: bool) -> NDArray[np.bool_]:
        """Return the whole matrix of `excluded`, bool[C, C]."""
        return self.excluded(rows, known_positives=known_positives).block(slice(0, len(rows)))


class NotNegatives:
    """Entries of a batch's similarity matrix that are no negatives, kept by distinct note: their number is small.

    Args:
        back: int64[C], the distinct note of each row and column.
        notes: number U of distinct notes.
        first, second: int64[E], pairs of distinct notes that are partners, sorted by the first.
    """

    def __init__(self, back: Rows, notes: int, first: Rows, second: Rows) -> None:
        self._back = back
        self._notes = notes
        self._starts = np.searchsorted(first, np.arange(notes + 1))
        self._second = second

    def block(self, rows: slice) -> NDArray[np.bool_]:
        """Return some rows of the matrix, bool[R, C]; R·(U + C) bytes of memory."""
        notes = self._back[rows]
        by_note = np.zeros((len(notes), self._notes), np.bool_)
        by_note[np.arange(len(notes)), notes] = True
        counts = self._starts[notes + 1] - self._starts[notes]
        ends = np.cumsum(counts)
        entries = np.arange(ends[-1]) + np.repeat(self._starts[notes] - ends + counts, counts)
        by_note[np.repeat(np.arange(len(notes)), counts), self._second[entries]] = True
        return by_note[:, self._back]

    def chance(self, judged: int | None = None) -> float:
        """Compute the pair loss of embeddings that are all alike, nats: the mean log of the columns a row meets.

        Args:
            judged: the first rows, those of pairs; None: all.
        """
        rows = len(self._back) if judged is None else judged
        compared = np.empty(rows, np.int64)
        for first in range(0, rows, 1024):
            block = self.block(slice(first, min(first + 1024, rows)))
            index = np.arange(len(block))
            block[index, first + index] = True
            block[index, (first + index) ^ 1] = False
            compared[first : first + len(block)] = (~block).sum(1)
        return float(np.log(compared).mean())


def withheld_images(notes: int, share: float, seed: int, step: int) -> Flags | None:
    """Draw the notes whose image a step withholds: bool[notes] of its distinct notes; None: every image is shown.

    A network that sees every image with its text learns the training images by heart where the text would have
    said more; one that must do without some of them learns both.
    """
    if not share:
        return None
    return np.random.default_rng([seed, step, 4]).random(notes) < share


def pictured_pairs(rows: Rows, has_image: Flags, imageless: Flags | None) -> Flags:
    """Mark rows of the pairs of which both notes show their image, bool[2B].

    Args:
        rows: int64[2B], partners side by side.
        has_image: bool[N] of all notes.
        imageless: bool of the distinct notes of `rows`, in the order of their rows, as `withheld_images` gives it.
    """
    distinct, back = np.unique(rows, return_inverse=True)
    shown = has_image[distinct] if imageless is None else has_image[distinct] & ~imageless
    return np.repeat(shown[back].reshape(-1, 2).all(1), 2)
