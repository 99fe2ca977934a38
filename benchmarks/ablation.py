"""The paper's ablation on real films: variants × seeds, with two real backbones and with backbones built from the data.

    python benchmarks/ablation.py --store STORE [--data DATA] [--recipes A,B] [--variants V,W] [--seeds 0,1,2]
                                  [--steps N] [--set SECTION.FIELD=VALUE] [--json]

Runs `notellm2 ablate` once a recipe (by default recipes/local-pretrained.yaml and recipes/local-tiny.yaml, under
their fair-test protocol) and reports its table, R@100 in %, mean ± standard deviation over seeds. Hours in full; every
stage is an artifact of STORE, so a run that was stopped continues, and a run with more seeds does only the new ones.
--steps shortens the training of every variant alike (not for figures to be quoted). --set changes the recipes:
`--set model.text.topics=0 --set model.text.content_chars=0` shows every film by its title and poster alone, the nearest
this data comes to the paper's short queries.

Keys of --json, by recipe: variants (means by figure), deviations, notellm2_best_on_all, notellm2_best_on_short_queries
(against every other trained variant), image_only_vs_basic (recall@100 of NoteLLM-2 over that of basic).
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from notellm2.artifacts import Artifact, Store
from notellm2.model.variants import TRAINED

ROOT = Path(__file__).parents[1]
RECIPES = "recipes/local-pretrained.yaml,recipes/local-tiny.yaml"
OURS, NAIVE = "notellm2", "basic"
ALL, SHORT, IMAGE = "both inputs R@100", "short query R@100", "image only R@100"


def run(args: argparse.Namespace, recipe: str) -> Artifact:
    """The sweep of one recipe; its ablation artifact."""
    command = [sys.executable, "-m", "notellm2", "ablate", "--recipe", recipe, "--store", str(args.store)]
    command += ["--variants", args.variants, "--seeds", args.seeds]
    command += [] if args.data is None else ["--data", str(args.data.absolute())]
    command += [] if args.steps is None else ["--set", f"training.steps={args.steps}"]
    command += [argument for override in args.overrides for argument in ("--set", override)]
    done = subprocess.run(command, cwd=ROOT, check=False, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"the sweep of {recipe} ended with {done.returncode}; the same command continues it")
    # What it printed last names the artifact, also when it was there before.
    folder = Path(done.stdout.strip().rsplit("Table and plot: ", 1)[1])
    (made,) = [a for a in _ablations(args.store) if a.path == folder]
    return made


def judged(made: Artifact) -> dict[str, Any]:
    """What the paper claims, of this table."""
    means: dict[str, dict[str, float | None]] = made.summary["variants"]
    result: dict[str, Any] = {"variants": means, "seeds": made.summary["seeds"], "deviations": _deviations(made)}
    trained = [variant.name for variant in TRAINED if variant.name in means]
    if OURS in trained:
        for name, figure in (("all", ALL), ("short_queries", SHORT)):
            others = [means[other].get(figure) or 0.0 for other in trained if other != OURS]
            result[f"notellm2_best_on_{name}"] = bool(others) and (means[OURS].get(figure) or 0.0) > max(others)
        naive = means.get(NAIVE, {}).get(IMAGE)
        result["image_only_vs_basic"] = round((means[OURS].get(IMAGE) or 0.0) / naive, 2) if naive else None
    return result


def _ablations(store: Path) -> list[Artifact]:
    return [artifact for artifact in Store(store).artifacts() if artifact.stage == "ablation"]


def _deviations(made: Artifact) -> dict[str, dict[str, float]]:
    with made.file("table.csv").open() as handle:
        rows = list(csv.DictReader(handle))
    return {
        row["variant"]: {
            name.removesuffix(" sd"): float(row[name]) for name in row if name.endswith(" sd") and row[name]
        }
        for row in rows
    }


def main() -> None:
    """Run, judge and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path, required=True, help="artifact store; stopped runs continue there")
    parser.add_argument("--data", type=Path, help="data set or export (default: what the recipe says)")
    parser.add_argument("--recipes", default=RECIPES, help="recipes, by comma")
    parser.add_argument("--variants", default=",".join(v.name for v in TRAINED), help="variants, by comma")
    parser.add_argument("--seeds", default="0,1,2", help="seeds, by comma")
    parser.add_argument("--steps", type=int, help="training steps instead of the recipe's")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="SECTION.FIELD=VALUE")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of tables")
    args = parser.parse_args()
    result = {}
    for recipe in args.recipes.split(","):
        made = run(args, recipe)
        result[Path(recipe).stem] = judged(made)
        if not args.json:
            print(f"{recipe}\n\n{made.file('table.md').read_text()}")
    if args.json:
        print(json.dumps(result))
    else:
        for name, facts in result.items():
            print(name, {key: value for key, value in facts.items() if key not in ("variants", "deviations", "seeds")})


if __name__ == "__main__":
    main()
