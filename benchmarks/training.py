"""Training steps side by side: ours, a plain loop, and sentence-transformers; one machine, one run, in turns.

    python benchmarks/training.py --data DATA --store STORE [--recipe RECIPE] [--rounds 5] [--json]
    python benchmarks/training.py --data DATA --store STORE --memory [--json]
    python benchmarks/training.py --data DATA --store STORE --busy [--rounds 5] [--json]

DATA is a data set (`notellm2 import`), STORE an artifact store: pairs, backbones and vision features that are there
already are reused. What is compared, on the same backbones, notes and pairs:

- ours: `take_step` with cached vision features; text only also with GradCache.
- plain: the loop most people write. Each step tokenises its notes, decodes and encodes their images, pads to the
  longest of the batch, one forward pass, torch's attention, the whole similarity matrix, AdamW.
- sentence-transformers: its trainer with CachedMultipleNegativesRankingLoss and last-token pooling, on the text-only
  variant (the same prompt around the same text); left out, saying so, where it is not installed (extra `bench`).

Keys of --json: vs_plain_loop (pairs/s of ours over plain), vs_plain_loop_cached (the same without its vision
forward), vs_sentence_transformers (ours with GradCache over theirs), vs_sentence_transformers_graphs_kept,
share_of_peak (arithmetic of our step, attention's lower triangle alone, over the rate of a 2,048² matrix product in
the same turns), pairs_per_s of each, padding_share. Figures are medians of the rounds' pairs/s, by CPU time of all
threads on a CPU, by the clock on a GPU. --memory: peak_rss_mb by pairs in a batch, with GradCache, each in a process of
its own, and growth, the last over the first minus 1. --busy: pairs/s of ours by the clock, for one thread, for all with
idle threads that sleep and for all that spin, each in a process of its own: idle, and beside as many processes that
compute as there are cores; medians of the rounds, and sleep_vs_spin of each.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from notellm2.artifacts import Store
from notellm2.embedding.vectors_stage import vision_features
from notellm2.model.backbones.adapters import tune
from notellm2.model.backbones.backbones_stage import Backbones, Corpus, build_backbones
from notellm2.model.backbones.encode_images import encode_images
from notellm2.model.backbones.load import load_language_model, load_vision_encoder
from notellm2.model.network.attention import attend_fast
from notellm2.model.network.loss import pair_loss
from notellm2.model.network.note_source import NoteSource, Rows
from notellm2.model.network.notellm2 import NoteLLM2, assemble
from notellm2.model.network.prompt import WORDINGS, encode_texts, layout
from notellm2.model.variants import find_variant
from notellm2.notes import versions
from notellm2.notes.dataset import Dataset
from notellm2.notes.schema import Note
from notellm2.pairs.pairs_stage import mine
from notellm2.recipe import Recipe, load_recipe
from notellm2.threads import PASSIVE
from notellm2.training.batches import PairOrder
from notellm2.training.fit import pair_rows
from notellm2.training.loop import build_optimiser
from notellm2.training.step import StepContext, take_step
from notellm2.training.texts_stage import token_texts

MEMORY_PAIRS = (64, 256, 1024)
PEAK_SIDE = 2048
CUDA = torch.cuda.is_available()


def clock() -> float:
    """Seconds: of all our threads on a CPU, which other work on the machine disturbs least; real ones on a GPU."""
    if CUDA:
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


@dataclass(frozen=True)
class Material:
    """What all sides train on."""

    path: Path
    overrides: tuple[str, ...]
    recipe: Recipe
    dataset: Dataset
    store: Store
    md5: str
    backbones: Backbones
    features: np.ndarray
    notes: list[Note]
    pairs: Rows

    @classmethod
    def of(cls, given: argparse.Namespace) -> Material:
        """The artifacts that the recipe names, made where they are missing."""
        recipe = load_recipe(given.recipe, tuple(given.overrides))
        dataset, store = Dataset.open(given.data), Store(given.store)
        md5 = versions.data_md5(given.data)
        mined = mine(store, dataset, md5, recipe.pairs)
        halves = build_backbones(store, Corpus(dataset, md5, mined, recipe.data.images), recipe.backbones, recipe.model)
        features = vision_features(store, dataset, md5, halves, recipe.data.images)
        notes = dataset.texts()
        rows = {note.note_id: row for row, note in enumerate(notes)}
        pairs = pair_rows(mined, "train.parquet", rows)
        array = np.load(features.file("features.npy"), mmap_mode="r")
        return cls(
            given.recipe, tuple(given.overrides), recipe, dataset, store, md5, Backbones.of(halves), array, notes, pairs
        )

    def network(self, variant: str, *, fast: bool) -> tuple[NoteLLM2, NoteSource, Any]:
        """A network of a variant in training mode, its notes, and its tokenizer."""
        model = load_recipe(self.path, (*self.overrides, *find_variant(variant).overrides)).model
        torch.manual_seed(0)
        language = load_language_model(self.backbones.llm, self.backbones.revision)
        llm = tune(attend_fast(language.model) if fast else language.model, model)
        vision = self.features if model.reads_images else None
        texts = token_texts(self.store, self.dataset, self.md5, language.tokenizer, model)
        source = NoteSource(layout(language.tokenizer, model), texts, vision)
        network = NoteLLM2(llm, source.layout, model, 0 if vision is None else vision.shape[2])
        return network.train().to("cuda" if CUDA else "cpu"), source, language.tokenizer


def ours(material: Material, variant: str, **changed: Any) -> Callable[[int], dict[str, float]]:
    """A step of ours, by its number."""
    network, source, _ = material.network(variant, fast=True)
    config = material.recipe.training.model_copy(update=changed)
    order, optimiser = PairOrder(material.pairs, config.pairs_per_batch, 0), build_optimiser(network, config)
    context = StepContext(network, source, order, optimiser, config)
    return lambda step: take_step(context, step)


def plain(material: Material, *, cached: bool) -> Callable[[int], None]:
    """A step of the loop that most people write; `cached`: with vision features at hand."""
    network, source, tokenizer = material.network("notellm2", fast=False)
    config, device = material.recipe.training, network.head.weight.device
    order = PairOrder(material.pairs, config.pairs_per_batch, 0)
    optimiser = torch.optim.AdamW([p for p in network.parameters() if p.requires_grad], lr=config.lr)
    vision = load_vision_encoder(material.backbones.vision, material.backbones.revision)
    images = {note.note_id: note.image for batch in material.dataset.batches() for note in batch}

    def step(number: int) -> None:
        rows = order.step(number)
        notes = [material.notes[row] for row in rows]
        if cached:
            features: Tensor = torch.from_numpy(material.features[rows].astype(np.float32))
        else:
            shown = [Note(n.note_id, n.title, n.topics, n.content, images[n.note_id]) for n in notes]
            features = torch.from_numpy(encode_images(vision, shown, material.recipe.data.images)[0].astype(np.float32))
        texts = encode_texts(tokenizer, notes, material.recipe.model)
        batch = assemble(source.layout, [texts.text(i) for i in range(len(notes))], features)
        found = network(batch.to(device))
        loss = config.weight_multimodal * pair_loss(found.multimodal_BD, network.log_scale)
        if found.visual_BD is not None:
            loss = loss + config.weight_visual * pair_loss(found.visual_BD, network.log_scale)
        optimiser.zero_grad()
        (loss / (config.weight_multimodal + config.weight_visual)).backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), config.clip_norm)
        optimiser.step()

    return step


def sentence_transformers_rate(material: Material, steps: int) -> list[float] | None:
    """Pairs/s of each of its steps but the first, or None where it is not installed."""
    try:
        from datasets import Dataset as Table
        from sentence_transformers import (
            SentenceTransformer,
            SentenceTransformerTrainer,
            SentenceTransformerTrainingArguments,
        )
        from sentence_transformers.sentence_transformer.losses import CachedMultipleNegativesRankingLoss
        from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
        from transformers import TrainerCallback
    except ImportError as error:
        print(f"sentence-transformers is left out: {error} (pip install 'notellm2[bench]')", file=sys.stderr)
        return None
    ends: list[float] = []

    class Clock(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            ends.append(clock())

    config, model = material.recipe.training, material.recipe.model
    words = WORDINGS[model.language]
    body = Transformer(material.backbones.llm)
    body.tokenizer.pad_token = body.tokenizer.pad_token or body.tokenizer.eos_token
    body.tokenizer.padding_side = "right"
    network = SentenceTransformer(modules=[body, Pooling(body.get_embedding_dimension(), pooling_mode="lasttoken")])
    order = PairOrder(material.pairs, config.pairs_per_batch, 0)
    rows = np.concatenate([order.step(step) for step in range(steps)])
    texts = [words.opening + words.note_text(material.notes[row], model.text) + words.compressed for row in rows]
    table = Table.from_dict({"anchor": texts[::2], "positive": texts[1::2]})
    with tempfile.TemporaryDirectory() as folder:
        arguments = SentenceTransformerTrainingArguments(
            folder, per_device_train_batch_size=config.pairs_per_batch, max_steps=steps, learning_rate=config.lr,
            report_to=[], save_strategy="no", logging_strategy="no", disable_tqdm=True, use_cpu=not CUDA,
        )  # fmt: skip
        loss = CachedMultipleNegativesRankingLoss(network, mini_batch_size=config.chunk_notes)
        SentenceTransformerTrainer(network, arguments, table, loss=loss, callbacks=[Clock()]).train()
    return [config.pairs_per_batch / seconds for seconds in np.diff(ends).tolist()]


def arithmetic(material: Material) -> float:
    """Floating-point operations of one of our steps, forward and backward."""
    network, source, _ = material.network("notellm2", fast=False)
    # Eager attention shows every product to the counter; of its square half lies above the diagonal.
    network.llm.set_attn_implementation("eager")  # type: ignore[union-attr, operator]
    config = material.recipe.training
    order, optimiser = PairOrder(material.pairs, config.pairs_per_batch, 0), build_optimiser(network, config)
    with FlopCounterMode(display=False) as counter:
        take_step(StepContext(network, source, order, optimiser, config), 0)
    found = counter.get_flop_counts()["Global"]
    return float(sum(flops / (2 if "bmm" in str(operation) else 1) for operation, flops in found.items()))


def peak_rate() -> float:
    """Floating-point operations a second of a large matrix product, the best of three."""
    left = torch.randn(PEAK_SIDE, PEAK_SIDE, device="cuda" if CUDA else "cpu")
    return max(2 * PEAK_SIDE**3 / timed(lambda: left @ left) for _ in range(3))


def timed(work: Callable[[], object]) -> float:
    """Seconds of one call."""
    began = clock()
    work()
    return clock() - began


def speed(given: argparse.Namespace) -> dict[str, Any]:
    """All sides in turns."""
    material = Material.of(given)
    pairs = material.recipe.training.pairs_per_batch
    sides: dict[str, Callable[[int], Any]] = {
        "ours": ours(material, "notellm2"),
        "plain": plain(material, cached=False),
        "plain, cached": plain(material, cached=True),
        "ours, text, GradCache": ours(material, "text", grad_cache=True),
        "ours, text": ours(material, "text"),
    }
    rates: dict[str, list[float]] = {name: [] for name in (*sides, "peak")}
    padding = []
    for turn in range(given.rounds + 1):
        for name, step in sides.items():
            outcome: list[Any] = []
            seconds = timed(lambda step=step, turn=turn, outcome=outcome: outcome.append(step(turn)))  # type: ignore[misc]
            if name == "ours":
                padding.append(outcome[0]["padding_share"])
            if turn:  # the first warms up
                rates[name].append(pairs / seconds)
        rates["peak"].append(peak_rate())
        print(f"round {turn} of {given.rounds}", file=sys.stderr)
    theirs = sentence_transformers_rate(material, given.rounds + 2)
    middle = {name: statistics.median(values) for name, values in rates.items()}
    peak = middle.pop("peak")
    if theirs is not None:
        middle["sentence-transformers, text"] = statistics.median(theirs)
    against = middle.get("sentence-transformers, text")
    return {
        "pairs_per_batch": pairs,
        "pairs_per_s": {name: round(rate, 2) for name, rate in middle.items()},
        "padding_share": round(statistics.mean(padding), 4),
        "peak_gflops": round(peak / 1e9, 1),
        "vs_plain_loop": round(middle["ours"] / middle["plain"], 2),
        "vs_plain_loop_cached": round(middle["ours"] / middle["plain, cached"], 2),
        "vs_sentence_transformers": against and round(middle["ours, text, GradCache"] / against, 2),
        "vs_sentence_transformers_graphs_kept": against and round(middle["ours, text"] / against, 2),
        "share_of_peak": round(arithmetic(material) * middle["ours"] / pairs / peak, 3),
    }


def memory(given: argparse.Namespace) -> dict[str, Any]:
    """Peak memory by batch, each in a process of its own."""
    peaks = {}
    for pairs in MEMORY_PAIRS:
        command = [*_again(given), "--memory-of", str(pairs)]
        peaks[pairs] = float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        print(f"{pairs} pairs: {peaks[pairs]:.0f} MB", file=sys.stderr)
    growth = peaks[MEMORY_PAIRS[-1]] / peaks[MEMORY_PAIRS[0]] - 1
    return {"peak_rss_mb": {str(n): round(peak) for n, peak in peaks.items()}, "growth": round(growth, 4)}


def memory_of(given: argparse.Namespace) -> None:
    """Two steps with GradCache; prints the process's peak memory, MB."""
    step = ours(Material.of(given), "notellm2", pairs_per_batch=given.memory_of, grad_cache=True)
    for number in range(2):
        step(number)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


