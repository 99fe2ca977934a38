"""One optimiser step: embed the notes of a batch, compare all of them, send the gradient back.

The loss needs every embedding of the batch at once, the network does not: between the two stands a matrix of
embeddings as a leaf of its own. The loss gives its gradient; then that gradient goes back through the network,

- at once, where the chunks' graphs were kept (`grad_cache` off), or
- chunk by chunk, each embedded a second time with the same dropout (GradCache, arXiv 2101.06983): memory is that of one
  chunk and of a block of the similarity matrix, whatever the number of pairs, for about a third more time.

Both give the gradient of the full batch; several processes share the chunks between them
(`notellm2.training.process_group`).

Shape suffixes: U distinct notes of a batch, C its columns (2B rows of pairs), R rows of a block, V rows with
images, D embedding width.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from notellm2.model.network.fitted_start import mean_cosine
from notellm2.model.network.loss import matryoshka_loss, spread
from notellm2.model.network.note_source import Flags, NoteSource, Rows
from notellm2.model.network.notellm2 import Embeddings, NoteLLM2
from notellm2.recipe import TrainingConfig
from notellm2.training.batches import NotNegatives, PairOrder, pictured_pairs, withheld_images
from notellm2.training.generation_task import GenerationTask
from notellm2.training.gradients import clip, gradient_norms, sum_gradients
from notellm2.training.hard_negatives import HardNegatives
from notellm2.training.precision import precision
from notellm2.training.process_group import ALONE, Team
from notellm2.training.sharding import is_sharded

_BLOCK = 256
"""Rows of the similarity matrix computed at once; of 64 to 1,024 for 2,048 rows the fastest by a little."""


@dataclass(frozen=True)
class _Random:
    """State of torch's generators, so that dropout can be drawn again."""

    cpu: Tensor
    cuda: Tensor | None

    @classmethod
    def now(cls, device: torch.device) -> _Random:
        return cls(torch.get_rng_state(), torch.cuda.get_rng_state(device) if device.type == "cuda" else None)

    def restore(self, device: torch.device) -> None:
        torch.set_rng_state(self.cpu)
        if self.cuda is not None:
            torch.cuda.set_rng_state(self.cuda, device)


