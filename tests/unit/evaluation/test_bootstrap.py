"""Resampling against what statistics says of means."""

from __future__ import annotations

import numpy as np
import pytest

from notellm2.evaluation.bootstrap import resample


def test_the_interval_of_a_mean_is_the_normal_one() -> None:
    rng = np.random.default_rng(1)
    hits = (rng.random((2000, 1)) < 0.3).astype(np.float64)
    found = resample(hits, 2000)
    error = 1.96 * hits.std() / np.sqrt(len(hits))
    assert found.low[0] == pytest.approx(hits.mean() - error, abs=0.003)
    assert found.high[0] == pytest.approx(hits.mean() + error, abs=0.003)


def test_it_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(2)
    tries = (rng.random((150, 300)) < 0.4).astype(np.float64).T  # 300 queries, 150 experiments
    found = resample(tries, 400)
    covered = ((found.low <= 0.4) & (found.high >= 0.4)).mean()
    assert 0.88 <= covered <= 0.99


def test_a_difference_is_judged_by_its_pairs() -> None:
    rng = np.random.default_rng(3)
    steady = np.full(200, 0.05)
    noisy = rng.standard_normal(200)
    found = resample(np.column_stack([steady, noisy - noisy.mean(), np.zeros(200), -steady]), 1000)
    assert found.p[0] == pytest.approx(2 / 1001)  # as small as 1,000 resamples can say
    assert found.p[1] > 0.5
    assert (found.low[2], found.high[2], found.p[2]) == (0.0, 0.0, 1.0)
    assert found.p[3] == found.p[0]


def test_equal_values_give_equal_intervals_and_any_block_is_covered() -> None:
    values = np.random.default_rng(4).random((30, 2))
    first, again = resample(values, 130), resample(values, 130)
    np.testing.assert_array_equal(first.low, again.low)
    assert (first.low < values.mean(axis=0)).all()


def test_no_queries_and_values_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="no queries"):
        resample(np.empty((0, 1)), 100)
    with pytest.raises(ValueError, match="not finite"):
        resample(np.array([[np.nan]]), 100)