WAYS = {
    "one thread": {"OMP_NUM_THREADS": "1", **PASSIVE},
    "all threads, idle ones sleep": PASSIVE,
    "all threads, idle ones spin": {"OMP_WAIT_POLICY": "ACTIVE"},
}
BUSY_STEPS = 4


def busy(given: argparse.Namespace) -> dict[str, Any]:
    """Our step by the clock, in turns: each way of using threads, on the machine as it is and beside other work."""
    rates: dict[str, dict[str, list[float]]] = {where: {name: [] for name in WAYS} for where in ("idle", "busy")}
    plain_environment = {name: value for name, value in os.environ.items() if not name.startswith("OMP_")}
    for turn in range(given.rounds):
        for where, of_ways in rates.items():
            for name, values in of_ways.items():
                with _other_work(os.cpu_count() or 1 if where == "busy" else 0):
                    command = [*_again(given), "--busy-of", str(BUSY_STEPS)]
                    environment = {**plain_environment, **WAYS[name]}
                    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
                values.append(float(done.stdout))
        print(f"round {turn + 1} of {given.rounds}", file=sys.stderr)
    middle = {where: {n: statistics.median(v) for n, v in of_ways.items()} for where, of_ways in rates.items()}
    _, sleeping, spinning = WAYS
    return {
        "pairs_per_s": {where: {n: round(v, 1) for n, v in of_ways.items()} for where, of_ways in middle.items()},
        "sleep_vs_spin": {where: round(of[sleeping] / of[spinning], 2) for where, of in middle.items()},
    }


