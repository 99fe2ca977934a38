"""NoteLLM's generative task in a training step: its loss and gradient, beside the contrastive one.

Together the loss is L + α·L_gen, NoteLLM's (arXiv 2403.01744) up to the factor 1 + α, which AdamW does not see.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from notellm2.model.network.generation import Exercises, generation_loss
from notellm2.model.network.note_source import Rows
from notellm2.model.network.notellm2 import NoteLLM2
from notellm2.recipe import TrainingConfig
from notellm2.training.precision import precision
from notellm2.training.process_group import Team
from notellm2.training.sharding import is_sharded


@dataclass(frozen=True)
class GenerationTask:
    """The generative task: what each note can be asked to write, and the frozen language-model head [W, H]."""

    exercises: Exercises
    head_WH: Tensor

    def backward(self, network: NoteLLM2, rows: Rows, step: int, config: TrainingConfig, team: Team) -> float:
        """Add the gradient of α times the mean loss of an answer token, for this process's share of the notes.

        Args:
            network: its LLM writes.
            rows: of the batch's notes; each distinct one gets one task, by (seed, step).
            step: from 0.
            config: chunk size, weight and share of topics.
            team: shares the notes; gradients are summed by the caller.

        Returns:
            The mean loss of an answer token over the whole batch, nats; 0 where no note has an answer.
        """
        if network.llm is None:
            raise ValueError("there is no LLM that could write")
        settings = config.generation
        rng = np.random.default_rng([config.seed, 4, step])
        chosen = self.exercises.choose(np.unique(rows), settings.topic_share, rng)
        written = sum(int(self.exercises.answers[task].lengths[row]) for row, task in chosen)
        chosen.sort(key=lambda one: len(self.exercises.texts[one[1]].text(one[0])))
        mine = chosen[team.rank :: team.size]
        device = network.head.weight.device
        total = torch.zeros((), device=device)
        # Sharded weights are gathered by all processes: each runs the LLM as often as the one with the largest share.
        longest = -(-len(chosen) // team.size) if is_sharded(network) else len(mine)
        for first in range(0, longest, config.chunk_notes):
            some = mine[first : first + config.chunk_notes]
            tokens, answers = self.exercises.batch(some or chosen[:1])
            answers &= bool(some)
            with precision(config, device):
                loss = generation_loss(network.llm, self.head_WH, tokens.to(device), answers.to(device)) / written
            (settings.weight * loss).backward()
            total += loss.detach()
        team.sum_([total])
        return float(total)
