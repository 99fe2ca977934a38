from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import pytest

from notellm2.artifacts import Artifact, Store
from notellm2.evaluation.ablation import Cell, Spread, ablation


def evaluation(store: Store, name: str, recall: float, *, ks: tuple[int, ...] = (5, 10, 100)) -> Artifact:
    """An evaluation whose every figure is told by one number."""

    def figures(factor: float) -> dict[str, float]:
        return {f"recall@{k}": recall * factor * (1 + i) / 10 for i, k in enumerate(ks)}

    def write(folder: Path) -> None:
        rows = {
            row: {"all": figures(factor), "short_query": figures(factor / 2)}
            for row, factor in (("both", 1.0), ("text_only", 0.8), ("image_only", 0.1))
        }
        (folder / "metrics.json").write_text(json.dumps(rows))

    return store.build("evaluation", 1, {"name": name}, {}, write)


def test_the_table_has_means_and_deviations_over_seeds(tmp_path: Path) -> None:
    store = Store(tmp_path)
    values = {("text", 0): 1.0, ("text", 3): 2.0, ("basic", 0): 4.0}
    cells = [Cell(name, seed, evaluation(store, f"{name}{seed}", value)) for (name, seed), value in values.items()]
    made = ablation(store, cells)
    text, basic = csv.DictReader(made.file("table.csv").open())
    assert (text["variant"], text["seeds"], basic["variant"], basic["seeds"]) == ("text", "2", "basic", "1")
    # At 100, the third cut-off, a recall is 0.3 times the number; both slices and inputs have factors of their own.
    assert float(text["both inputs R@100 mean"]) == pytest.approx(0.45)
    assert float(text["both inputs R@100 sd"]) == pytest.approx(math.sqrt(2 * 0.15**2))
    assert float(text["image only R@10 mean"]) == pytest.approx(0.03)
    assert float(text["short query R@100 mean"]) == pytest.approx(0.225)
    assert basic["both inputs R@100 sd"] == ""
    assert "| text | 2 |" in made.file("table.md").read_text()
    assert "45.0 ± 21.2" in made.file("table.md").read_text()
    assert "| 120.0 |" in made.file("table.md").read_text()
    assert made.file("plot.png").read_bytes().startswith(b"\x89PNG")
    assert made.summary["variants"]["text"]["both inputs R@100"] == pytest.approx(0.45)
    assert json.loads(made.file("cells.json").read_text())["text/3"]["both"]["all"]["recall@10"] == pytest.approx(0.4)
    assert ablation(store, cells) == made
    assert ablation(store, cells[::-1]).key != made.key, "the order of the variants is shown"


def test_the_smallest_cutoff_stands_in_where_pools_are_small(tmp_path: Path) -> None:
    store = Store(tmp_path)
    made = ablation(store, [Cell("text", 0, evaluation(store, "small", 1.0, ks=(5, 20)))])
    assert "both inputs R@5 mean" in made.file("table.csv").read_text()


def test_a_figure_that_one_seed_lacks_is_undefined() -> None:
    assert Spread.of([0.1, None]).percent() == "–"
    assert Spread.of([]).percent() == "–"
    assert Spread.of([0.123]).percent() == "12.3"


def test_a_cell_given_twice_is_refused(tmp_path: Path) -> None:
    store = Store(tmp_path)
    one = Cell("text", 0, evaluation(store, "one", 1.0))
    for cells in ([one, one], []):
        with pytest.raises(ValueError, match="every variant and seed once"):
            ablation(store, cells)
