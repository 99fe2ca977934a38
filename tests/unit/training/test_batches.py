from __future__ import annotations

import numpy as np
import pytest
import torch

from notellm2.model.network.loss import chance_loss
from notellm2.training.batches import PairOrder, pictured_pairs, withheld_images

PAIRS = np.array([[0, 1], [2, 3], [4, 0], [1, 5], [6, 7], [3, 8], [9, 2]])


def known(a: int, b: int) -> bool:
    return any({a, b} == {q, t} and a != b for q, t in PAIRS.tolist())


@pytest.mark.parametrize("batch", [1, 2, 3, 5, 7, 20])
def test_each_epoch_holds_every_pair_once(batch: int) -> None:
    order = PairOrder(PAIRS, batch, seed=4)
    drawn = np.concatenate([order.step(step).reshape(-1, 2) for step in range(3 * len(PAIRS))])
    assert drawn.shape == (3 * len(PAIRS) * batch, 2)
    for epoch in range(3):
        part = drawn[epoch * len(PAIRS) : (epoch + 1) * len(PAIRS)]
        assert sorted(map(tuple, part.tolist())) == sorted(map(tuple, PAIRS.tolist()))


def test_the_order_is_a_function_of_seed_and_step() -> None:
    order, again = PairOrder(PAIRS, 3, seed=4), PairOrder(PAIRS, 3, seed=4)
    late = [again.step(step) for step in (9, 2, 5)]
    for step, rows in zip((9, 2, 5), late, strict=True):
        np.testing.assert_array_equal(order.step(step), rows)
    whole = np.concatenate([order.step(step) for step in range(7)])
    assert not np.array_equal(whole, np.concatenate([PairOrder(PAIRS, 3, seed=5).step(step) for step in range(7)]))
    epochs = PairOrder(PAIRS, 7, seed=4)
    assert not np.array_equal(epochs.step(0), epochs.step(1)), "every epoch has the same order"


@pytest.mark.parametrize("known_positives", [True, False])
def test_not_negatives_are_the_note_itself_and_its_known_partners(known_positives: bool) -> None:
    order = PairOrder(PAIRS, 4, seed=0)
    rows = np.array([0, 1, 4, 0, 1, 5, 9, 2])
    found = order.not_negatives(rows, known_positives=known_positives)
    for i, a in enumerate(rows):
        for j, b in enumerate(rows):
            assert found[i, j] == (a == b or (known_positives and known(a, b))), (a, b)


def test_a_block_of_the_excluded_is_that_part_of_the_matrix() -> None:
    rng = np.random.default_rng(0)
    pairs = rng.integers(0, 60, (300, 2))
    pairs = pairs[pairs[:, 0] != pairs[:, 1]]
    order = PairOrder(pairs, 40, seed=0)
    rows = np.concatenate([order.step(0), [61, 62]])  # notes that no pair knows
    partners = {frozenset(pair) for pair in pairs.tolist()}
    expected = np.array([[a == b or frozenset((a, b)) in partners for b in rows] for a in rows])
    excluded = order.excluded(rows, known_positives=True)
    for part in (slice(0, 82), slice(0, 2), slice(10, 47), slice(80, 82)):
        np.testing.assert_array_equal(excluded.block(part), expected[part])
    assert excluded.chance() == pytest.approx(chance_loss(41, torch.from_numpy(expected)))


def test_no_pairs_are_an_error() -> None:
    with pytest.raises(ValueError, match="no pairs"):
        PairOrder(np.zeros((0, 2), np.int64), 4, 0)


def test_withheld_images_are_a_share_that_seed_and_step_decide() -> None:
    assert withheld_images(100, 0.0, seed=1, step=2) is None
    first = withheld_images(4000, 0.3, seed=1, step=2)
    assert first is not None
    assert first.mean() == pytest.approx(0.3, abs=0.03)
    np.testing.assert_array_equal(first, withheld_images(4000, 0.3, seed=1, step=2))
    for seed, step in ((1, 3), (2, 2)):
        other = withheld_images(4000, 0.3, seed=seed, step=step)
        assert (first != other).any()


def test_only_pairs_of_which_both_notes_show_an_image_count_as_pictured() -> None:
    has_image = np.array([True, True, False, True, True])
    rows = np.array([4, 1, 0, 2, 3, 0])
    assert pictured_pairs(rows, has_image, None).tolist() == [True, True, False, False, True, True]
    imageless = np.array([False, True, False, False, False])  # of the distinct notes 0, 1, 2, 3, 4
    assert pictured_pairs(rows, has_image, imageless).tolist() == [False, False, False, False, True, True]
    assert has_image.tolist() == [True, True, False, True, True], "the source's flags were changed"


def test_related_notes_are_no_negatives_and_no_pairs() -> None:
    order = PairOrder(PAIRS, 4, seed=0, related=np.array([[0, 9], [5, 12]]))
    rows = np.array([0, 1, 4, 0, 9, 2, 12, 5])
    found = order.not_negatives(rows, known_positives=True)
    related = {frozenset((0, 9)), frozenset((5, 12))}
    for i, a in enumerate(rows):
        for j, b in enumerate(rows):
            assert found[i, j] == (a == b or known(a, b) or frozenset((int(a), int(b))) in related), (a, b)
    assert order.related(np.array([9]), np.array([0, 5])).tolist() == [[True, False]]
    assert set(map(tuple, order.step(0).reshape(-1, 2).tolist())) <= set(map(tuple, PAIRS.tolist()))
