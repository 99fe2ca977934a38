"""Causal attention over many short texts on a CPU, where torch's own kernel has the wrong shape.

torch's CPU kernel multiplies one head of one note at a time. With heads of 8 numbers (a small LLM) almost nothing of
such a product is arithmetic, and with heads of 64 a text of 200 tokens still computes nearly all of the upper triangle.
Here the scores of a few notes at a time are one batched product in a buffer that stays in the cache, a block of
queries meets only the keys it may see, and products with eight columns are computed transposed, as products with eight
*rows* (three times faster in MKL). The backward pass computes the scores again, so memory stays linear in the length.

Measured against ``scaled_dot_product_attention``, one thread, forward and backward, milliseconds a note (8 heads of
8, 208 tokens): 0.9 against 1.7; 14 heads of 64, 180 tokens: 3.7 against 4.8; 4 heads of 16 or 32: no faster. Hence
`_pays`.

An embedding model reads two tokens of the last layer, so that layer need not attend from the others
(`notellm2.model.network.reading`): one layer's attention out of all is saved whatever the kernel, one in five for a
small LLM.

Shape suffixes: B notes, N heads, K key heads, G query heads a key head, L tokens, D head width; S notes of a slab, P
positions that are read.
"""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor, nn

from notellm2.model.network.reading import read_positions

NAME = "notellm2_short_texts"
_BUFFER = 1 << 19
"""Scores in one buffer (2 MiB): of the sizes tried, 1/4 to 4 times this, the fastest by a little."""
_NOT_PLAIN = ("position_bias", "softcap", "s_aux")
"""What some architectures add to the scores; torch's attention, or an error of transformers, is right for them."""
_BLOCK = 32
"""Fewest queries of a block."""


def attend_fast(llm: nn.Module) -> nn.Module:
    """Let an LLM use this attention where it is faster; everywhere else it keeps torch's. Returns the LLM."""
    from transformers import AttentionInterface, PreTrainedModel
    from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

    if isinstance(llm, PreTrainedModel) and llm.config._attn_implementation == "sdpa":
        AttentionInterface.register(NAME, attention_forward)
        AttentionMaskInterface.register(NAME, sdpa_mask)
        llm.set_attn_implementation(NAME)
    return llm


