"""Find what a retraining reads: a data set, a plain export to import first, or the sample to generate."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from notellm2.errors import InputError
from notellm2.notes.dataset import INFO
from notellm2.notes.tables import is_export
from notellm2.recipe import DataConfig


@dataclass(frozen=True)
class Source:
    """What the data come from.

    Attributes:
        kind: a data set as it is, an export that is imported first, or the generated sample.
        path: the data set or export; of the sample the folder that it is made in.
        named: whether the user named it beside the recipe.
    """

    kind: Literal["data set", "export", "sample"]
    path: Path
    named: bool = False


def find_source(config: DataConfig, named: Path | None = None) -> Source:
    """Find where the notes come from, without reading them.

    Args:
        config: the recipe's section.
        named: a data set or export to use instead (``--data``).

    Raises:
        InputError: there is neither a data set nor anything to make one from.
    """
    if named is not None:
        if (named / INFO).is_file():
            return Source("data set", named, named=True)
        _require_export(named, "--data")
        return Source("export", named, named=True)
    if config.export is not None:
        _require_export(config.export, "data.export")
        return Source("export", config.export)
    if (config.dir / INFO).is_file():
        return Source("data set", config.dir)
    if config.sample is not None:
        return Source("sample", config.dir)
    raise InputError(
        f"{config.dir}: no data set here, and the recipe names neither data.export nor data.sample; fetch it with "
        f"`notellm2 data pull {config.dir}`, make it with `notellm2 import EXPORT --into {config.dir}`, or name one "
        "with --data"
    )


def _require_export(folder: Path, named: str) -> None:
    if not is_export(folder):
        raise InputError(
            f"{named} {folder}: neither a data set (with {INFO}) nor a plain export (with notes.parquet, .csv or "
            ".jsonl); docs/reference/export-format.md describes the columns"
        )
