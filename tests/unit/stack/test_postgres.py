"""PostgreSQL without its image: found, made, refused as root, told where it cannot be."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from notellm2.errors import InputError
from notellm2.stack import postgres
from notellm2.stack.postgres import prepare_data, programs, system_user

NOBODY = "nobody"


@pytest.fixture
def fake_programs(tmp_path: Path) -> Iterator[Path]:
    """Programs that say they are PostgreSQL 16, and an `initdb` that fails."""
    folder = tmp_path / "bin"
    folder.mkdir()
    scripts = {"postgres": "echo 'postgres (PostgreSQL) 16.3'", "initdb": "echo disk full >&2; exit 1", "psql": "true"}
    for name, script in scripts.items():
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)
    return folder


def test_only_root_needs_another_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert system_user("no-such-user") == ""
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert system_user(NOBODY) == NOBODY
    for wanted in ("no-such-user", "root"):
        with pytest.raises(InputError, match=rf"refuses to run as root.*'{wanted}'.*POSTGRES_SYSTEM_USER"):
            system_user(wanted)


def test_no_postgresql_says_where_it_was_looked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(postgres, "_INSTALLED", (str(tmp_path / "*"),))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match=r"PostgreSQL 15 or newer is not here.*apt install postgresql.*compose"):
        programs()


def test_an_older_one_does_not_count(monkeypatch: pytest.MonkeyPatch, fake_programs: Path) -> None:
    monkeypatch.setattr(postgres, "_INSTALLED", ())
    monkeypatch.setenv("PATH", f"{fake_programs}:/bin:/usr/bin")
    assert programs() == fake_programs
    monkeypatch.setattr(postgres, "OLDEST", 17)
    with pytest.raises(InputError, match="PostgreSQL 17 or newer"):
        programs()


def test_a_failed_initdb_is_told_and_leaves_no_data(fake_programs: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="initdb failed: disk full"):
        prepare_data(tmp_path / "data", fake_programs, "", "k7Qd2vXw9LmRz4Ht")
    assert {path.name for path in tmp_path.iterdir()} == {"bin"}


def test_data_of_another_version_are_left_alone(fake_programs: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "PG_VERSION").write_text("15\n")
    with pytest.raises(InputError, match=r"was made by PostgreSQL 15, and .* holds 16"):
        prepare_data(data, fake_programs, "", "x")
    (data / "PG_VERSION").rename(data / "base")
    with pytest.raises(InputError, match="look before you remove it"):
        prepare_data(data, fake_programs, "", "x")
    assert (data / "base").exists()
    (data / "PG_VERSION").write_text("16\n")
    assert not prepare_data(data, fake_programs, "", "x")
