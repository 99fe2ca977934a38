"""Whether a recipe can be followed with the data and backbones that are there; reads no more than footers of files."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

import pyarrow.parquet as pq

from notellm2.doctor.check import Check, ok, refused
from notellm2.errors import InputError
from notellm2.model.backbones.before_loading import lfs_pointers, require_bitsandbytes
from notellm2.notes.dataset import Dataset
from notellm2.notes.source import Source, find_source
from notellm2.quality.suites import load_suites
from notellm2.quality.window import Window
from notellm2.recipe import QualityConfig, Recipe, TinyVisionConfig

DATA = "data"
"""Name of the check of what the recipe reads."""
_TEXTS = ("title", "topics", "content")
_WEIGHTS = ("*.safetensors", "*.bin")


def check_fit(recipe: Recipe, named: Path | None = None) -> list[Check]:
    """Check that the recipe's paths exist and that its data and settings can go together.

    Args:
        recipe: the recipe.
        named: a data set or export in place of the recipe's (``--data``).
    """
    checks = [_data(recipe, named), _expectations(recipe)]
    checks += [_backbone(part, name) for part, name in _backbones(recipe).items()]
    checks.append(refused("gate", lambda: require_approver(recipe)))
    if recipe.model.base_weights == "nf4":
        checks.append(refused("weights of 4 bits", _four_bits))
    return checks


def _data(recipe: Recipe, named: Path | None) -> Check:
    def look() -> str:
        source = find_source(recipe.data, named)
        if source.kind == "data set":
            return _what_fits(recipe, Dataset.open(source.path))
        return _to_be_made(source)

    return refused(DATA, look)


def _to_be_made(source: Source) -> str:
    if source.kind == "export":
        return f"{source.path} is an export; it is imported and judged first"
    return f"the sample is made in {source.path} first"


def _what_fits(recipe: Recipe, dataset: Dataset) -> str:
    """Say what a data set holds.

    Raises:
        InputError: a stage after the data checks cannot work with it.
    """
    info = dataset.info
    if isinstance(recipe.backbones.vision, TinyVisionConfig) and not info.notes_with_image:
        raise InputError(
            f"{dataset.path}: no note has an image, and backbones.vision is a tiny encoder that learns from images; "
            "bring images, or name a pretrained encoder"
        )
    return (
        f"{dataset.path}: {info.notes:,} notes, {info.notes_with_image:,} with an image; "
        f"{info.interactions:,} interactions"
    )


def check_volumes(recipe: Recipe, named: Path | None = None) -> Check:
    """Check what the data checks will refuse, as far as descriptions and footers tell; they themselves see every row.

    Args:
        recipe: the recipe.
        named: a data set or export in place of the recipe's (``--data``).
    """

    def look() -> str:
        source = find_source(recipe.data, named)
        if source.kind != "data set":
            return "judged when the data are there"
        if problems := _too_little(recipe.quality, Dataset.open(source.path)):
            raise InputError(f"{source.path}: {'; '.join(problems)}; bring more, or lower these fields")
        return "as much as the recipe's section quality asks for"

    return refused("volumes", look)


def _too_little(quality: QualityConfig, dataset: Dataset) -> list[str]:
    info = dataset.info
    share = info.notes_with_image / info.notes if info.notes else 0.0
    least = (
        (f"{info.notes:,} notes", info.notes, "min_notes", quality.min_notes),
        (f"{info.interactions:,} interactions", info.interactions, "min_interactions", quality.min_interactions),
        (f"{share:.1%} of the notes have an image", share, "min_share_with_image", quality.min_share_with_image),
    )
    problems = [f"{there}, and quality.{field} is {asked:,}" for there, value, field, asked in least if value < asked]
    if quality.min_share_with_text > 0 and not _has_text(dataset):
        problems.append(f"no note has text, and quality.min_share_with_text is {quality.min_share_with_text}")
    return problems


def _has_text(dataset: Dataset) -> bool:
    """Return False where the footers of all shards say that title, topics and content are empty."""
    for shard in dataset.shards("notes"):
        with pq.ParquetFile(shard) as file:
            leaves = [i for i, leaf in enumerate(file.schema) if leaf.path.split(".")[0] in _TEXTS]
            for group in range(file.metadata.num_row_groups):
                for leaf in leaves:
                    column = file.metadata.row_group(group).column(leaf)
                    known = column.statistics
                    empty = known is not None and known.has_min_max and known.max == ""
                    without = known is not None and known.num_values == 0
                    if not (empty or without):
                        return True
    return False


def _expectations(recipe: Recipe) -> Check:
    def look() -> str:
        Window.of(recipe.quality, datetime.now(UTC))
        suites = load_suites(recipe.quality.suites)
        return f"{sum(len(suite.expectations) for suite in suites)} in {len(suites)} suites"

    return refused("expectations", look)


def _backbones(recipe: Recipe) -> dict[str, str]:
    named = {"backbones.llm": recipe.backbones.llm, "backbones.vision": recipe.backbones.vision}
    if recipe.backbones.mllm is not None:
        named = {"backbones.mllm": recipe.backbones.mllm}
    return {field: name for field, name in named.items() if isinstance(name, str)}


def _backbone(field: str, name: str) -> Check:
    folder = Path(name)
    if not folder.is_dir():
        if folder.is_absolute() or name.startswith("."):
            return Check(field, "failed", f"{name}: no such folder", "name a Hugging Face model folder or a hub name")
        return _hub(field, name)
    if pointers := lfs_pointers(name):
        return Check(field, "failed", f"{name}: {pointers}")
    if not (folder / "config.json").is_file():
        return Check(field, "failed", f"{name}: no config.json", "name a Hugging Face model folder")
    weights = [path for pattern in _WEIGHTS for path in folder.glob(pattern)]
    if not weights:
        return Check(field, "failed", f"{name}: no weights ({' or '.join(_WEIGHTS)})", "copy the whole model folder")
    return ok(field, f"{name}, {sum(path.stat().st_size for path in weights) / 1e9:.2f} GB of weights")


def _hub(field: str, name: str) -> Check:
    """Say whether a hub name is in the local cache; the hub itself is asked when the backbones are prepared."""
    from huggingface_hub import try_to_load_from_cache

    source, _, revision = name.partition("@")
    cached = try_to_load_from_cache(source, "config.json", revision=revision or None)
    if isinstance(cached, str):
        return ok(field, f"{name}, in the hub's cache")
    return Check(field, "warning", f"{name} is not in the hub's cache", "it is downloaded first, which needs a network")


def require_approver(recipe: Recipe) -> str:
    """Say how the gate decides.

    Raises:
        InputError: a person is to approve, and there is no Prefect server where one could.
    """
    mode = recipe.gate.mode
    if mode == "approval" and not os.environ.get("PREFECT_API_URL"):
        raise InputError(
            "gate.mode is approval, and there is no Prefect server where a person could approve: set "
            "PREFECT_API_URL, or use gate.mode=manual and `notellm2 promote`"
        )
    return f"mode {mode}"


def _four_bits() -> str:
    require_bitsandbytes()
    return "bitsandbytes is there"
