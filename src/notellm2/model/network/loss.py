"""The contrastive loss over a batch of pairs (NoteLLM-2, arXiv 2405.16789; weights w_m : w_v = 9 : 1)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional


def pair_loss(
    x_2BD: Tensor,
    log_scale: Tensor,
    mask_22: Tensor | None = None,
    rows: slice | None = None,
    offset_2B: Tensor | None = None,
) -> Tensor:
    """Compute the cross-entropy of each embedding's partner among all others.

    Rows 2i and 2i+1 of `x_2BD` are partners. logits = x·xᵀ·exp(τ), self-similarity masked.

    Args:
        x_2BD: [2B, D], L2-normalised.
        log_scale: τ, scalar.
        mask_22: bool[2B, 2B] of entries that are no negatives (the same note again, a known positive); partners
            are never masked. None: mask only the diagonal.
        rows: those of `x_2BD` to judge, with the mask's rows for them alone; None: all.
        offset_2B: added to the logits of each column, such as what corrects for how often its note is drawn (logQ).

    Returns:
        Scalar; `chance_loss` when all embeddings are alike.
    """
    index = torch.arange(len(x_2BD), device=x_2BD.device)
    judged = x_2BD
    if rows is not None:
        index, judged = index[rows], x_2BD[rows]
    none = torch.zeros(len(index), len(x_2BD), dtype=torch.bool, device=x_2BD.device)
    excluded = _excluded(none if mask_22 is None else mask_22, index)
    logits = (judged @ x_2BD.T).float() * log_scale.exp()
    if offset_2B is not None:
        logits = logits + offset_2B
    return functional.cross_entropy(logits.masked_fill(excluded, -math.inf), index ^ 1)


def spread(y_CD: Tensor, *, centre: bool) -> Tensor:
    """Subtract a batch's mean from the head's bare outputs and make them length 1, to be compared.

    A direction common to all notes tells none apart, yet where hidden states are nearly parallel it is most of them,
    and one optimiser step moves it further than what differs. Subtracted, it has no gradient and cannot take over.

    Args:
        y_CD: [C, D], outputs of the head for the notes of a batch.
        centre: whether the mean is subtracted, or the outputs are only made length 1 (the paper).
    """
    return functional.normalize(y_CD - y_CD.mean(0) if centre else y_CD, dim=-1)


def matryoshka_loss(
    x_2BD: Tensor,
    log_scale: Tensor,
    widths: Sequence[int],
    mask_22: Tensor | None = None,
    rows: slice | None = None,
) -> Tensor:
    """Average the pair loss of the embedding and of its prefixes, each made length 1 again (arXiv 2205.13147).

    Args:
        x_2BD: as in `pair_loss`.
        log_scale: τ, one for all widths.
        widths: of the prefixes; none: `pair_loss` alone.
        mask_22: as in `pair_loss`.
        rows: as in `pair_loss`.
    """
    prefixes = [functional.normalize(x_2BD[:, :width], dim=-1) for width in widths]
    return torch.stack([pair_loss(x, log_scale, mask_22, rows) for x in (*prefixes, x_2BD)]).mean()


def chance_loss(pairs: int, mask_22: Tensor | None = None) -> float:
    """Return the loss of embeddings that tell nothing apart: ln(2B - 1), less where a mask leaves fewer to compare."""
    if mask_22 is None:
        return math.log(2 * pairs - 1)
    index = torch.arange(len(mask_22), device=mask_22.device)
    return float((~_excluded(mask_22, index)).sum(1).double().log().mean())


def _excluded(mask_R2: Tensor, index_R: Tensor) -> Tensor:
    """The mask of some rows with the diagonal added and partners removed."""
    rows = torch.arange(len(mask_R2), device=mask_R2.device)
    excluded = mask_R2.clone()
    excluded[rows, index_R] = True
    excluded[rows, index_R ^ 1] = False
    return excluded
