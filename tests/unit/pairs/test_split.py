from __future__ import annotations

import numpy as np
import pytest

from notellm2.errors import InputError
from notellm2.pairs.split import TEST, TRAIN, VALIDATION, assign_notes, cut_time
from tests.unit.pairs.conftest import note_table

IDS = [f"n{i}" for i in range(200)]


def test_random_is_one_draw_a_note_in_file_order() -> None:
    split = assign_notes(note_table(IDS), "random", validation_share=0.1, test_share=0.3, seed=1)
    draw = np.random.default_rng(1).random(200)
    assert ((split == TEST) == (draw < 0.3)).all()
    assert ((split == VALIDATION) == ((draw >= 0.3) & (draw < 0.4))).all()
    assert set(split.tolist()) == {TRAIN, VALIDATION, TEST}


def test_test_set_does_not_move_with_the_validation_share() -> None:
    splits = [
        assign_notes(note_table(IDS), "random", validation_share=share, test_share=0.3, seed=1) for share in (0, 0.4)
    ]
    assert ((splits[0] == TEST) == (splits[1] == TEST)).all()
    assert not (splits[0] == VALIDATION).any()


def test_newest_holds_out_the_latest_notes() -> None:
    created = [5, 1, 9, 7, 3, 7, 2, 8, 0, 4]
    split = assign_notes(note_table(IDS[:10], created), "newest", validation_share=0.2, test_share=0.3, seed=1)
    assert np.flatnonzero(split == TEST).tolist() == [2, 5, 7]  # 9, the second 7, 8
    assert np.flatnonzero(split == VALIDATION).tolist() == [0, 3]  # 5, the first 7


def test_newest_needs_times_of_creation() -> None:
    with pytest.raises(InputError, match=r"1 of 3 notes have none \(first: note 'n1', row 1\)"):
        assign_notes(note_table(IDS[:3], [1, None, 2]), "newest", validation_share=0, test_share=0.5, seed=1)


def test_cut_leaves_the_share_before_it() -> None:
    time = np.random.default_rng(0).permutation(1000).astype(np.int64)
    assert (time < cut_time(time, 0.7)).mean() == pytest.approx(0.7)


def test_cut_never_parts_one_moment() -> None:
    time = np.array([0, 0, 1, 1, 1, 1, 2], np.int64)
    assert cut_time(time, 0.7) == 1


def test_cut_needs_behaviour_before_it() -> None:
    with pytest.raises(InputError, match=r"raise pairs\.cut_share"):
        cut_time(np.array([3, 3, 3, 4], np.int64), 0.5)