class BatchEmbedding:
    """Embed the distinct notes of a batch once each, and send their gradient back.

    Args:
        network: in the mode it trains in.
        source: its notes.
        rows: int64[C], rows of the batch's notes; a note may come more than once.
        config: chunks, precision, and whether graphs are kept.
        team: shares the chunks; every process ends with all embeddings.
        imageless: bool[U] of the distinct rows, in their order, whose image is withheld; None: no row's.

    Attributes:
        multimodal_CD: float32[C, D] outputs of the head, a leaf that gathers gradients.
        visual_CD: the same for the visual embeddings, or None.
        padding_share: of this process's tokens.
    """

    def __init__(
        self,
        network: NoteLLM2,
        source: NoteSource,
        rows: Rows,
        config: TrainingConfig,
        team: Team = ALONE,
        imageless: Flags | None = None,
    ) -> None:
        self._imageless = imageless
        self._network, self._source, self._config, self._team = network, source, config, team
        self._device = network.head.weight.device
        self._distinct, back = np.unique(rows, return_inverse=True)
        self._back = torch.from_numpy(back).to(self._device)
        self._chunks = self._share()
        self._kept: list[Embeddings] = []
        self._random: list[_Random] = []
        self._real = self._total = 0
        for positions in self._chunks:
            self._random.append(_Random.now(self._device))
            with torch.set_grad_enabled(not config.grad_cache):
                self._kept.append(self._embed(positions))
        self.padding_share = 1 - self._real / self._total if self._total else 0.0
        self.multimodal_CD = self._leaf([chunk.multimodal_BD for chunk in self._kept])
        visual = [chunk.visual_BD for chunk in self._kept if chunk.visual_BD is not None]
        self.visual_CD = self._leaf(visual) if network.image_word is not None else None
        if config.grad_cache:
            self._kept = []

    def backward(self) -> None:
        """Send the gradients of the leaves into the weights of this process's share."""
        gradients = self._gradient(self.multimodal_CD), self._gradient(self.visual_CD)
        if self._kept:
            for positions, chunk in zip(self._chunks, self._kept, strict=True):
                _send(chunk, positions, *gradients)
            return
        after = _Random.now(self._device)
        for positions, random in zip(self._chunks, self._random, strict=True):
            random.restore(self._device)
            _send(self._embed(positions), positions, *gradients)
        after.restore(self._device)

    def _share(self) -> list[Rows]:
        """This process's chunks, as positions among the distinct notes: of like length within a chunk and a round.

        Where weights are sharded every process has as many, and the last one may be empty.
        """
        order = np.argsort(self._source.texts.lengths[self._distinct], kind="stable")
        rounds = max(1, -(-len(order) // (self._config.chunk_notes * self._team.size)))
        chunks = np.array_split(order, rounds * self._team.size)[self._team.rank :: self._team.size]
        return [chunk for chunk in chunks if len(chunk) or is_sharded(self._network)]

    def _embed(self, positions: Rows) -> Embeddings:
        if not len(positions):
            # The others need this process's slices of the weights: it computes along, and has nothing to say.
            spare = self._embed(np.arange(1))
            return Embeddings(spare.multimodal_BD[:0], None if spare.visual_BD is None else spare.visual_BD[:0])
        imageless = None if self._imageless is None else self._imageless[positions]
        batch = self._source.batch(self._distinct[positions], imageless=imageless)
        _forget_pages(self._source.vision)
        self._real += int(batch.last_B.sum()) + len(positions)
        self._total += batch.tokens_BL.numel()
        with precision(self._config, self._device):
            hidden = self._network.hidden(batch.to(self._device))
        # The head is float32 in any precision: what differs between outputs may be a small part of them.
        return self._network.embed(hidden, bare=True)

    def _leaf(self, chunks: list[Tensor]) -> Tensor:
        x_UD = torch.zeros(len(self._distinct), self._network.head.out_features, device=self._device)
        with torch.no_grad():
            for positions, chunk in zip(self._chunks, chunks, strict=True):
                x_UD[torch.from_numpy(positions)] = chunk.float()
        self._team.sum_([x_UD])
        return x_UD[self._back].requires_grad_()

    def _gradient(self, leaf_CD: Tensor | None) -> Tensor | None:
        """[U, D] for a leaf's [C, D]: a note's gradient is the sum over its rows; None where nothing came."""
        if leaf_CD is None or leaf_CD.grad is None:
            return None
        total = leaf_CD.new_zeros(len(self._distinct), leaf_CD.shape[1])
        return total.index_add_(0, self._back, leaf_CD.grad)


@dataclass(frozen=True)
class StepContext:
    """All that the steps of one training share.

    Attributes:
        network: in the mode it trains in.
        source: its notes.
        order: draws the pairs of a step and knows the partners.
        optimiser: of the network's trained weights.
        config: loss, chunks, precision.
        team: the processes that share each batch.
        hard: hard negatives of the pairs' notes, or None.
        generation: the generative task beside the contrastive one, or None.
    """

    network: NoteLLM2
    source: NoteSource
    order: PairOrder
    optimiser: torch.optim.Optimizer
    config: TrainingConfig
    team: Team = ALONE
    hard: HardNegatives | None = None
    generation: GenerationTask | None = None


def take_step(context: StepContext, step: int) -> dict[str, float]:
    """Take one optimiser step, number `step` (from 0); returns its figures.

    Hard negatives are compared with, beside the notes of the pairs, but are nobody's partners; the visual loss does
    without them: they were near by all that the model reads, not by their images.

    Raises:
        FloatingPointError: the gradient is not finite.
    """
    network, config, team = context.network, context.config, context.team
    rows = context.order.step(step)
    columns = rows
    if context.hard is not None:
        columns = np.concatenate([rows, context.hard.draw(rows[::2], config.hard_negatives, config.seed, step)])
    context.optimiser.zero_grad(set_to_none=True)
    imageless = withheld_images(len(np.unique(columns)), config.image_dropout, config.seed, step)
    embedded = BatchEmbedding(network, context.source, columns, config, team, imageless)
    losses = _batch_losses(context, rows, columns, embedded, imageless)
    embedded.backward()
    if context.generation is not None:
        losses["loss_generation"] = context.generation.backward(network, rows, step, config, team)
    parameters = [p for group in context.optimiser.param_groups for p in group["params"]]
    sum_gradients(network, parameters, team)
    norms = gradient_norms(network, team)
    norm = clip(parameters, config.clip_norm, norms)
    if not math.isfinite(norm):
        raise FloatingPointError(f"step {step + 1}: the gradient is not finite; lower training.lr or use fp32")
    context.optimiser.step()
    y_CD = embedded.multimodal_CD.detach()
    return {
        **losses,
        # Before the batch is centred, when it is -1 / (C - 1): how far outputs have moved together.
        "mean_cosine": mean_cosine(spread(y_CD, centre=False)[: len(rows)]),
        "effective_rank": _effective_rank(spread(y_CD, centre=network.centred)[: len(rows)]),
        "log_scale": float(network.log_scale.detach()),
        "gradient_norm": norm,
        **norms,
        "padding_share": embedded.padding_share,
    }


def _batch_losses(
    context: StepContext, rows: Rows, columns: Rows, embedded: BatchEmbedding, imageless: Flags | None
) -> dict[str, float]:
    """Compute the losses of a batch and leave their gradient in its embeddings and in the logit scale.

    Args:
        context: what the step works with.
        rows: int64[2B], the pairs.
        columns: int64[C], `rows` and what else they are compared with.
        embedded: of `columns`.
        imageless: of their distinct notes, whose image was withheld.

    Returns:
        Loss and chance, the whole loss and by embedding.
    """
    network, order, config = context.network, context.order, context.config
    # All notes without an image have one visual embedding: they would be partners of nobody and of everybody.
    of_pairs = None if imageless is None else imageless[np.searchsorted(np.unique(columns), np.unique(rows))]
    seen = pictured_pairs(rows, context.source.has_image, of_pairs)
    shares = {"multimodal": 1.0}
    if embedded.visual_CD is not None and config.weight_visual > 0 and seen.sum() > 2:
        both = config.weight_multimodal + config.weight_visual
        shares = {"multimodal": config.weight_multimodal / both, "visual": config.weight_visual / both}
    others = order.excluded(columns, known_positives=config.mask_positives)
    rule = Comparison(network.log_scale, network.matryoshka, network.centred)
    losses = {"multimodal": compare(embedded.multimodal_CD, others, rule, shares["multimodal"], len(rows))}
    chances = {"multimodal": others.chance(len(rows))}
    if "visual" in shares and embedded.visual_CD is not None:
        shown = torch.from_numpy(seen).to(embedded.visual_CD.device)
        visual_VD = embedded.visual_CD.detach()[: len(rows)][shown].requires_grad_()
        others = order.excluded(rows[seen], known_positives=config.mask_positives)
        losses["visual"] = compare(visual_VD, others, rule, shares["visual"])
        chances["visual"] = others.chance()
        embedded.visual_CD.grad = torch.zeros_like(embedded.visual_CD)
        embedded.visual_CD.grad[: len(rows)][shown] = cast(Tensor, visual_VD.grad)
    return {
        "loss": sum(shares[name] * loss for name, loss in losses.items()),
        "chance": sum(shares[name] * chance for name, chance in chances.items()),
        **{f"loss_{name}": loss for name, loss in losses.items()},
    }


@dataclass(frozen=True)
class Comparison:
    """How the embeddings of a batch are compared.

    Attributes:
        log_scale: τ, which gathers its gradient.
        widths: of prefixes that are compared beside the whole (`matryoshka_loss`).
        centre: whether the batch's mean is subtracted first (`spread`).
    """

    log_scale: Tensor
    widths: tuple[int, ...] = ()
    centre: bool = False


def compare(
    y_CD: Tensor, others: NotNegatives, rule: Comparison, share: float = 1.0, judged: int | None = None
) -> float:
    """Compute the pair loss of a batch, a block of rows at a time: the similarity matrix is never whole in memory.

    Args:
        y_CD: outputs of the head, of which `spread` makes embeddings; the loss's gradient, times `share`, is added to
            theirs and to the scale's.
        others: entries that are no negatives.
        rule: scale, widths, centring.
        share: weight of this loss in the whole.
        judged: the first rows, which have partners; the others are compared with. None: all have.
    """
    total = 0.0
    judged = len(y_CD) if judged is None else judged
    spread_CD = spread(y_CD, centre=rule.centre)
    x_CD = spread_CD.detach().requires_grad_()
    for rows in _blocks(judged):
        mask = torch.from_numpy(others.block(rows)).to(x_CD.device)
        loss = matryoshka_loss(x_CD, rule.log_scale, rule.widths, mask, rows) * ((rows.stop - rows.start) / judged)
        (loss * share).backward()
        total += float(loss.detach())
    spread_CD.backward(x_CD.grad)
    return total


def _blocks(rows: int) -> Iterator[slice]:
    # An even number: partners lie side by side.
    for first in range(0, rows, _BLOCK):
        yield slice(first, min(first + _BLOCK, rows))


def _forget_pages(vision: NDArray[np.float16] | None) -> None:
    """Let a memory-mapped file's pages, copied by now, count as the system's and not as ours; they stay cached."""
    mapped = getattr(vision, "_mmap", None)
    if mapped is not None:
        mapped.madvise(mmap.MADV_DONTNEED)


def _send(chunk: Embeddings, positions: Rows, multimodal_UD: Tensor | None, visual_UD: Tensor | None) -> None:
    at = torch.from_numpy(positions)
    ends = [(chunk.multimodal_BD, multimodal_UD), (chunk.visual_BD, visual_UD)]
    known = [(end, gradient[at]) for end, gradient in ends if end is not None and gradient is not None]
    torch.autograd.backward([end for end, _ in known], [gradient.to(end.dtype) for end, gradient in known])


def _effective_rank(x_BD: Tensor) -> float:
    """Exponential of the entropy of the normalised squared singular values (Roy & Vetterli's measure)."""
    values = torch.linalg.svdvals(x_BD.detach().float().cpu()).square()
    shares = values / values.sum()
    return float(torch.exp(-(shares * shares.clamp(min=1e-12).log()).sum()))