@contextlib.contextmanager
def _other_work(processes: int) -> Iterator[None]:
    """Processes that compute for as long as the block lasts."""
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(processes)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def busy_of(given: argparse.Namespace) -> None:
    """Some steps after one that warms up; prints pairs/s by the clock."""
    material = Material.of(given)
    step = ours(material, "notellm2")
    step(0)
    began = time.perf_counter()
    for number in range(1, given.busy_of + 1):
        step(number)
    print(given.busy_of * material.recipe.training.pairs_per_batch / (time.perf_counter() - began))


def _again(given: argparse.Namespace) -> list[str]:
    """This program's command line with the same data, store and recipe."""
    command = [sys.executable, __file__, "--data", str(given.data), "--store", str(given.store)]
    command += ["--recipe", str(given.recipe)]
    return [*command, *(argument for override in given.overrides for argument in ("--set", override))]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a data set")
    parser.add_argument("--store", type=Path, required=True, help="an artifact store")
    parser.add_argument("--recipe", type=Path, default=Path("recipes/local-pretrained.yaml"), help="what is trained")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="SECTION.FIELD=VALUE")
    parser.add_argument("--rounds", type=int, default=5, help="measured steps of each side")
    parser.add_argument("--memory", action="store_true", help="peak memory by batch instead of speed")
    parser.add_argument("--memory-of", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--busy", action="store_true", help="threads that sleep or spin, idle and beside other work")
    parser.add_argument("--busy-of", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    given = parser.parse_args()
    if given.memory_of:
        memory_of(given)
        return
    if given.busy_of:
        busy_of(given)
        return
    result = memory(given) if given.memory else busy(given) if given.busy else speed(given)
    print(json.dumps(result) if given.json else "\n".join(f"{name:38} {value}" for name, value in result.items()))


if __name__ == "__main__":
    main()
