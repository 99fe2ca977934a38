"""Hard negatives: notes that the published model thinks near a note, and that are not its partners.

Random negatives are soon easy. What the last model took for a note's neighbours, against the behaviour, is what the
next one has most to learn from. Only training notes are candidates: nothing of a held-out note may reach the training.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

import numpy as np
import pyarrow.parquet as pq

from notellm2.artifacts import Artifact
from notellm2.model.network.note_source import Flags, Rows
from notellm2.training.batches import PairOrder

KEPT = 32
"""Neighbours kept for each note; a step draws from them, at most all (`TrainingConfig.hard_negatives`)."""
_BLOCK = 512


class HardNegatives:
    """The hard negatives of notes.

    Args:
        notes: int64[Q], sorted rows of notes.
        negatives: int64[Q, K], rows of their hard negatives, nearest first; -1 where there are fewer.
    """

    def __init__(self, notes: Rows, negatives: Rows) -> None:
        self.notes = notes
        self.negatives = negatives

    @classmethod
    def mined(
        cls, vectors: Artifact, pairs: Artifact, row_of: Mapping[str, int], order: PairOrder, kept: int = KEPT
    ) -> HardNegatives:
        """Find each training note's nearest training notes that are no partners of it.

        Args:
            vectors: of an earlier model, of this or another data version: both.npy and note_ids.json.
            pairs: whose notes.parquet says which notes are training notes.
            row_of: rows of this data version.
            order: knows the partners.
            kept: K.
        """
        ids: list[str] = json.loads(vectors.file("note_ids.json").read_text())
        split = pq.read_table(pairs.file("notes.parquet"), columns=["note_id", "split"]).to_pydict()
        training = {i for i, name in zip(split["note_id"], split["split"], strict=True) if name == "train"}
        at = np.array([n for n, note_id in enumerate(ids) if note_id in training and note_id in row_of], np.int64)
        rows = np.array([row_of[ids[n]] for n in at], np.int64)
        by_row = np.argsort(rows)
        rows, x_ND = rows[by_row], np.load(vectors.file("both.npy"), mmap_mode="r")[at[by_row]]
        asked = np.flatnonzero(np.isin(rows, order.pairs))
        negatives = np.full((len(asked), kept), -1, np.int64)
        for first in range(0, len(asked), _BLOCK):
            block = asked[first : first + _BLOCK]
            scores = x_ND[block] @ x_ND.T
            scores[order.related(rows[block], rows)] = -np.inf
            nearest = np.argsort(-scores, axis=1, kind="stable")[:, :kept]
            real = np.isfinite(np.take_along_axis(scores, nearest, 1))
            negatives[first : first + len(block), : nearest.shape[1]] = np.where(real, rows[nearest], -1)
        return cls(rows[asked], negatives)

    def draw(self, notes: Rows, each: int, seed: int, step: int) -> Rows:
        """Draw hard negatives for the notes of a step, int64[≤ len(notes)·each], a function of (seed, step)."""
        if not len(self.notes):
            return self.notes
        rng = np.random.default_rng([seed, step, 5])
        place = np.searchsorted(self.notes, notes).clip(max=len(self.notes) - 1)
        known: Flags = self.notes[place] == notes
        of_note = self.negatives[place[known]]
        # A random order of each note's own; the padding comes last.
        keys = rng.random(of_note.shape) + (of_note < 0)
        drawn = np.take_along_axis(of_note, np.argsort(keys, axis=1)[:, :each], 1).reshape(-1)
        return drawn[drawn >= 0]
