"""Which notes belong to which split, and where behaviour is cut in time.

Splits are note-disjoint: each note has one split, and a pair lives in a split only if both of its notes do.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from notellm2.errors import InputError

TRAIN, VALIDATION, TEST = 0, 1, 2
SPLITS = ("train", "validation", "test")
"""Names of the splits, by code."""


def assign_notes(
    notes: pa.Table, how: Literal["random", "newest"], *, validation_share: float, test_share: float, seed: int
) -> npt.NDArray[np.int8]:
    """Assign each note to a split.

    Args:
        notes: columns note_id and created_at, in data set order.
        how: ``random``: one draw a note from ``default_rng(seed).random(n)`` in data set order; below `test_share` is
            test, then below `test_share + validation_share` validation. The draw of a note does not depend on the
            shares, so the test set stays the same when only `validation_share` changes. ``newest``: the newest
            ``round(test_share * n)`` notes are test, the next newest validation; equal times stay in data set order.
        validation_share: share of the notes held out for validation.
        test_share: share of the notes held out for the test.
        seed: of the draw; ``newest`` does not use it.

    Returns:
        int8[N]: codes TRAIN, VALIDATION, TEST.

    Raises:
        InputError: ``newest``, and a note has no time of creation.
    """
    n = notes.num_rows
    split = np.full(n, TRAIN, np.int8)
    if how == "random":
        draw = np.random.default_rng(seed).random(n)
        split[draw < test_share + validation_share] = VALIDATION
        split[draw < test_share] = TEST
        return split
    created = notes["created_at"]
    if created.null_count:
        row = int(pc.index(pc.is_null(created), True).as_py())
        raise InputError(
            f"pairs.assign 'newest' orders notes by created_at, and {created.null_count} of {n} notes have none "
            f"(first: note {notes['note_id'][row].as_py()!r}, row {row}); export created_at, or set pairs.assign to "
            "'random'"
        )
    order = np.argsort(created.cast(pa.int64()).to_numpy(), kind="stable")
    test = round(test_share * n)
    validation = round(validation_share * n)
    split[order[n - test - validation :]] = VALIDATION
    split[order[n - test :]] = TEST
    return split


def cut_time(time: npt.NDArray[np.int64], share: float) -> int:
    """Find the time at which behaviour is cut: before it for training, after it for validation and test.

    Args:
        time: int64[R], microseconds since 1970, in any order, not empty.
        share: of the rows that should lie before the cut; fewer do when many rows share the cut's time, since rows
            of one time are never parted.

    Raises:
        InputError: no row would lie before the cut.
    """
    at = min(int(share * len(time)), len(time) - 1)
    cut = int(np.partition(time, at)[at])
    if cut == int(time.min()):
        raise InputError(
            f"pairs.behaviour 'before-after': no behaviour lies before the cut at share {share} of {len(time)} rows, "
            "as too many rows carry the earliest timestamp; raise pairs.cut_share or set pairs.behaviour to 'whole'"
        )
    return cut
