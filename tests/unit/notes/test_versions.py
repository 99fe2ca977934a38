from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from notellm2.errors import InputError
from notellm2.notes import versions
from notellm2.notes.versions import DataStatus, data_md5, is_stored, pin, pinned_md5, pull, push, remotes, status

ROOT = Path(__file__).parents[3]


def _data(root: Path, **files: str) -> Path:
    directory = root / "data"
    for name, text in ({"notes/part-0": "n", "b.json": "b", "a-z": "1", "a/z": "2", "ü": "3"} | files).items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return directory


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    root = tmp_path / "project"
    root.mkdir()
    subprocess.run(["git", "init", "--quiet", str(root)], check=True)
    return root


def test_pinning_gives_the_version_that_dvc_writes_and_it_travels_by_a_remote(repository: Path) -> None:
    # One test of the whole way, since each DVC command costs a second.
    data = _data(repository)
    (data / "empty").mkdir()
    expected = data_md5(data)
    assert expected.endswith(".dir")
    assert status(data) == DataStatus(None, expected)

    assert pin(data) == expected
    written = yaml.safe_load((repository / "data.dvc").read_text())["outs"][0]
    assert (written["md5"], written["path"], written["nfiles"]) == (expected, "data", 5)
    assert pinned_md5(data) == expected
    assert status(data).clean
    assert "/data" in (repository / ".gitignore").read_text().split()
    settings = (repository / ".dvc" / "config").read_text()
    assert "analytics = false" in settings
    assert "check_update = false" in settings

    with pytest.raises(InputError, match="no DVC remote is set up"):
        push(data)
    remote = repository.parent / "remote"
    with (repository / ".dvc" / "config").open("a") as handle:
        handle.write(f"    remote = store\n['remote \"store\"']\n    url = {remote}\n")
    assert remotes(data) == ["store"]
    assert not is_stored(data)
    assert push(data) == expected
    assert is_stored(data)
    assert pull(data) == expected, "it is there already"

    shutil.rmtree(data)
    shutil.rmtree(repository / ".dvc" / "cache")
    assert status(data) == DataStatus(expected, None)
    assert pull(data) == expected
    assert data_md5(data) == expected

    (data / "b.json").write_text("changed by hand")
    assert not status(data).clean
    with pytest.raises(InputError, match="changed since it was pinned"):
        push(data)
    with pytest.raises(InputError, match="pinned nowhere"):
        pull(data)
    assert (data / "b.json").read_text() == "changed by hand"

    changed = pin(data)
    assert changed == data_md5(data) != expected
    shutil.rmtree(repository / ".dvc" / "cache")
    with pytest.raises(InputError, match="cache lacks the version"):
        push(data)
    shutil.rmtree(data)
    with pytest.raises(InputError, match="cache up to date"):
        pull(data)


def test_without_git_a_repository_is_set_up_beside_the_data(tmp_path: Path) -> None:
    data = _data(tmp_path / "plain")
    assert pin(data) == pinned_md5(data) == data_md5(data)
    assert "no_scm = True" in (tmp_path / "plain" / ".dvc" / "config").read_text()


def test_what_dvc_leaves_out_is_noticed(repository: Path) -> None:
    data = _data(repository)
    # The project's own settings, which no `dvc init` made, serve DVC as they are.
    (repository / ".dvc").mkdir()
    for name in ("config", ".gitignore"):
        shutil.copy(ROOT / ".dvc" / name, repository / ".dvc" / name)
    (repository / ".dvcignore").write_text("*.json\n")
    with pytest.raises(InputError, match=r"\.dvcignore"):
        pin(data)


def test_the_md5_does_not_depend_on_the_place_and_changes_with_name_or_content(tmp_path: Path) -> None:
    one = data_md5(_data(tmp_path / "one"))
    assert data_md5(_data(tmp_path / "two")) == one
    assert data_md5(_data(tmp_path / "three", **{"b.json": "B"})) != one
    renamed = _data(tmp_path / "four")
    (renamed / "b.json").rename(renamed / "c.json")
    assert data_md5(renamed) != one


