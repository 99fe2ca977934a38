"""The training loop: contrastive tuning of one network on mined pairs (NoteLLM-2, arXiv 2405.16789).

One step (`notellm2.training.step`): draw B pairs; embed their distinct notes in chunks of like length; compare all 2B
embeddings; clip; AdamW. The order of the pairs, the schedule and the masks depend on (seed, step) alone, so a run
resumed from a checkpoint goes on bit for bit on a CPU. Several processes each embed a share of the batch
(`notellm2.training.process_group`); the first of them writes the files.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from notellm2.artifacts import write_atomic
from notellm2.model.network.note_source import NoteSource, Rows
from notellm2.model.network.notellm2 import NoteLLM2
from notellm2.recipe import TrainingConfig
from notellm2.training.batches import PairOrder
from notellm2.training.checkpoint import load_checkpoint, save_checkpoint, save_weights, trained_weights
from notellm2.training.generation_task import GenerationTask
from notellm2.training.hard_negatives import HardNegatives
from notellm2.training.process_group import ALONE, Team
from notellm2.training.sharding import held_bytes, is_sharded
from notellm2.training.step import StepContext, take_step
from notellm2.training.validation import Validation, rank_visual_tokens, recentre, validate, validation_loss

logger = logging.getLogger(__name__)

OnMetrics = Callable[[int, Mapping[str, float]], None]
METRICS, BEST = "metrics.jsonl", "best.safetensors"
LEFT_CHANCE = 0.05
"""Nats below chance at which a run counts as learning."""
_FINAL_LR_SHARE = 0.05
_COLLAPSED_SHARE = 0.1
"""Visual tokens count as collapsed below this share of the way from one token to all of them."""


@dataclass
class Progress:
    """How far a run has come: what a checkpoint carries beside tensors."""

    step: int = 0
    best_mrr: float = -1.0
    best_loss: float = math.inf
    best_step: int = 0
    last_loss: float = math.nan
    last_chance: float = math.nan
    seconds: float = 0.0
    recent: list[float] = field(default_factory=list)
    """Loss minus chance of the last steps, nats."""
    warned_of_rank: bool = False

    def took_step(self, figures: Mapping[str, float], seconds: float) -> None:
        """Count one more step, with its figures."""
        self.step += 1
        self.last_loss, self.last_chance = figures["loss"], figures["chance"]
        self.recent = [*self.recent, figures["loss"] - figures["chance"]][-50:]
        self.seconds += seconds

    @property
    def left_chance(self) -> bool:
        """Whether the last steps were better than telling nothing apart."""
        return float(np.mean(self.recent[-20:])) < -LEFT_CHANCE

    def figures(self, config: TrainingConfig) -> dict[str, Any]:
        """Return the figures of the run, at its end."""
        return {
            "steps": self.step,
            "final_loss": self.last_loss,
            "chance": self.last_chance,
            "left_chance": self.left_chance,
            "pairs_per_s": round(self.step * config.pairs_per_batch / max(self.seconds, 1e-9), 2),
            "train_seconds": round(self.seconds, 1),
            "best_step": self.best_step or self.step,
            "best_validation_mrr": None if self.best_mrr < 0 else self.best_mrr,
            **({"best_validation_loss": self.best_loss} if math.isfinite(self.best_loss) else {}),
        }


def total_steps(config: TrainingConfig, pairs: int) -> int:
    """Count the optimiser steps of a run over `pairs` pairs."""
    return (
        config.steps if config.steps is not None else max(1, math.ceil(config.epochs * pairs / config.pairs_per_batch))
    )


def learning_rate_share(step: int, steps: int, config: TrainingConfig) -> float:
    """Compute the share of the peak learning rate at step `step` (from 0): linear warm-up, then the recipe's decay.

    `cosine` ends at 5 %. `linear` is transformers' ``get_linear_schedule_with_warmup``, whose first step has rate 0.
    """
    if config.decay == "linear":
        warmup = math.ceil(config.warmup_share * steps)
        return step / warmup if step < warmup else max(0.0, (steps - step) / max(1, steps - warmup))
    warmup = max(1, round(config.warmup_share * steps))
    if step < warmup:
        return (step + 1) / warmup
    done = (step - warmup) / max(1, steps - warmup)
    return _FINAL_LR_SHARE + (1 - _FINAL_LR_SHARE) * 0.5 * (1 + math.cos(math.pi * done))


def build_optimiser(network: NoteLLM2, config: TrainingConfig) -> torch.optim.AdamW:
    """Make AdamW in groups: LLM, image path, head, logit scale; vectors and the scale do not decay."""
    image_lr = config.head_lr if config.image_lr is None else config.image_lr
    peaks = {"llm": config.lr, "head": config.head_lr, "log_scale": config.scale_lr}
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            lr = peaks.get(name.split(".")[0], image_lr)
            decay = config.weight_decay if parameter.ndim > 1 else 0.0
            groups.setdefault((lr, decay), []).append(parameter)
    settings = [{"params": p, "lr": lr, "peak": lr, "weight_decay": decay} for (lr, decay), p in groups.items()]
    return torch.optim.AdamW(settings, betas=config.betas)


@dataclass(frozen=True)
class TrainingRun:
    """One training of one network.

    Attributes:
        network: on its device; its trainable parameters are tuned.
        source: the notes.
        pairs: int64[M, 2] training pairs as rows of `source`.
        validation: held-out pairs, or None to keep the last weights.
        config: schedule and loss.
        folder: checkpoints, ``metrics.jsonl`` and the best weights are kept here.
        team: the processes that share each batch; all of them train, with equal networks.
        generation: the generative task beside the contrastive one, or None.
        mine: finds hard negatives of the pairs; None: only the batch's own notes are negatives.
        related: int64[R, 2] rows of `source` that are no negatives of each other though no pairs; None: none are.
    """

    network: NoteLLM2
    source: NoteSource
    pairs: Rows
    validation: Validation | None
    config: TrainingConfig
    folder: Path
    team: Team = ALONE
    generation: GenerationTask | None = None
    mine: Callable[[PairOrder], HardNegatives] | None = None
    related: Rows | None = None

    def context(self) -> StepContext:
        """Make what the steps share, with a fresh optimiser."""
        order = PairOrder(self.pairs, self.config.pairs_per_batch, self.config.seed, self.related)
        return StepContext(
            network=self.network,
            source=self.source,
            order=order,
            optimiser=build_optimiser(self.network, self.config),
            config=self.config,
            team=self.team,
            hard=None if self.mine is None else self.mine(order),
            generation=self.generation,
        )


def train(run: TrainingRun, on_metrics: OnMetrics = lambda step, values: None, *, show: bool = True) -> dict[str, Any]:
    """Train the network in place, continuing from the newest checkpoint in the run's folder if there is one.

    Args:
        run: what is trained, on what, and how.
        on_metrics: called with each logged step's figures as they come; after a resume again from the checkpoint on.
        show: draw a progress bar (only on a terminal).

    Returns:
        Figures of the run: steps, final loss, whether it left chance, pairs/s, best validation; where weights are
        sharded, the bytes of weights and moments that each process holds.
    """
    config, folder, team = run.config, run.folder, run.team
    steps = total_steps(config, len(run.pairs))
    notes = np.unique(run.pairs)
    show, on_metrics = show and team.leads, on_metrics if team.leads else _ignored
    if not steps:
        return _measure_untrained(run, on_metrics)
    context = run.context()
    facts = load_checkpoint(folder, run.network, context.optimiser, team)
    state = Progress(**facts) if facts else Progress()
    if state.step:
        logger.info("resumed at step %d of %d", state.step, steps)
    run.network.train()
    with _log_from(folder / METRICS, state.step, team) as log, _bar(steps, state.step, show) as advance:
        while state.step < steps:
            figures = _timed_step(context, state, steps)
            last = state.step == steps
            if run.validation is not None and (state.step % config.validate_every == 0 or last):
                figures |= _validate_and_keep(run, run.validation, state)
            if state.step % config.log_every == 0 or state.step == 1 or last or "validation_mrr" in figures:
                figures |= _visual_tokens(run, notes, state)
                log(state.step, figures)
                on_metrics(state.step, figures)
            if state.step == min(100, max(10, steps // 4)):
                _warn_at_chance(state, figures)
            if state.step % config.checkpoint_every == 0 and not last:
                save_checkpoint(folder, state.step, run.network, context.optimiser, vars(state), team)
            advance(figures)
    if run.validation is None:
        recentre(run.network, run.source, run.pairs, config, team)
    held = {}
    if is_sharded(run.network):
        held["held_bytes"] = team.gather(torch.tensor(held_bytes(run.network, context.optimiser))).tolist()
    return {**state.figures(config), **held}


def _timed_step(context: StepContext, state: Progress, steps: int) -> dict[str, float]:
    """Take the next step at its learning rate, count it, and return its figures with rate and speed."""
    config, begun = context.config, time.monotonic()
    share = learning_rate_share(state.step, steps, config)
    for group in context.optimiser.param_groups:
        group["lr"] = group["peak"] * share
    figures = take_step(context, state.step)
    elapsed = time.monotonic() - begun
    state.took_step(figures, elapsed)
    return {**figures, "lr": config.lr * share, "pairs_per_s": config.pairs_per_batch / elapsed}


def _measure_untrained(run: TrainingRun, on_metrics: OnMetrics) -> dict[str, Any]:
    """Keep the network as it starts (zero-shot), and measure it once where there are held-out pairs."""
    recentre(run.network, run.source, run.pairs, run.config, run.team)
    figures = {}
    if run.validation is not None:
        figures = validate(run.network, run.source, run.validation, run.config, run.team)
    _keep_best(run.folder, run.network, run.team)
    with _log_from(run.folder / METRICS, 0, run.team) as log:
        log(0, figures)
    on_metrics(0, figures)
    return {
        "steps": 0,
        "final_loss": None,
        "chance": None,
        "left_chance": None,
        "pairs_per_s": 0.0,
        "train_seconds": 0.0,
        "best_step": 0,
        "best_validation_mrr": figures.get("validation_mrr"),
    }


def _validate_and_keep(run: TrainingRun, validation: Validation, state: Progress) -> dict[str, float]:
    """Centre the head, measure on held-out pairs, and keep the weights if none were better."""
    recentre(run.network, run.source, run.pairs, run.config, run.team)
    figures = validate(run.network, run.source, validation, run.config, run.team)
    better = figures["validation_mrr"] > state.best_mrr
    if run.config.select == "loss":
        figures["validation_loss"] = validation_loss(run.network, run.source, validation, run.config)
        better = figures["validation_loss"] < state.best_loss
    if better:
        state.best_mrr, state.best_step = figures["validation_mrr"], state.step
        state.best_loss = figures.get("validation_loss", math.inf)
        _keep_best(run.folder, run.network, run.team)
    return figures


def _visual_tokens(run: TrainingRun, notes: Rows, state: Progress) -> dict[str, float]:
    """Measure the effective rank of the visual tokens of some training notes, and warn once when it collapses."""
    rank = rank_visual_tokens(run.network, run.source, notes)
    if rank is None:
        return {}
    queries = len(run.source.layout.visual_slots)
    if rank < 1 + _COLLAPSED_SHARE * (queries - 1) and not state.warned_of_rank and run.team.leads:
        state.warned_of_rank = True
        logger.warning(
            "step %d: the %d visual tokens of an image are nearly copies of one (effective rank %.2f): the LLM reads "
            "little of it; try model.connector.kind: qformer, or query_std: 1", state.step, queries, rank,
        )  # fmt: skip
    return {"visual_token_rank": rank}


def _warn_at_chance(state: Progress, figures: Mapping[str, float]) -> None:
    if not state.left_chance:
        logger.warning(
            "training has not left chance after %d steps: loss %.3f, chance %.3f, mean cosine %.3f; "
            "try model.centre: true, model.start: fitted, a lower training.lr, or more warm-up",
            state.step, state.last_loss, state.last_chance, figures["mean_cosine"],
        )  # fmt: skip


def _keep_best(folder: Path, network: NoteLLM2, team: Team) -> None:
    weights = trained_weights(network, keep=team.leads)
    if team.leads:
        save_weights(folder / BEST, weights)


def _ignored(_step: int, _values: Mapping[str, float]) -> None:
    """Drop the figures of a step, in processes that do not lead."""


@contextlib.contextmanager
def _log_from(path: Path, step: int, team: Team) -> Any:
    """Append to the metrics file, first cutting what a killed run wrote after its last checkpoint."""
    if not team.leads:
        yield _ignored
        return
    kept = []
    if path.exists():
        for line in path.read_text().splitlines():
            # A kill can leave half a line at the end; it is of a step that is done again.
            with contextlib.suppress(json.JSONDecodeError):
                if json.loads(line)["step"] <= step:
                    kept.append(line)
    write_atomic(path, "".join(f"{line}\n" for line in kept))
    with path.open("a") as handle:

        def log(at: int, figures: Mapping[str, float]) -> None:
            handle.write(json.dumps({"step": at, **figures}) + "\n")
            handle.flush()

        yield log


@contextlib.contextmanager
def _bar(steps: int, done: int, show: bool) -> Any:
    """A progress bar on a terminal; a log line now and then elsewhere."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    every = max(1, steps // 20)
    if not (show and console.is_terminal):
        count = done

        def note(figures: Mapping[str, float]) -> None:
            nonlocal count
            count += 1
            if count % every == 0 or count == steps:
                logger.info(
                    "step %d/%d  loss %.3f (chance %.3f)  mean cosine %.3f  %.0f pairs/s",
                    count, steps, figures["loss"], figures["chance"], figures["mean_cosine"], figures["pairs_per_s"],
                )  # fmt: skip

        yield note
        return
    text = "loss {task.fields[loss]:.3f} · {task.fields[speed]:.0f} pairs/s ·"
    columns = ("training", BarColumn(), MofNCompleteColumn(), TextColumn(text), TimeRemainingColumn())
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("training", total=steps, completed=done, loss=math.nan, speed=0.0)
        yield lambda figures: bar.update(task, advance=1, loss=figures["loss"], speed=figures["pairs_per_s"])
