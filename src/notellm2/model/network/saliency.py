"""Saliency by layer: which tokens the compression position depends on (NoteLLM-2, section 2.5; Wang et al. 2023).

For each layer I = |sum over heads of A * dL/dA|, A the attention and L the contrastive loss: how much the loss would
move with each attention weight. Reported is the mean of I over the weights by which the compression position (the last
token) attends to visual tokens, to the note's own text, and to the rest of the prompt. Beside it stands the measure as
the authors' released code groups it: the image's whole clause counts as visual where mICL closes it with a word of its
own, every other token that the compression position attends to as text, and what flows between other positions as the
rest. A token's flow to itself is left out.

It is a hook on the one model: transformers' attention is replaced, for the length of the measurement, by one that
computes the same and keeps its weights. Nothing is copied, nothing stays changed.

Shape suffixes: B notes, N heads, K key heads, L tokens, D head width.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from notellm2.model.network.loss import pair_loss
from notellm2.model.network.note_source import NoteSource, Rows
from notellm2.model.network.notellm2 import NoteBatch, NoteLLM2
from notellm2.model.network.prompt import Layout

_NAME = "notellm2_recorded"
_PAIRS = 8
"""Pairs measured at once: each layer's weights of all their tokens are in memory."""


@dataclass(frozen=True)
class Flow:
    """Mean flow into the compression position of one layer, a token: from visual tokens, from text, from the rest.

    0 where the prompt or the notes have no such tokens. The `released` ones are grouped as in the authors' code.
    """

    visual: float
    text: float
    rest: float
    released_visual: float
    released_text: float
    released_rest: float


def saliency(network: NoteLLM2, source: NoteSource, pairs: Rows) -> list[Flow]:
    """Measure the flow of each layer, from the first; empty for a model without LLM.

    Args:
        network: adapters merged or not; its mode, gradients and attention are left as they were.
        source: all notes.
        pairs: int64[P, 2], rows of pairs, at least two; their notes are each other's negatives, eight pairs at a time.

    Raises:
        ValueError: fewer than two pairs, or an LLM whose attention transformers does not let us replace.
    """
    if network.llm is None:
        return []
    if len(pairs) < 2:
        raise ValueError(f"saliency needs at least two pairs, got {len(pairs)}")
    flows: list[Tensor] = []
    for some in np.array_split(pairs, -(-len(pairs) // _PAIRS)):
        batch = source.batch(some.reshape(-1)).to(network.head.weight.device)
        weights = _weights(network, batch)
        flows.append(torch.stack([_flow(weight, batch, network.layout) for weight in weights]) * len(some))
    layers = torch.stack(flows).sum(0) / len(pairs)
    return [Flow(*(float(value) for value in layer)) for layer in layers]


def _weights(network: NoteLLM2, batch: NoteBatch) -> list[Tensor]:
    """Attention weights [B, N, L, L] of each layer, their gradients of the loss in `grad`."""
    training = network.training
    network.eval()
    with _recording(cast(nn.Module, network.llm)) as kept, torch.enable_grad():
        loss = pair_loss(network(batch).multimodal_BD, network.log_scale)
        if not kept:
            raise ValueError(f"the attention of {type(network.llm).__name__} cannot be recorded")
        # Of the weights alone: the parameters' own gradients, if any, stay as they are.
        gradients = torch.autograd.grad(loss, kept)
    network.train(training)
    for weight, gradient in zip(kept, gradients, strict=True):
        weight.grad = gradient
    return kept


def _flow(weights_BNLL: Tensor, batch: NoteBatch, layout: Layout) -> Tensor:
    """[6]: mean importance a token of each group of `Flow`, in its order."""
    importance_BLL = (weights_BNLL.detach() * cast(Tensor, weights_BNLL.grad)).sum(1).abs()
    notes = torch.arange(len(importance_BLL), device=importance_BLL.device)
    into_BL = importance_BLL[notes, batch.last_B]
    position_L = torch.arange(into_BL.shape[1], device=into_BL.device)
    visual_L = torch.zeros_like(position_L, dtype=torch.bool)
    visual_L[torch.from_numpy(layout.visual_slots).to(position_L.device)] = True
    text_BL = (position_L >= len(layout.head)) & (position_L <= batch.last_B[:, None] - len(layout.tail))
    seen_BL = position_L <= batch.last_B[:, None]
    groups = (visual_L & seen_BL, text_BL, seen_BL & ~visual_L & ~text_BL)
    ours = [_mean(into_BL, group_BL) for group_BL in groups]
    return torch.stack([*ours, *_released(importance_BLL, into_BL, batch, visual_L, layout)]).cpu()


def _released(
    importance_BLL: Tensor, into_BL: Tensor, batch: NoteBatch, visual_L: Tensor, layout: Layout
) -> list[Tensor]:
    """Means of the three groups as the released code has them."""
    position_L = torch.arange(into_BL.shape[1], device=into_BL.device)
    clause_L = visual_L
    if layout.visual_position is not None and visual_L.any():
        clause_L = (position_L >= visual_L.nonzero()[0]) & (position_L <= layout.visual_position + 1)
    before_BL = position_L < batch.last_B[:, None]
    # What flows from j into i, i after j and other than the compression position.
    other_BLL = (position_L[:, None] > position_L) & (position_L[:, None] < batch.last_B[:, None, None])
    rest = _mean(importance_BLL.flatten(1), other_BLL.flatten(1))
    return [_mean(into_BL, before_BL & clause_L), _mean(into_BL, before_BL & ~clause_L), rest]


def _mean(values_BX: Tensor, group_BX: Tensor) -> Tensor:
    """Mean over notes of the mean over each note's group; 0 where no note has such positions."""
    some_B = group_BX.any(1)
    means = (values_BX * group_BX).sum(1)[some_B] / group_BX.sum(1)[some_B]
    return means.mean() if len(means) else values_BX.new_zeros(())


@contextlib.contextmanager
def _recording(llm: nn.Module) -> Iterator[list[Tensor]]:
    """Let the LLM's attention keep its weights, layer by layer, in the list this yields."""
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface, eager_mask

    kept: list[Tensor] = []

    def attend(
        _module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        scaling: float | None = None,
        **_options: Any,
    ) -> tuple[Tensor, None]:
        groups = query.shape[1] // key.shape[1]
        k_BNLD, v_BNLD = (x.repeat_interleave(groups, dim=1) for x in (key, value))
        scores = query @ k_BNLD.mT * (query.shape[-1] ** -0.5 if scaling is None else scaling)
        if attention_mask is not None:
            scores = scores + attention_mask[..., : k_BNLD.shape[2]]
        weights = scores.softmax(-1, dtype=torch.float32)
        if not weights.requires_grad:
            weights.requires_grad_()
        kept.append(weights)
        return (weights.to(v_BNLD.dtype) @ v_BNLD).transpose(1, 2), None

    model: Any = llm
    before = model.config._attn_implementation
    AttentionInterface.register(_NAME, attend)
    AttentionMaskInterface.register(_NAME, eager_mask)
    model.set_attn_implementation(_NAME)
    try:
        yield kept
    finally:
        model.set_attn_implementation(before)
