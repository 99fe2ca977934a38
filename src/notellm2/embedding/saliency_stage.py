"""Stage "saliency": which tokens the trained model's embeddings depend on, layer by layer."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from notellm2.artifacts import Artifact, Store
from notellm2.errors import InputError
from notellm2.notes.dataset import Dataset

STAGE, VERSION = "saliency", 2
_GROUPS = ("visual", "text", "rest")
_RELEASED = tuple(f"released_{name}" for name in _GROUPS)


@dataclass(frozen=True)
class SaliencyInputs:
    """What saliency is measured on.

    Attributes:
        dataset: the notes.
        data_md5: their version.
        pairs: test pairs.
        training: the model bundle.
        features: frozen vision features of the notes.
    """

    dataset: Dataset
    data_md5: str
    pairs: Artifact
    training: Artifact
    features: Artifact


def measure_saliency(store: Store, inputs: SaliencyInputs, *, count: int, seed: int = 0) -> Artifact:
    """Measure the flow into the compression position on some test pairs (NoteLLM-2, section 2.5).

    File: ``saliency.json``, {"pairs": n, "layers": [{"visual", "text", "rest", "visual_flow", "text_flow",
    "rest_flow", and the same after "released_"}, ...]} from the first layer: mean flow a token
    (`notellm2.model.network.saliency`), and its share of the layer's three. No layers for a model without LLM.

    Args:
        store: where the artifact goes.
        inputs: notes, test pairs and model.
        count: pairs looked at, drawn by `seed`; all if there are fewer.
        seed: of the draw.

    Raises:
        InputError: there are fewer than two test pairs.
    """

    def write(folder: Path) -> dict[str, Any]:
        from notellm2.model.bundle.bundle import Bundle
        from notellm2.model.network.note_source import NoteSource
        from notellm2.model.network.saliency import saliency
        from notellm2.training.texts_stage import token_texts

        ids = {note.note_id: row for row, note in enumerate(inputs.dataset.texts())}
        test = pq.read_table(inputs.pairs.file("test.parquet"), columns=["query_id", "target_id"]).to_pylist()
        if len(test) < 2:
            raise InputError(
                f"{inputs.pairs.file('test.parquet')}: {len(test)} test pairs; saliency needs at least two"
            )
        chosen = np.random.default_rng(seed).permutation(len(test))[:count]
        rows = np.array([[ids[test[i]["query_id"]], ids[test[i]["target_id"]]] for i in sorted(chosen)], np.int64)
        bundle = Bundle.load(inputs.training.file("bundle"), device="cpu")
        texts = token_texts(store, inputs.dataset, inputs.data_md5, bundle.tokenizer, bundle.config.model)
        vision = (
            np.load(inputs.features.file("features.npy"), mmap_mode="r") if bundle.config.model.reads_images else None
        )
        source = NoteSource(bundle.network.layout, texts, vision)
        flows = [asdict(flow) for flow in saliency(bundle.network, source, rows)]
        layers = [_shares(flow, _GROUPS) | _shares(flow, _RELEASED) for flow in flows]
        (folder / "saliency.json").write_text(json.dumps({"pairs": len(rows), "layers": layers}, indent=1) + "\n")
        return {"pairs": len(rows), "layers": len(layers)}

    keyed: dict[str, Artifact | str] = {
        "data": inputs.data_md5,
        "pairs": inputs.pairs,
        "training": inputs.training,
        "features": inputs.features,
    }
    return store.build(STAGE, VERSION, {"count": count, "seed": seed}, keyed, write)


def _shares(flows: Mapping[str, float], groups: Sequence[str]) -> dict[str, float]:
    """Flows of some groups under ``<group>_flow``, and their shares of the groups' sum under their own names."""
    total = sum(flows[name] for name in groups)
    shares = {name: flows[name] / total if total else 0.0 for name in groups}
    return shares | {f"{name}_flow": flows[name] for name in groups}
