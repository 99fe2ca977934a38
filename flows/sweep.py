"""The command line of ``python -m flows.ablate``: what it takes, what it prints, how it ends (as `flows.command`)."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from flows.command import in_prefect, job_settings, told, with_job
from flows.parameters import AblateSettings
from notellm2.errors import InputError
from notellm2.model.variants import TRAINED, find_variant, variants
from notellm2.recipe import load_recipe
from notellm2.workspace import Workspace

if TYPE_CHECKING:
    from flows.runtime.job import Facts

EXAMPLE = (
    "example: python -m flows.ablate --recipe recipes/local-pretrained.yaml --variants text,basic,notellm2 --seeds 0,1"
)


def parser() -> argparse.ArgumentParser:
    """The arguments."""
    arguments = with_job(
        argparse.ArgumentParser(
            prog="python -m flows.ablate",
            description="Train and measure variants of a recipe with several seeds, and put them side by side in one "
            "table and one plot. Finished parts are reused: the same command continues a killed sweep.",
            epilog=EXAMPLE,
        )
    )
    arguments.add_argument(
        "--variants",
        default=",".join(variant.name for variant in TRAINED),
        metavar="NAME,...",
        help=f"of {', '.join(variants())} (default: the trained ones)",
    )
    arguments.add_argument("--seeds", default="0,1,2", metavar="N,...", help="of training (default: 0,1,2)")
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    """Run a sweep; returns the exit status."""
    given = parser().parse_args(argv)
    return told(lambda: _sweep(given))


def _sweep(given: argparse.Namespace) -> int:
    names, seeds = _names(given.variants), _seeds(given.seeds)
    for name in names:  # Wrong arguments should not cost a server's start, let alone an hour of training.
        load_recipe(given.recipe, (*given.overrides, *find_variant(name).overrides))
    workspace = Workspace.at(given.store)

    def start() -> Facts:
        from flows.ablate import ablate

        return ablate(AblateSettings.given(**job_settings(given, workspace), variants=names, seeds=seeds))

    with workspace.exclusive("a sweep"):
        return in_prefect(workspace, start)


def _names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    for name in names:
        find_variant(name)
    if len(set(names)) < len(names):
        raise InputError(f"--variants {text}: each once")
    return names


def _seeds(text: str) -> list[int]:
    seeds = [seed.strip() for seed in text.split(",")]
    if not all(seed.isdecimal() for seed in seeds) or len(set(seeds)) < len(seeds):
        raise InputError(f"--seeds {text}: expected different whole numbers, such as 0,1,2")
    return [int(seed) for seed in seeds]
