"""The NoteLLM-2 network: causal LLM, connector, late fusion and head, as one module (arXiv 2405.16789).

The vision encoder is frozen and stays outside: the network takes its features, so they can be computed once.

Shape suffixes: B notes, P vision tokens (index 0 the summary, then patches), V vision width, L tokens, H LLM width,
D embedding width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from notellm2.errors import InputError
from notellm2.model.backbones.multimodal import grid_positions, reads_grids
from notellm2.model.network.connector import build_connector
from notellm2.model.network.fusion import LateFusion
from notellm2.model.network.prompt import IMAGE_WORD, Layout
from notellm2.model.network.reading import reading
from notellm2.model.network.shortcuts import Shortcuts

if TYPE_CHECKING:
    from notellm2.recipe import ModelConfig


@dataclass(frozen=True)
class NoteBatch:
    """Notes as the network reads them.

    Attributes:
        tokens_BL: int64[B, L], head + text + tail of each note, right-padded; slots hold negative marks.
        last_B: int64[B], position of the last real token.
        vision_BPV: float[B, P, V], frozen features; zeros for a note without image. None: no image anywhere.
    """

    tokens_BL: Tensor
    last_B: Tensor
    vision_BPV: Tensor | None

    def to(self, device: torch.device) -> NoteBatch:
        """Move the batch to another device."""
        vision = None if self.vision_BPV is None else self.vision_BPV.to(device, non_blocking=True)
        return NoteBatch(self.tokens_BL.to(device), self.last_B.to(device), vision)


@dataclass(frozen=True)
class Hidden:
    """What the head reads: the fused ñ_m [B, H] and, with mICL, the fused ñ_v [B, H].

    `beside_BD` is what the shortcuts add to the multimodal output of the head; None: nothing.
    """

    multimodal_BH: Tensor
    visual_BH: Tensor | None
    beside_BD: Tensor | None = None


@dataclass(frozen=True)
class Embeddings:
    """Embeddings, L2-normalised unless asked for bare: multimodal [B, D] and, with mICL, visual [B, D]."""

    multimodal_BD: Tensor
    visual_BD: Tensor | None


def assemble(layout: Layout, texts: Sequence[NDArray[np.int32]], vision_BPV: Tensor | None, pad: int = 0) -> NoteBatch:
    """Put texts between the prompt's head and tail, right-padded to the longest.

    Right padding with causal attention needs no attention mask: no real token ever sees a pad.
    """
    before, after = len(layout.head), len(layout.tail)
    lengths = np.array([before + len(text) + after for text in texts], np.int64)
    tokens = np.full((len(texts), int(lengths.max())), pad, np.int64)
    tokens[:, :before] = layout.head
    for row, text, length in zip(tokens, texts, lengths, strict=True):
        row[before : length - after] = text
        row[length - after : length] = layout.tail
    return NoteBatch(torch.from_numpy(tokens), torch.from_numpy(lengths - 1), vision_BPV)


class NoteLLM2(nn.Module):
    """Embeds notes; every variant of the paper is a configuration of this one module.

    Args:
        llm: the causal LLM without its language-model head, adapters included; None: the vision encoder alone.
        layout: the prompt's fixed tokens.
        config: variant, widths, start.
        vision_width: V; 0 when the variant reads no image.

    Attributes:
        matryoshka: widths below D at which a prefix of the embedding serves too.
        head: the linear map to D. Its bias, where `config.centre` gives it one, is no trained weight: it is minus the
            mean of the map's output over training notes, measured (`notellm2.training.validation`).

    Raises:
        InputError: prompt and text can be longer than the LLM reads.
    """

    def __init__(self, llm: nn.Module | None, layout: Layout, config: ModelConfig, vision_width: int) -> None:
        super().__init__()
        if (llm is None) == config.reads_text:
            raise ValueError(f"prompt {config.prompt!r} {'needs an' if llm is None else 'has no'} LLM")
        longest = len(layout.head) + config.text.max_tokens + len(layout.tail)
        check_length(llm, longest, f"model.text.max_tokens ({config.text.max_tokens}): with the prompt a note")
        self.layout = layout
        self.matryoshka = tuple(config.matryoshka)
        self.llm = llm
        self._reads_grids = llm is not None and reads_grids(llm)
        embeddings = None if llm is None else _token_embeddings(llm)
        width = vision_width if embeddings is None else embeddings.weight.shape[1]
        self.connector = build_connector(config.connector, vision_width, width) if len(layout.visual_slots) else None
        self.fusion = LateFusion(vision_width, width) if config.late_fusion else None
        # <IMG_EMB> is the only new word that keeps an embedding of its own; it starts as the vocabulary's mean.
        self.image_word = None
        if embeddings is not None and layout.visual_position is not None:
            self.image_word = nn.Parameter(embeddings.weight.detach().float().mean(0))
        # Silent while the network trains: they are fitted afterwards, to what it has become.
        self.shortcuts = Shortcuts(config, layout, vision_width) if config.shortcuts.on else None
        bare = config.head == "none"
        self.head = nn.Linear(width, width if bare else config.dim, bias=config.centre and not bare)
        if self.head.bias is not None:
            nn.init.zeros_(self.head.bias).requires_grad_(False)
        if bare:
            nn.init.eye_(self.head.weight).requires_grad_(False)
        else:
            nn.init.xavier_normal_(self.head.weight)
        self.log_scale = nn.Parameter(torch.tensor(3.0 if config.log_scale is None else config.log_scale))

    @property
    def centred(self) -> bool:
        """Whether the mean of the head's output is taken away."""
        return self.head.bias is not None

    def hidden(self, batch: NoteBatch) -> Hidden:
        """Compute the fused hidden states at the compression positions; without an LLM the encoder's summary."""
        if self.llm is None:
            return Hidden(_present(batch.vision_BPV)[:, 0], None)
        x_BLH = _token_embeddings(self.llm)(batch.tokens_BL.clamp(min=0))
        slots = self.layout.visual_slots
        if self.connector is not None:
            # Gradients reach the connector through the copy; the embedding rows under the slots are overwritten.
            x_BLH = x_BLH.clone()
            x_BLH[:, torch.from_numpy(slots)] = self.connector(_present(batch.vision_BPV)).to(x_BLH.dtype)
        if self.image_word is not None:
            word = torch.from_numpy(np.flatnonzero(self.layout.head == IMAGE_WORD))
            x_BLH = x_BLH if self.connector is not None else x_BLH.clone()
            x_BLH[:, word] = self.image_word.to(x_BLH.dtype)
        where = {}
        if self._reads_grids:
            positions = grid_positions(slots, x_BLH.shape[1]).to(x_BLH.device)
            where["position_ids"] = positions.expand(-1, x_BLH.shape[0], -1)
        read = [batch.last_B]
        if self.layout.visual_position is not None:
            read.append(torch.full_like(batch.last_B, self.layout.visual_position))
        read_BP = torch.stack(read, 1)
        with reading(read_BP):
            h_BLH = self.llm(inputs_embeds=x_BLH, use_cache=False, **where).last_hidden_state
        # Heads are float32 whatever the LLM is held in.
        rows_B = torch.arange(h_BLH.shape[0], device=h_BLH.device)  # len() would be a constant in ONNX
        n_m, *rest = (h_BLH[rows_B, at_B].float() for at_B in read)
        n_v = rest[0] if rest else None
        if self.fusion is not None:
            summary_BV = _present(batch.vision_BPV)[:, 0]
            n_m = self.fusion(n_m, summary_BV)
            n_v = None if n_v is None else self.fusion(n_v, summary_BV)
        beside_BD = None
        if self.shortcuts is not None and not self.training:
            beside_BD = self.shortcuts(batch.tokens_BL, batch.last_B, batch.vision_BPV)
        return Hidden(n_m, n_v, beside_BD)

    def embed(self, hidden: Hidden, *, bare: bool = False) -> Embeddings:
        """Apply head and L2 norm; `bare`: the head's output as it is, for a whole batch to be centred (`spread`)."""

        def mapped(h_BH: Tensor, beside_BD: Tensor | None = None) -> Tensor:
            y_BD: Tensor = self.head(h_BH).float()
            if beside_BD is not None:
                y_BD = y_BD + beside_BD
            if bare:
                return y_BD
            if self.llm is None:
                # Of a note without image the encoder says nothing; the bias alone would be one direction for all such.
                y_BD = y_BD * (h_BH != 0).any(-1, keepdim=True)
            return functional.normalize(y_BD, dim=-1)

        visual = hidden.visual_BH
        return Embeddings(mapped(hidden.multimodal_BH, hidden.beside_BD), None if visual is None else mapped(visual))

    def forward(self, batch: NoteBatch) -> Embeddings:
        """Embed a batch of notes."""
        return self.embed(self.hidden(batch))


def check_length(llm: nn.Module | None, longest: int, what: str) -> None:
    """Check that an LLM reads `longest` tokens.

    Raises:
        InputError: it does not; begins with `what`.
    """
    limit = getattr(getattr(llm, "config", None), "max_position_embeddings", None)
    if limit is not None and longest > limit:
        raise InputError(f"{what} can have {longest} tokens, the LLM reads {limit}; lower model.text.max_tokens")


def _token_embeddings(llm: nn.Module) -> nn.Embedding:
    embeddings = llm.get_input_embeddings()  # type: ignore[operator]
    # peft wraps embeddings that are trained beside adapters; what counts is a matrix of rows.
    if not isinstance(getattr(embeddings, "weight", None), Tensor):
        raise TypeError(f"the LLM's input embeddings are a {type(embeddings).__name__} without weight")
    return cast(nn.Embedding, embeddings)


def _present(vision_BPV: Tensor | None) -> Tensor:
    if vision_BPV is None:
        raise ValueError("this variant reads images: the batch needs vision features (zeros for a note without image)")
    return vision_BPV
