from __future__ import annotations

import subprocess
import sys

import numpy as np

from notellm2.pairs import kernel


def test_rows_are_grouped_by_user_in_order_of_time() -> None:
    rng = np.random.default_rng(2)
    user = rng.integers(0, 20, 500).astype(np.int32)
    by_time = rng.permutation(500).astype(np.int32)
    order = np.empty(500, np.int32)
    indptr = kernel.group_by_user(user, by_time, 21, order)
    assert order.tolist() == sorted(by_time.tolist(), key=lambda row: user[row])
    assert np.diff(indptr).tolist() == np.bincount(user, minlength=21).tolist()


def test_importing_the_room_does_not_load_numba() -> None:
    code = "import sys, notellm2.pairs.pairs_stage; sys.exit('numba' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
