"""Frozen features that reach the embedding past the LLM: a grid of the image, and runs of the text's tokens.

An LLM tuned on a few thousand notes learns their words and pictures by heart long before a linear map of frozen
features does. So both are summed, as in wide and deep models (Cheng et al. 2016, arXiv 1606.07792): the network's head
says what it makes of the whole note, the shortcuts what single features say. They are fitted once the network is
trained (`notellm2.training.refit`), with much dropout on their inputs; until then they are silent.

Shape suffixes: B notes, P vision tokens (index 0 the summary, then patches), V vision width, L tokens, F runs of
tokens, D embedding width, G cells of the grid and the whole image.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

if TYPE_CHECKING:
    from notellm2.model.network.prompt import Layout
    from notellm2.recipe import ModelConfig

UNUSED = torch.iinfo(torch.int64).max
"""Code of a row of the vocabulary that stands for no run; sorts behind all others."""
_BASE = 1_000_003
"""Codes of runs are numbers to this base, modulo 2^64: exact for pairs, spread so for longer ones that none meet."""


class Shortcuts(nn.Module):
    """The sum of the linear maps of frozen features to the embedding; zero until fitted.

    Args:
        config: which shortcuts there are.
        layout: the prompt's fixed tokens; what lies between head and tail is the note's text.
        vision_width: V; 0 when no image is read.

    Attributes:
        image: of `image_grid`, its bias the (negative) mean; None: no image shortcut.
        runs: of the text; None: no text shortcut.
    """

    def __init__(self, config: ModelConfig, layout: Layout, vision_width: int) -> None:
        super().__init__()
        self._grid = config.shortcuts.image_grid if config.image_shortcut else None
        self._first, self._after = len(layout.head), len(layout.tail)
        self.image = None
        if self._grid is not None:
            self.image = nn.Linear((1 + self._grid**2) * vision_width, config.dim)
        self.runs = None
        if config.shortcuts.runs:
            self.runs = TokenRuns(config.shortcuts.runs, config.shortcuts.runs_kept, config.dim)
        for name, parameter in self.named_parameters():
            if not name.startswith("runs."):
                nn.init.zeros_(parameter)
        self.requires_grad_(False)

    def forward(self, tokens_BL: Tensor, last_B: Tensor, vision_BPV: Tensor | None) -> Tensor:
        """Sum the shortcuts: float32[B, D], from the arguments of `NoteBatch`."""
        parts = []
        if self.image is not None and vision_BPV is not None:
            shown_B1 = (vision_BPV[:, 0] != 0).any(-1, keepdim=True)
            parts.append(self.image(self.image_features(vision_BPV)) * shown_B1)
        if self.runs is not None:
            parts.append(self.text_features(tokens_BL, last_B) @ self.runs.weight)
        return torch.stack(parts).sum(0)

    def image_features(self, vision_BPV: Tensor) -> Tensor:
        """Average the patches over the image and over each cell of the grid: [B, (1 + G)·V] of frozen features."""
        if self._grid is None:
            raise ValueError("this model has no image shortcut")
        return image_grid(vision_BPV.float(), self._grid)

    def text_features(self, tokens_BL: Tensor, last_B: Tensor) -> Tensor:
        """Weigh the runs of each note's text, [B, F], of length 1."""
        if self.runs is None:
            raise ValueError("this model has no text shortcut")
        return self.runs.features(tokens_BL, self._first, last_B + 1 - self._after)


class TokenRuns(nn.Module):
    """Runs of one to `longest` tokens, weighed as words are in TF-IDF, each with a row of its own in the embedding.

    The LLM's own tokens, so nothing else is read: with a vocabulary of pieces the runs are pieces, words and names;
    with one of words they are words and phrases.

    Args:
        longest: tokens of the longest run.
        kept: F, rows of the vocabulary; unused ones are zero.
        width: D.
    """

    def __init__(self, longest: int, kept: int, width: int) -> None:
        super().__init__()
        self.longest = longest
        self.codes = nn.Parameter(torch.full((kept,), UNUSED), requires_grad=False)
        self.rarity = nn.Parameter(torch.zeros(kept), requires_grad=False)
        self.weight = nn.Parameter(torch.zeros(kept, width), requires_grad=False)

    def features(self, tokens_BL: Tensor, first: int, end_B: Tensor) -> Tensor:
        """Weigh each known run among the tokens from `first` to before `end_B`: (1 + ln count) · rarity, [B, F]."""
        counts_BF = torch.zeros(len(tokens_BL), len(self.codes), device=tokens_BL.device)
        for codes_BL, inside_BL in token_runs(tokens_BL, first, end_B, self.longest):
            index_BL = torch.searchsorted(self.codes, codes_BL).clamp(max=len(self.codes) - 1)
            known_BL = inside_BL & (self.codes[index_BL] == codes_BL)
            counts_BF.scatter_add_(1, index_BL, known_BL.float())
        weights_BF = torch.where(counts_BF > 0, 1 + counts_BF.clamp(min=1).log(), 0.0) * self.rarity
        return functional.normalize(weights_BF, dim=-1)


def token_runs(tokens_BL: Tensor, first: int, end_B: Tensor, longest: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield for each length 1 to `longest` the codes of the runs at each token, int64[B, L], and whether they count.

    Args:
        tokens_BL: int64[B, L].
        first: where the texts begin.
        end_B: int64[B], where they have ended.
        longest: tokens of the longest run.
    """
    position_L = torch.arange(tokens_BL.shape[1], device=tokens_BL.device)
    codes_BL = torch.zeros_like(tokens_BL)
    for length in range(1, longest + 1):
        ahead_BL = functional.pad(tokens_BL[:, length - 1 :], (0, min(length - 1, tokens_BL.shape[1])))
        codes_BL = codes_BL * _BASE + ahead_BL + 1
        yield codes_BL, (position_L >= first) & (position_L + length <= end_B[:, None])


def image_grid(vision_BPV: Tensor, cells: int) -> Tensor:
    """Average all patches, and those in each cell of a grid: [B, (1 + cells²)·V]; zeros without image.

    Patches that form no square (an encoder's own order) have no cells: their mean stands in each.
    """
    patches_BPV = vision_BPV[:, 1:]
    mean_BV = patches_BPV.mean(1)
    side = math.isqrt(patches_BPV.shape[1])
    if cells == 1 or side * side != patches_BPV.shape[1]:
        return mean_BV.repeat(1, 1 + cells * cells)
    square = patches_BPV.transpose(1, 2).unflatten(2, (side, side))
    cells_BVG = functional.adaptive_avg_pool2d(square, cells).flatten(2)
    return torch.cat([mean_BV, cells_BVG.transpose(1, 2).flatten(1)], 1)
