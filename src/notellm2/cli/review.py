"""Commands for who decides on a model: figures of any bundle, and a report of any two versions."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from notellm2.cli.options import STORE, JsonOption, StoreOption, open_store, print_json
from notellm2.errors import InputError

if TYPE_CHECKING:
    from notellm2.artifacts import Artifact, Store
    from notellm2.evaluation.cases import MinedData
    from notellm2.recipe import EvaluationConfig, PairsConfig, TextLimits

DataOption = Annotated[Path, typer.Option("--data", help="The data set's folder.")]
RecipeOption = Annotated[
    Path | None, typer.Option("--recipe", help="Recipe that says how pairs are mined and measured; else the defaults.")
]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="SECTION.FIELD=VALUE", help="Change one field of the recipe.")
]
_WIDTH = 22


def evaluate(
    bundle: Annotated[Path, typer.Option("--bundle", help="The model bundle's folder.")],
    data: DataOption,
    recipe: RecipeOption = None,
    overrides: SetOption = None,
    store: StoreOption = STORE,
    as_json: JsonOption = False,
) -> None:
    """Measure a model bundle on a data set's test pairs, outside any flow: exact figures beside the baselines'.

    Example: notellm2 evaluate --bundle store/training/4f1c0a2b7d9e8c3f5a61/bundle --data data
    """
    from notellm2.recipe import Recipe, load_recipe

    if overrides and recipe is None:
        raise InputError("--set: changes a recipe; name it with --recipe")
    chosen = load_recipe(recipe, tuple(overrides or ())) if recipe else Recipe(name="evaluate")
    text = _text_limits(bundle)
    test = _Test.of(store, data, chosen.pairs, chosen.evaluation, text)
    measured = test.measure(bundle)
    figures = {
        name: json.loads(measured.file(f"{name}.json").read_text()) for name in ("metrics", "intervals", "space")
    }
    if as_json:
        print_json({"evaluation": measured.reference(), **figures})
        return
    typer.echo("\n".join(_figures(figures["metrics"], figures["intervals"])))
    typer.echo(f"all figures: {measured.path}")


def report(
    old: Annotated[str, typer.Argument(help="Number of the version compared with; it takes the champion's place.")],
    new: Annotated[str, typer.Argument(help="Number of the version the report is of.")],
    data: Annotated[
        Path | None, typer.Option("--data", help="The data set's folder; the one of NEW's recipe when not given.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="File to write; report-OLD-NEW.html when not given.")
    ] = None,
    store: StoreOption = STORE,
) -> None:
    """Measure two registered versions on the test pairs of NEW's recipe, and write the page that compares them.

    Example: notellm2 report 3 5 --data data
    """
    from notellm2.artifacts import write_atomic
    from notellm2.evaluation.comparison import compare
    from notellm2.evaluation.report.report_stage import Champion, RunRecord, data_facts
    from notellm2.evaluation.report.report_stage import report as write
    from notellm2.recipe import RegistryConfig
    from notellm2.registry import versions
    from notellm2.registry.recipes import read_recipe, recipe_of
    from notellm2.registry.tracking import Tracking
    from notellm2.workspace import Workspace

    written = out or Path(f"report-{old}-{new}.html")
    if written.is_dir():
        raise InputError(f"{written}: a folder; --out names the file to write")
    artifacts = open_store(store)
    tracking = Tracking.at(Workspace.at(store), RegistryConfig())
    theirs, ours = (versions.get_version(tracking, number) for number in (old, new))
    recipe = read_recipe(tracking, ours.run_id, f"version {new}")
    test = _Test.of(store, data or recipe.data.dir, recipe.pairs, recipe.evaluation, recipe.model.text)
    download = store / "_mlflow" / "download"
    champion, candidate = (
        test.measure(versions.bundle_path(tracking, version.version, download / version.version))
        for version in (theirs, ours)
    )
    run = RunRecord(
        recipe=recipe,
        evaluation=candidate,
        training=_made(artifacts, ours.artifacts, "training"),
        quality=_made(artifacts, ours.artifacts, "quality"),
        champion=Champion(
            name=f"version {old}",
            comparison=compare(artifacts, candidate, champion, recipe.evaluation),
            recipe=recipe_of(tracking, theirs.run_id),
            data=data_facts(test.mined.dataset, test.mined.md5) if theirs.data_md5 == test.mined.md5 else None,
        ),
    )
    page = write(artifacts, test.mined, run)
    write_atomic(written, page.file("report.html").read_bytes())
    typer.echo(f"{written}: version {new} against version {old} on {test.mined.dataset.path} ({test.mined.md5})")


@dataclass(frozen=True)
class _Test:
    """One data set's test pairs, and how bundles are measured on them."""

    store: Store
    mined: MinedData
    evaluation: EvaluationConfig
    text: TextLimits

    @classmethod
    def of(cls, store: Path, data: Path, pairs: PairsConfig, evaluation: EvaluationConfig, text: TextLimits) -> _Test:
        from notellm2.artifacts import Store
        from notellm2.evaluation.cases import MinedData
        from notellm2.notes.dataset import Dataset
        from notellm2.notes.versions import data_md5
        from notellm2.pairs.pairs_stage import mine

        dataset = Dataset.open(data)
        md5 = data_md5(data)
        artifacts = Store(store.absolute(), {"data_md5": md5})
        mined = MinedData(dataset, md5, mine(artifacts, dataset, md5, pairs))
        return cls(artifacts, mined, evaluation, text)

    def measure(self, bundle: Path) -> Artifact:
        from notellm2.embedding.process import embed_in_subprocess
        from notellm2.evaluation.evaluation_stage import evaluate

        vectors = embed_in_subprocess(self.store, self.mined.dataset, self.mined.md5, bundle)
        return evaluate(self.store, self.mined, vectors, self.evaluation, self.text)


def _text_limits(bundle: Path) -> TextLimits:
    """How much text the bundle's model reads."""
    from pydantic import ValidationError

    from notellm2.recipe import TextLimits

    try:
        return TextLimits.model_validate(json.loads((bundle / "config.json").read_text())["model"]["text"])
    except (OSError, ValueError, KeyError, TypeError, ValidationError) as error:
        raise InputError(
            f"{bundle}: not a model bundle ({error}); a run's bundle is <store>/training/<key>/bundle"
        ) from None


def _made(store: Store, artifacts: Any, stage: str) -> Artifact | None:
    """What a version was made from, if it is still in the store."""
    return store.find(stage, artifacts[stage]) if stage in artifacts else None


def _figures(metrics: dict[str, Any], intervals: dict[str, Any]) -> list[str]:
    """Recall at the headline cut-off, MRR and visual reliance of every model, with 95 % intervals."""
    from notellm2.evaluation.metrics import headline_k

    shown = f"recall@{headline_k(metrics)}"
    lines = [f"{'all pairs, %':{_WIDTH}} {shown:>20} {'mrr':>20}"]

    def cell(model: str, metric: str) -> str:
        value, ends = metrics[model]["all"][metric], intervals[model]["all"][metric]
        return f"{100 * value:.1f} ({100 * ends['low']:.1f} to {100 * ends['high']:.1f})"

    lines += [f"{model:{_WIDTH}} {cell(model, shown):>20} {cell(model, 'mrr'):>20}" for model in metrics]
    lines.append(f"{'visual reliance':{_WIDTH}} {cell('both', 'visual_reliance'):>20}")
    lines.append(f"{metrics['both']['all']['n']:,} queries")
    return lines
