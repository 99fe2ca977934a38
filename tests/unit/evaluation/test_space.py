"""Figures of spaces whose health is known."""

from __future__ import annotations

import numpy as np
import pytest

from notellm2.evaluation import space as module
from notellm2.evaluation.space import Space, describe_space, effective_rank


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def spread(n: int = 600, dim: int = 16) -> np.ndarray:
    return unit(np.random.default_rng(0).standard_normal((n, dim)))


def test_an_even_space_is_healthy() -> None:
    pool = spread()
    found = describe_space(Space(pool[:50], pool[:50], pool, None))
    assert found["alignment"] == pytest.approx(0, abs=1e-6)
    assert found["uniformity"] < -3
    assert found["effective_rank"] == pytest.approx(16, rel=0.02)
    assert found["never_in_top_100_share"] < 0.05
    assert found["duplicate_share"] == 0
    assert found["dim"] == 16
    assert found["young_share"] is None


def test_a_collapsed_space_shows_in_every_figure() -> None:
    rng = np.random.default_rng(1)
    pool = np.zeros((600, 16), np.float32)
    pool[:, 0] = 1
    pool[:, 1] = 0.01 * rng.standard_normal(600)
    pool = unit(pool)
    pool[1::2] = pool[::2]  # every note twice
    found = describe_space(Space(pool[:10], pool[10:20], pool, None))
    assert found["uniformity"] > -0.01
    assert found["effective_rank"] < 1.1
    assert found["duplicate_share"] == 1.0


def test_a_hub_keeps_the_others_out_of_every_list() -> None:
    rng = np.random.default_rng(2)
    centre = unit(rng.standard_normal((1, 300)))
    outer = unit(0.5 * centre + unit(rng.standard_normal((400, 300))))
    hubs = unit(centre + 0.001 * rng.standard_normal((120, 300)))
    found = describe_space(Space(outer[:5], outer[5:10], np.concatenate([outer, hubs]), None))
    assert found["never_in_top_100_share"] > 0.5


def test_young_notes_are_counted_in_the_lists_people_see() -> None:
    pool = spread(80)
    young = np.zeros(80, bool)
    young[:40] = True
    share = describe_space(Space(pool[:4], pool[4:8], pool, young))["young_share"]
    lists = []
    for i, row in enumerate(pool):
        order = np.argsort(-(pool @ row))
        lists.append(young[[j for j in order if j != i][:10]].mean())
    assert share == pytest.approx(np.mean(lists))


def test_a_sample_of_askers_and_small_blocks_give_lists_of_whole_pools(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = spread(300)
    whole = describe_space(Space(pool[:4], pool[4:8], pool, None))
    monkeypatch.setattr(module, "_BLOCK_SCORES", 1000)
    assert describe_space(Space(pool[:4], pool[4:8], pool, None)) == whole
    monkeypatch.setattr(module, "_ASKERS", 2)
    few = describe_space(Space(pool[:4], pool[4:8], pool, None))
    assert few["askers"] == 2
    assert few["never_in_top_100_share"] >= 1 - 200 / 300


def test_tiny_pools_have_figures_too() -> None:
    one = np.ones((1, 4), np.float32) / 2
    found = describe_space(Space(one, one, one, np.array([True])))
    assert found["uniformity"] is None
    assert found["never_in_top_100_share"] == 1.0
    assert found["young_share"] is None
    assert effective_rank(np.ones((5, 3), np.float32)) == 0.0
