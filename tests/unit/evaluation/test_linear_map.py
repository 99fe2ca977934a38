"""The linear map's training: its gradient, what it learns, and what it must not count as a negative."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from notellm2.evaluation.linear_map import MapSettings, info_nce, train_map

RNG = np.random.default_rng(0)
SMALL = MapSettings(dim=16, epochs=40, batch=32, dropout=0.3, lr=1e-2)


def test_the_gradient_is_the_losss_slope() -> None:
    outputs = RNG.standard_normal((8, 5)).astype(np.float32)
    masked = np.zeros((8, 8), np.bool_)
    masked[0, 4] = masked[4, 0] = True
    _, gradient, of_scale = info_nce(outputs, 1.5, masked)
    step = 1e-2
    for row, column in ((0, 0), (3, 4), (7, 2)):
        moved = [outputs.copy(), outputs.copy()]
        moved[0][row, column] += step
        moved[1][row, column] -= step
        slope = (info_nce(moved[0], 1.5, masked)[0] - info_nce(moved[1], 1.5, masked)[0]) / (2 * step)
        assert gradient[row, column] == pytest.approx(slope, abs=2e-4)
    slope = (info_nce(outputs, 1.5 + step, masked)[0] - info_nce(outputs, 1.5 - step, masked)[0]) / (2 * step)
    assert of_scale == pytest.approx(slope, abs=2e-4)


def test_a_masked_note_is_no_negative_and_a_partner_counts_although_it_is_known() -> None:
    outputs = RNG.standard_normal((6, 4)).astype(np.float32)
    outputs[2] = outputs[0]  # the hardest negative of row 1's partner
    plain = np.zeros((6, 6), np.bool_)
    without = plain.copy()
    without[1, 2] = True
    partners = plain.copy()
    partners[np.arange(6), np.arange(6) ^ 1] = True
    assert info_nce(outputs, 2.0, without)[0] < info_nce(outputs, 2.0, plain)[0]
    assert info_nce(outputs, 2.0, partners)[0] == info_nce(outputs, 2.0, plain)[0]


def test_outputs_that_say_nothing_have_the_loss_of_chance() -> None:
    outputs = np.zeros((10, 4), np.float32)
    assert info_nce(outputs, 3.0, np.zeros((10, 10), np.bool_))[0] == pytest.approx(np.log(9), rel=1e-5)


def grouped(notes: int = 1000, groups: int = 20) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Notes whose group shows in a few of many noisy features: inputs, pairs of the first half, each note's group."""
    rng = np.random.default_rng(3)
    group = np.arange(notes) % groups
    noise = rng.standard_normal((notes, 60)).astype(np.float32)
    inputs = np.concatenate([2 * np.eye(groups, dtype=np.float32)[group], noise], axis=1)
    pairs = np.stack([np.arange(notes // 2 - groups), np.arange(groups, notes // 2)], axis=1)
    return inputs, pairs, group


def test_it_learns_which_features_matter_and_embeds_notes_it_never_saw() -> None:
    inputs, pairs, group = grouped()
    trained = train_map(inputs, pairs, SMALL)
    unseen = trained.embed(inputs)[500:]
    np.testing.assert_allclose(np.linalg.norm(unseen, axis=1), 1, rtol=1e-5)

    def first_is_of_the_group(rows: np.ndarray) -> float:
        cosines = rows @ rows.T
        np.fill_diagonal(cosines, -np.inf)
        return float((group[500:][cosines.argmax(axis=1)] == group[500:]).mean())

    raw = inputs[500:] / np.linalg.norm(inputs[500:], axis=1, keepdims=True)
    assert first_is_of_the_group(raw) < 0.3
    assert first_is_of_the_group(unseen) > 0.9


def test_equal_seeds_give_equal_maps_and_steps_are_bounded() -> None:
    inputs, pairs, _ = grouped()
    once, again = (train_map(inputs, pairs, SMALL) for _ in range(2))
    np.testing.assert_array_equal(once.matrix_FD, again.matrix_FD)
    other = train_map(inputs, pairs, dataclasses.replace(SMALL, seed=1))
    assert not np.array_equal(once.matrix_FD, other.matrix_FD)
    assert once.steps == 40 * 15
    assert train_map(inputs, pairs, dataclasses.replace(SMALL, max_steps=7)).steps == 7


def test_no_pairs_are_refused() -> None:
    with pytest.raises(ValueError, match="no pairs"):
        train_map(np.ones((4, 3), np.float32), np.empty((0, 2), np.int64), SMALL)
