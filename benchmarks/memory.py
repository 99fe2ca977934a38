"""What the ready recipes need in memory, counted on the real architectures without their weights.

    python benchmarks/memory.py            # a table; --json for one object

Every module is made on torch's meta device (shapes, no storage) by the code that trains it, so parameters are counted,
not estimated, and the tensors that a forward pass keeps for its backward pass are counted too. The formula:

    frozen weights * bytes each                           what base_weights says
    + trained weights * (4 + 4 + 8)                       float32 weight, gradient, AdamW's two moments
    + kept bytes a note * chunk_notes                     the longest note: prompt and model.text.max_tokens

For one process. With training.sharding full over eight, each holds an eighth of the first two lines, the third, and
two gathered layers (the one that computes and the one that comes next) with one gradient, all as float32. Beside what
CUDA itself and its allocator take (about 1 GB, and a tenth for fragments). Not checked against a GPU: nothing here ran
on one. Without autocast some float32 copies are counted that a GPU run does not make (with float32 weights, twice what
autocast keeps), so the third line is an upper bound.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import LlamaConfig, LlamaModel, Qwen2Config, Qwen2Model, Qwen3Config, Qwen3Model, masking_utils

from notellm2.model.backbones.adapters import tune
from notellm2.model.network.notellm2 import NoteBatch, NoteLLM2
from notellm2.model.network.prompt import IMAGE_WORD, VISUAL_SLOT, Layout
from notellm2.recipe import Recipe, load_recipe
from notellm2.training.sharding import units

ROOT = Path(__file__).parents[1]
GB = 1e9
PROCESSES = 8
"""As the paper's."""
PROMPT = (24, 9)
"""Tokens of the mICL prompt beside the visual ones, about: before the text, and after it."""

# Sizes from the models' public configurations.
LLMS: dict[str, Any] = {
    "Qwen/Qwen3-0.6B": lambda: Qwen3Model(
        Qwen3Config(
            vocab_size=151_936,
            hidden_size=1024,
            intermediate_size=3072,
            num_hidden_layers=28,
            num_attention_heads=16,
            num_key_value_heads=8,
            head_dim=128,
        )
    ),
    "Qwen/Qwen2.5-1.5B": lambda: Qwen2Model(
        Qwen2Config(
            vocab_size=151_936,
            hidden_size=1536,
            intermediate_size=8960,
            num_hidden_layers=28,
            num_attention_heads=12,
            num_key_value_heads=2,
        )
    ),
    "meta-llama/Llama-2-7b-hf": lambda: LlamaModel(
        LlamaConfig(
            vocab_size=32_000,
            hidden_size=4096,
            intermediate_size=11_008,
            num_hidden_layers=32,
            num_attention_heads=32,
            max_position_embeddings=4096,
        )
    ),
}
VISION = {"openai/clip-vit-base-patch16": (197, 768), "google/siglip-base-patch16-224": (197, 768)}
"""Tokens (summary and patches) and width."""

CASES = (
    ("qwen3-0.6b-clip", ()),
    ("qwen2.5-1.5b-siglip", ()),
    ("llama2-7b-clip", ()),
    ("llama2-7b-clip", ("model.tuning=full", "model.base_weights=fp32", "model.start=random", "model.log_scale=3.0")),
)


def count(recipe: Recipe) -> dict[str, float]:
    """Parameters and bytes of a recipe's training, by part."""
    model = recipe.model
    before, after = PROMPT
    head = np.full(before + model.connector.queries + 1, 5, np.int32)
    head[8 : 8 + model.connector.queries] = VISUAL_SLOT
    head[-6] = IMAGE_WORD
    layout = Layout(head, np.full(after, 5, np.int32), len(head) - 7)
    tokens, width = VISION[str(recipe.backbones.vision)]
    with torch.device("meta"):
        llm = LLMS[str(recipe.backbones.llm)]()
        llm = llm.to(torch.float32 if model.base_weights == "fp32" else torch.bfloat16)
        network = NoteLLM2(tune(llm, model), layout, model, width)
    trained = sum(p.numel() for p in network.parameters() if p.requires_grad)
    frozen = sum(p.numel() * p.element_size() for p in network.parameters() if not p.requires_grad)
    length = len(head) + model.text.max_tokens + after
    kept = _kept_bytes(network, length, tokens, width)
    chunk = recipe.training.chunk_notes
    largest = max(_gathered(network.llm), _gathered(network.connector))
    return {
        "weights_millions": sum(p.numel() for p in network.parameters()) / 1e6,
        "trained_millions": trained / 1e6,
        "frozen_gb": frozen / GB,
        "trained_gb": trained * 16 / GB,
        "kept_gb": kept * chunk / GB,
        "chunk_notes": chunk,
        "total_gb": (frozen + trained * 16 + kept * chunk) / GB,
        "sharded_gb": ((frozen + trained * 16) / PROCESSES + kept * chunk + 3 * 4 * largest) / GB,
    }


def _gathered(part: torch.nn.Module | None) -> int:
    """Weights of the largest unit that is gathered by itself."""
    seen: set[int] = set()
    sizes = []
    for unit in units(part):
        own = {id(p): p.numel() for p in unit.parameters() if id(p) not in seen}
        seen |= own.keys()
        sizes.append(sum(own.values()))
    return max(sizes)


def _kept_bytes(network: NoteLLM2, length: int, tokens: int, width: int) -> int:
    """Bytes that one note's forward pass keeps for its backward pass, parameters apart."""
    own = {p.untyped_storage()._cdata for p in network.parameters()}
    kept: dict[int, tuple[int, Any]] = {}

    def keep(x: torch.Tensor) -> torch.Tensor:
        storage = x.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = (storage.nbytes(), storage)  # held, so that no other takes its address
        return x

    meta = torch.device("meta")
    batch = NoteBatch(
        torch.zeros(1, length, dtype=torch.long, device=meta),
        torch.full((1,), length - 1, device=meta),
        torch.zeros(1, tokens, width, device=meta),
    )
    # It reads values (is this a packed sequence?), which a tensor without storage has not.
    found, masking_utils.find_packed_sequence_indices = masking_utils.find_packed_sequence_indices, lambda _: None
    try:
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
            network(batch)
    finally:
        masking_utils.find_packed_sequence_indices = found
    return sum(size for size, _ in kept.values())


def main() -> None:
    """Print the table, or the JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    asked = parser.parse_args()
    rows = {
        name + (" (full)" if changed else ""): count(load_recipe(ROOT / "recipes" / f"{name}.yaml", changed))
        for name, changed in CASES
    }
    if asked.json:
        print(json.dumps(rows, indent=2))
        return
    columns = ("recipe", "weights, M", "trained, M", "frozen, GB", "trained, GB", "kept by a chunk, GB", "together, GB")
    print(f"| {' | '.join(columns)} | sharded over {PROCESSES}, GB |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for name, row in rows.items():
        kept = f"{row['kept_gb']:.1f} ({row['chunk_notes']:.0f} notes)"
        print(
            f"| {name} | {row['weights_millions']:,.0f} | {row['trained_millions']:,.1f} | {row['frozen_gb']:.1f} | "
            f"{row['trained_gb']:.1f} | {kept} | {row['total_gb']:.1f} | {row['sharded_gb']:.1f} |"
        )


if __name__ == "__main__":
    main()
