from __future__ import annotations

import hashlib
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from notellm2.embedding import feature_cache as module
from notellm2.embedding.feature_cache import FeatureCache

SHAPE = (3, 8)
PLENTY = 1 << 30


def key(n: int) -> bytes:
    return hashlib.sha256(str(n).encode()).digest()


def features(n: int) -> np.ndarray:
    return np.random.default_rng(n).standard_normal(SHAPE).astype(np.float16)


def fill(root: Path, numbers: range, *, budget: int = PLENTY, encoder: str = "e") -> None:
    with FeatureCache(root, encoder, budget) as cache:
        for n in numbers:
            cache.put(key(n), features(n))


def known(root: Path, numbers: range, encoder: str = "e") -> set[int]:
    with FeatureCache(root, encoder, PLENTY) as cache:
        return {n for n in numbers if cache.get(key(n)) is not None}


def age(root: Path, seconds: float) -> None:
    """Let everything in the cache have been used `seconds` earlier."""
    for path in root.rglob("*.npy"):
        then = path.stat().st_mtime - seconds
        os.utime(path, (then, then))


def test_what_was_put_is_found_byte_for_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SEGMENT_IMAGES", 4)
    with FeatureCache(tmp_path, "e", PLENTY) as cache:
        for n in range(10):
            assert cache.get(key(n)) is None
            cache.put(key(n), features(n))
        np.testing.assert_array_equal(cache.get(key(9)), features(9))  # not on disk yet
    with FeatureCache(tmp_path, "e", PLENTY) as cache:
        for n in range(10):
            found = cache.get(key(n))
            assert isinstance(found, np.memmap)
            np.testing.assert_array_equal(found, features(n))
    assert known(tmp_path, range(10), encoder="another") == set()


def test_two_writers_at_once_both_keep_what_they_made(tmp_path: Path) -> None:
    with FeatureCache(tmp_path, "e", PLENTY) as one, FeatureCache(tmp_path, "e", PLENTY) as two:
        for n in range(6):
            one.put(key(n), features(n))
            two.put(key(n + 3), features(n + 3))
    assert known(tmp_path, range(12)) == set(range(9))


def test_a_killed_writer_loses_one_segment_and_leaves_nothing_broken(tmp_path: Path) -> None:
    code = (
        "import os, sys, pathlib; from notellm2.embedding import feature_cache; feature_cache.SEGMENT_IMAGES = 2\n"
        "from tests.unit.embedding.test_feature_cache import features, key\n"
        "with feature_cache.FeatureCache(pathlib.Path(sys.argv[1]), 'e', 1 << 30) as kept:\n"
        "    for n in range(5): kept.put(key(n), features(n))\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    assert done.returncode == -9
    assert known(tmp_path, range(5)) == {0, 1, 2, 3}


def test_features_without_keys_do_not_exist_and_go_once_they_are_old(tmp_path: Path) -> None:
    """A kill between the two files, or in the middle of one."""
    fill(tmp_path, range(3))
    (keys,) = (tmp_path / "e").glob("*.keys.npy")
    torn = keys.rename(keys.with_name(f".{keys.name}"))
    assert known(tmp_path, range(3)) == set()
    assert torn.exists(), "it may be of a writer that is still at it"
    age(tmp_path, 2 * 24 * 3600)
    assert known(tmp_path, range(3)) == set()
    assert list((tmp_path / "e").iterdir()) == []


def test_over_its_budget_the_longest_unused_goes(tmp_path: Path) -> None:
    for n in range(3):
        fill(tmp_path, range(n, n + 1), encoder="e" if n else "other")
        age(tmp_path, 60)
    size = next(tmp_path.rglob("*.features.npy")).stat().st_size
    assert known(tmp_path, range(2)) == {1}  # used just now
    fill(tmp_path, range(3, 4), budget=2 * size)
    assert known(tmp_path, range(1), encoder="other") == set()
    assert known(tmp_path, range(4)) == {1, 3}
    assert len(list(tmp_path.rglob("*.npy"))) == 4, "features and keys of two segments"


def test_what_is_in_use_never_goes(tmp_path: Path) -> None:
    fill(tmp_path, range(4))
    age(tmp_path, 60)
    with FeatureCache(tmp_path, "e", PLENTY) as reader:
        fill(tmp_path, range(4, 6), budget=0)
        found = reader.get(key(2))
        assert found is not None
        np.testing.assert_array_equal(found, features(2))
        assert len(list(tmp_path.rglob("*.features.npy"))) == 1, "what nobody used is gone"
    fill(tmp_path, range(6, 7), budget=0)
    assert list((tmp_path / "e").iterdir()) == []


def test_a_segment_that_goes_while_it_is_opened_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path, range(2))
    real = module.fcntl.flock

    def removed_first(handle: object, operation: int) -> None:
        for path in tmp_path.rglob("*.npy"):
            path.unlink()
        real(handle, operation)  # type: ignore[arg-type]

    monkeypatch.setattr(module.fcntl, "flock", removed_first)
    with FeatureCache(tmp_path, "e", PLENTY) as cache:
        assert cache.get(key(0)) is None


def test_a_run_larger_than_the_budget_never_takes_much_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SEGMENT_IMAGES", 2)
    with FeatureCache(tmp_path, "e", 0) as cache:
        for n in range(7):
            cache.put(key(n), features(n))
            assert len(list(tmp_path.rglob("*.features.npy"))) == 0


def test_a_damaged_segment_is_told_and_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    fill(tmp_path, range(2))
    fill(tmp_path, range(2, 4))
    damaged = sorted(tmp_path.rglob("*.features.npy"))[0]
    damaged.write_bytes(damaged.read_bytes()[:20])
    assert known(tmp_path, range(4)) == {2, 3}
    assert "damaged" in caplog.text


def test_using_a_segment_counts_as_use(tmp_path: Path) -> None:
    fill(tmp_path, range(1))
    age(tmp_path, 1000)
    before = time.time()
    assert known(tmp_path, range(1)) == {0}
    (keys,) = (tmp_path / "e").glob("*.keys.npy")
    assert keys.stat().st_mtime >= before - 1


def test_any_number_of_segments_needs_few_open_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every run leaves a segment: after a year of daily retrains there are hundreds."""
    monkeypatch.setattr(module, "fsync_path", lambda _path: None)
    monkeypatch.setattr(module, "SEGMENT_IMAGES", 1)
    fill(tmp_path, range(150))
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (128, limits[1]))
    try:
        assert known(tmp_path, range(150)) == set(range(150))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
