"""Notes as rows that the network can read: token texts and frozen vision features, cut into chunks of like length."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from notellm2.model.network.notellm2 import Hidden, NoteBatch, NoteLLM2, assemble
from notellm2.model.network.prompt import EncodedTexts, Layout

Modality = Literal["both", "text", "image"]
Rows = NDArray[np.int64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class NoteSource:
    """All notes of a data set, by row.

    Attributes:
        layout: the prompt's fixed tokens.
        texts: N token texts.
        vision: float16[N, P, V] (may be memory-mapped), zeros for notes without image; None: no image is read.
        images: int64[N], the row whose image each note shows (`shuffled_images`); None: its own.
    """

    layout: Layout
    texts: EncodedTexts
    vision: NDArray[np.float16] | None
    images: Rows | None = None

    @cached_property
    def has_image(self) -> Flags:
        """bool[N]: notes with vision features."""
        if self.vision is None:
            return np.zeros(len(self.texts), np.bool_)
        return np.asarray(self.vision[:, 0].any(1))

    def batch(self, rows: Rows, modality: Modality = "both", imageless: Flags | None = None) -> NoteBatch:
        """Make one batch of the rows; `modality` withholds the image (zero features) or the text (no tokens) of all.

        `imageless` bool[len(rows)] withholds the image of single rows.
        """
        texts = [self.texts.text(int(row)) if modality != "image" else self.texts.tokens[:0] for row in rows]
        vision = None
        if self.vision is not None:
            # Withheld and missing images look the same to the network: zero features.
            width = (len(rows), *self.vision.shape[1:])
            shown = rows if self.images is None else self.images[rows]
            features = np.zeros(width, np.float32) if modality == "text" else self.vision[shown].astype(np.float32)
            if imageless is not None:
                features[imageless] = 0
            vision = torch.from_numpy(features)
        return assemble(self.layout, texts, vision)

    def chunks(self, rows: Rows, size: int, modality: Modality = "both") -> Iterator[tuple[Rows, NoteBatch]]:
        """Cut the rows into chunks of about `size` notes of like length: (positions in `rows`, batch).

        Sorting by length inside a batch, and not between batches, keeps every batch a random sample of pairs while
        little is spent on padding (share measured as `padding_share`).
        """
        order = np.argsort(self.texts.lengths[rows], kind="stable")
        for positions in np.array_split(order, max(1, -(-len(order) // size))):
            yield positions, self.batch(rows[positions], modality)


def shuffled_images(has_image: NDArray[np.bool_], seed: int = 0) -> Rows:
    """Give each note another note's image: int64[N], the row whose image it shows.

    What an image says of its own note is lost. One cycle through all notes with an image (bool[N]), in an order drawn
    by `seed`: none keeps its own, unless it is the only one. A note without image stays without.
    """
    images = np.arange(len(has_image))
    order = np.random.default_rng(seed).permutation(np.flatnonzero(has_image))
    images[order] = np.roll(order, 1)
    return images


def hidden_rows(network: NoteLLM2, source: NoteSource, rows: Rows, *, size: int, modality: Modality = "both") -> Hidden:
    """Compute the hidden states of many notes without gradients: on the CPU, in the order of `rows`."""
    multimodal: list[Tensor] = []
    visual: list[Tensor] = []
    positions: list[Rows] = []
    with evaluating(network):
        for chunk, hidden in _hidden_chunks(network, source, rows, size, modality):
            positions.append(chunk)
            multimodal.append(hidden.multimodal_BH.float().cpu())
            if hidden.visual_BH is not None:
                visual.append(hidden.visual_BH.float().cpu())
    back = torch.from_numpy(np.argsort(np.concatenate(positions)))
    return Hidden(torch.cat(multimodal)[back], torch.cat(visual)[back] if visual else None)


def embed_rows(
    network: NoteLLM2, source: NoteSource, rows: Rows, *, size: int, modality: Modality = "both", bare: bool = False
) -> NDArray[np.float32]:
    """Compute multimodal embeddings of many notes: float32[len(rows), D], L2-normalised; only these stay in memory.

    With `bare` they are the head's outputs as they are (`NoteLLM2.embed`).
    """
    embedded = np.empty((len(rows), network.head.out_features), np.float32)
    for chunk, embeddings in embed_chunks(network, source, rows, size=size, modality=modality, bare=bare):
        embedded[chunk] = embeddings
    return embedded


def embed_chunks(
    network: NoteLLM2, source: NoteSource, rows: Rows, *, size: int, modality: Modality = "both", bare: bool = False
) -> Iterator[tuple[Rows, NDArray[np.float32]]]:
    """Embed many notes a chunk at a time, as `embed_rows`: (positions in `rows`, float32[chunk, D])."""
    with evaluating(network):
        for chunk, hidden in _hidden_chunks(network, source, rows, size, modality):
            embeddings = network.embed(replace(hidden, visual_BH=None), bare=bare)
            yield chunk, embeddings.multimodal_BD.cpu().numpy()


@contextlib.contextmanager
def evaluating(network: NoteLLM2) -> Iterator[None]:
    """Put the network into evaluation mode without gradients, and back into its mode at the end."""
    training = network.training
    network.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        network.train(training)


def _hidden_chunks(
    network: NoteLLM2, source: NoteSource, rows: Rows, size: int, modality: Modality
) -> Iterator[tuple[Rows, Hidden]]:
    """Run the network over the rows, chunk by chunk: (positions in `rows`, hidden states on the network's device)."""
    device = network.head.weight.device
    for chunk, batch in source.chunks(rows, size, modality):
        yield chunk, network.hidden(batch.to(device))