def test_there_must_be_something_to_pin(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        pin(tmp_path / "data")
    (tmp_path / "data").mkdir()
    with pytest.raises(InputError, match="empty"):
        pin(tmp_path / "data")
    assert status(tmp_path / "data") == DataStatus(None, None)
    assert not status(tmp_path / "data").clean


def test_what_was_never_pinned_cannot_travel(tmp_path: Path) -> None:
    data = _data(tmp_path)
    for command in (push, pull):
        with pytest.raises(InputError, match="never pinned"):
            command(data)
    (tmp_path / "data.dvc").write_text(f"outs:\n- md5: {'0' * 32}.dir\n  path: data\n")
    with pytest.raises(InputError, match="no DVC repository"):
        pull(data)


@pytest.mark.parametrize(
    "text", ["", "outs: []", "outs:\n- path: data", "<<<<<<< HEAD\nouts:\n=======", "outs:\n- md5: 12"]
)
def test_a_damaged_pointer_is_named(text: str, tmp_path: Path) -> None:
    (tmp_path / "data.dvc").write_text(text)
    with pytest.raises(InputError, match=r"data\.dvc: expected"):
        pinned_md5(tmp_path / "data")


def _dvc_that_says(replies: list[tuple[int, str]], monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Let DVC give these replies one after the other; the pauses in between, in seconds."""
    pauses: list[float] = []

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        code, text = replies.pop(0)
        return subprocess.CompletedProcess(command, code, "", text)

    monkeypatch.setattr(versions.subprocess, "run", run)
    monkeypatch.setattr(versions.time, "sleep", pauses.append)
    return pauses


LOCKED = (1, "ERROR: Unable to acquire lock. Most likely another DVC process is running")
BUSY = (1, "ERROR: '/x/data' is busy, it is being blocked by:\n  (PID 7): dvc add")


def test_a_locked_repository_is_tried_again_with_growing_pauses(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pauses = _dvc_that_says([LOCKED, BUSY, LOCKED, (0, "done")], monkeypatch)
    assert versions._dvc(tmp_path, "push") == "done"
    assert pauses == [0.5, 1.0, 2.0]


def test_a_repository_that_stays_locked_is_given_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    replies = [LOCKED] * 20
    pauses = _dvc_that_says(replies, monkeypatch)
    with pytest.raises(InputError, match="another DVC command has held the lock"):
        versions._dvc(tmp_path, "push")
    assert pauses == list(versions.PAUSES_S)
    assert len(replies) == 20 - len(versions.PAUSES_S) - 1


def test_another_failure_is_not_tried_again_and_says_what_dvc_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pauses = _dvc_that_says([(255, "ERROR: disk full")], monkeypatch)
    with pytest.raises(InputError, match="`dvc add` failed:\nERROR: disk full"):
        versions._dvc(tmp_path, "add", "data")
    assert pauses == []


CONFLICT = """outs:
<<<<<<< HEAD
- md5: 7d37934a1a69abd8fc88fe2adeb764ab.dir
=======
- md5: 00000000000000000000000000000000.dir
>>>>>>> other
  hash: md5
  path: data
"""


def test_after_a_merge_conflict_pinning_again_works_as_advised(repository: Path) -> None:
    data = _data(repository)
    pin(data)
    (repository / "data.dvc").write_text(CONFLICT)
    with pytest.raises(InputError, match="restore it from git, or pin the data again"):
        status(data)
    assert pin(data) == pinned_md5(data) == data_md5(data)
    assert not list(repository.glob(".*.unreadable"))


def test_a_conflict_stays_as_it_was_where_dvc_refuses_and_dvc_says_why(repository: Path) -> None:
    data = _data(repository)
    pin(data)
    (repository / "data.dvc").write_text(CONFLICT)
    (repository / "other.dvc").write_text(CONFLICT)
    with pytest.raises(InputError, match=r"other\.dvc' is invalid"):
        pin(data)
    assert (repository / "data.dvc").read_text() == CONFLICT


def test_data_that_git_tracks_are_refused_with_dvcs_advice_which_works(repository: Path) -> None:
    data = _data(repository)
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@example.org", "-C", str(repository)]
    subprocess.run([*git, "add", "data"], check=True)
    subprocess.run([*git, "commit", "--quiet", "-m", "data"], check=True)
    with pytest.raises(InputError) as caught:
        pin(data)
    assert "output 'data' is already tracked by SCM" in str(caught.value)
    assert "git rm -r --cached 'data'" in str(caught.value)
    subprocess.run([*git, "rm", "-r", "--quiet", "--cached", "data"], check=True)
    subprocess.run([*git, "commit", "--quiet", "-m", "stop tracking data"], check=True)
    assert pin(data) == data_md5(data)


def test_a_second_pointer_to_the_same_data_is_named(repository: Path) -> None:
    data = _data(repository)
    pin(data)
    (repository / "other.dvc").write_text((repository / "data.dvc").read_text())
    with pytest.raises(InputError) as caught:
        pin(data)
    assert "is specified in" in str(caught.value)
    assert "other.dvc" in str(caught.value)


def test_the_projects_own_settings_are_quiet_and_keep_the_cache_out_of_git() -> None:
    settings = (ROOT / ".dvc" / "config").read_text()
    for line in ("analytics = false", "check_update = false", "autostage = false"):
        assert line in settings
    assert {"/cache", "/tmp", "/config.local"} <= set((ROOT / ".dvc" / ".gitignore").read_text().split())


def test_placing_puts_a_data_set_in_the_place_of_another_without_copying(tmp_path: Path) -> None:
    first = _data(tmp_path / "one")
    second = _data(tmp_path / "two", new="x")
    expected = data_md5(second)
    versions.place(second, first)
    assert data_md5(first) == data_md5(second) == expected
    assert (first / "b.json").stat().st_ino == (second / "b.json").stat().st_ino
    versions.place(second, tmp_path / "three" / "data")
    assert data_md5(tmp_path / "three" / "data") == expected
    assert [p.name for p in first.parent.iterdir()] == ["data"], "nothing is left beside it"