def attention_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Attend as transformers' attention functions do: [B, N, L, D], [B, K, L, D] twice -> [B, L, N, D].

    Of the options `scaling`, `dropout` and `is_causal` count; anything else that changes the scores leaves the work to
    torch's attention.
    """
    causal = options.get("is_causal")
    causal = bool(getattr(module, "is_causal", True)) if causal is None else causal
    plain = attention_mask is None and causal and not options.get("dropout")
    plain &= all(options.get(name) is None for name in _NOT_PLAIN)
    scale = options.get("scaling") or query.shape[-1] ** -0.5
    read_BP = read_positions()
    if plain and read_BP is not None and _is_last(module) and query.shape[2] == key.shape[2]:
        return _attend_at(read_BP, query, key, value, scale), None
    if not (plain and _pays(query, key, value)):
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    attended: Tensor = _ShortTexts.apply(query, key, value, scale)  # type: ignore[no-untyped-call]
    return attended.transpose(1, 2), None


def _is_last(module: nn.Module) -> bool:
    layers = getattr(getattr(module, "config", None), "num_hidden_layers", None)
    return layers is not None and getattr(module, "layer_idx", None) == layers - 1


def _attend_at(read_BP: Tensor, q_BNLD: Tensor, k_BKLD: Tensor, v_BKLD: Tensor, scale: float) -> Tensor:
    """Causal attention from a few positions; [B, L, N, D], zeros everywhere else."""
    B, N, L, D = q_BNLD.shape
    K, P = k_BKLD.shape[1], read_BP.shape[1]
    index_BNPD = read_BP[:, None, :, None].expand(B, N, P, D)
    q_BKRD = (q_BNLD.gather(2, index_BNPD) * scale).view(B, K, N // K * P, D)
    s_BNPL = (q_BKRD @ k_BKLD.mT).view(B, N, P, L)
    ahead_BPL = torch.arange(L, device=q_BNLD.device) > read_BP[:, :, None]
    p_BNPL = s_BNPL.masked_fill(ahead_BPL[:, None], -torch.inf).softmax(-1, dtype=torch.float32).to(v_BKLD.dtype)
    o_BNPE = (p_BNPL.view(B, K, N // K * P, L) @ v_BKLD).view(B, N, P, -1)
    out_BLNE = o_BNPE.new_zeros(B, L, N, o_BNPE.shape[3])
    rows_BPNE = read_BP[:, :, None, None].expand(B, P, N, o_BNPE.shape[3])
    return out_BLNE.scatter(1, rows_BPNE, o_BNPE.transpose(1, 2))


def _pays(query: Tensor, key: Tensor, value: Tensor) -> bool:
    width, length = query.shape[-1], query.shape[2]
    return (
        query.device.type == "cpu"
        and query.dtype == key.dtype == value.dtype == torch.float32
        and length == key.shape[2]
        and 2 * _BLOCK <= length <= 1024
        and width == value.shape[-1]
        and (width <= 8 or width >= 64)
    )


class _ShortTexts(torch.autograd.Function):
    """Softmax(q kᵀ · scale) v with a causal mask, slab by slab; its gradient from the scores computed again."""

    @staticmethod
    def forward(ctx: Any, q_BNLD: Tensor, k_BKLD: Tensor, v_BKLD: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(q_BNLD, k_BKLD, v_BKLD)
        ctx.scale = scale
        B, N, L, D = q_BNLD.shape
        out_BLND = q_BNLD.new_empty(B, L, N, D)
        slabs = _Slabs(q_BNLD, k_BKLD, buffers=2)
        for notes in slabs.notes:
            k_TLD, v_TLD = slabs.keys(k_BKLD[notes]), slabs.keys(v_BKLD[notes])
            for first, last in slabs.blocks:
                q_TRD = slabs.queries(q_BNLD[notes, :, first:last])
                p_TRL, _ = slabs.shares(q_TRD * scale, k_TLD[:, :last], first)
                # Transposed: D rows, not D columns.
                o_TDR = torch.bmm(v_TLD[:, :last].mT, p_TRL.mT)
                out_BLND[notes, first:last] = slabs.by_head(o_TDR, last - first).transpose(1, 2)
        return out_BLND.transpose(1, 2)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        q_BNLD, k_BKLD, v_BKLD = ctx.saved_tensors
        (g_BNLD,) = gradients
        slabs = _Slabs(q_BNLD, k_BKLD, buffers=3)
        dq_BNLD = torch.empty_like(q_BNLD)
        B, K, L, D = k_BKLD.shape
        dk_BKDL, dv_BKDL = q_BNLD.new_zeros(2, B, K, D, L)
        for notes in slabs.notes:
            k_TLD, v_TLD = slabs.keys(k_BKLD[notes]), slabs.keys(v_BKLD[notes])
            dk_TDL, dv_TDL = dk_BKDL[notes].flatten(0, 1), dv_BKDL[notes].flatten(0, 1)
            for first, last in slabs.blocks:
                q_TRD = slabs.queries(q_BNLD[notes, :, first:last]) * ctx.scale
                g_TRD = slabs.queries(g_BNLD[notes, :, first:last])
                p_TRL, spare_TRL = slabs.shares(q_TRD, k_TLD[:, :last], first)
                dp_TRL = torch.bmm(g_TRD, v_TLD[:, :last].mT, out=slabs.buffer(2, p_TRL.shape))
                dv_TDL[..., :last].baddbmm_(g_TRD.mT, p_TRL)
                ds_TRL = torch._softmax_backward_data(dp_TRL, p_TRL, -1, p_TRL.dtype, grad_input=spare_TRL)
                dk_TDL[..., :last].baddbmm_(q_TRD.mT, ds_TRL)
                dq_TDR = torch.bmm(k_TLD[:, :last].mT, ds_TRL.mT).mul_(ctx.scale)
                dq_BNLD[notes, :, first:last] = slabs.by_head(dq_TDR, last - first)
        return dq_BNLD, dk_BKDL.mT, dv_BKDL.mT, None


class _Slabs:
    """How a batch is cut: slabs of notes, blocks of queries, and the buffers the scores live in.

    T = S·K products of a slab, each with R = G·(queries of the block) rows.
    """

    def __init__(self, q_BNLD: Tensor, k_BKLD: Tensor, *, buffers: int) -> None:
        notes, heads, length, _ = q_BNLD.shape
        self._key_heads = k_BKLD.shape[1]
        count = min(4, max(1, length // _BLOCK))
        edges = [round(length * i / count) for i in range(count + 1)]
        self.blocks = list(itertools.pairwise(edges))
        largest = heads * length * max(last - first for first, last in self.blocks)
        size = min(notes, max(1, _BUFFER // largest))
        self.notes = [slice(first, min(first + size, notes)) for first in range(0, notes, size)]
        self._buffers = q_BNLD.new_empty(buffers, size * largest)
        self._ahead = torch.full((length, length), -torch.inf).triu(1)

    def keys(self, x_SKLD: Tensor) -> Tensor:
        """[S, K, L, D] -> [T, L, D]."""
        return x_SKLD.flatten(0, 1)

    def queries(self, x_SNLD: Tensor) -> Tensor:
        """[S, N, L, D] -> [T, R, D]: the query heads of a key head below each other."""
        S, N, L, D = x_SNLD.shape
        return x_SNLD.reshape(S * self._key_heads, N // self._key_heads * L, D)

    def by_head(self, x_TDR: Tensor, queries: int) -> Tensor:
        """[T, D, R] -> [S, N, L, D]."""
        x_TRD = x_TDR.mT
        x_SNLD: Tensor = x_TRD.unflatten(1, (-1, queries)).unflatten(0, (-1, self._key_heads)).flatten(1, 2)
        return x_SNLD

    def buffer(self, number: int, shape: torch.Size) -> Tensor:
        """One of the buffers, in a shape."""
        return self._buffers[number, : shape.numel()].view(shape)

    def shares(self, q_TRD: Tensor, k_TLD: Tensor, first: int) -> tuple[Tensor, Tensor]:
        """Compute the attention weights [T, R, L]; also returns a second buffer of that shape, free again."""
        shape = torch.Size((len(q_TRD), q_TRD.shape[1], k_TLD.shape[1]))
        s_TRL = torch.bmm(q_TRD, k_TLD.mT, out=self.buffer(0, shape))
        # Only a block's own keys can lie ahead of its queries.
        last = shape[2]
        s_TRL.unflatten(1, (-1, last - first))[..., first:].add_(self._ahead[first:last, first:last])
        return torch.softmax(s_TRL, -1, out=self.buffer(1, shape)), s_TRL
