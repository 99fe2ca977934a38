"""PostgreSQL without its image: find the programs, make the data folder, run as a user who is not root."""

from __future__ import annotations

import os
import pwd
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from notellm2.errors import InputError

OLDEST = 15
"""First major version that this project is run with."""
_PLACES = "/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/opt/homebrew/opt/postgresql*/bin"


def system_user(wanted: str) -> str:
    """Who PostgreSQL runs as: ourselves (empty) unless we are root, which it refuses.

    Raises:
        InputError: we are root and there is no such user.
    """
    if os.geteuid() != 0:
        return ""
    try:
        entry = pwd.getpwnam(wanted)
    except KeyError:
        entry = None
    if entry is None or entry.pw_uid == 0:
        raise InputError(
            f"PostgreSQL refuses to run as root, and this machine has no other user {wanted!r} for it: make one "
            f"(`useradd --system {wanted}`), name one by POSTGRES_SYSTEM_USER, or start the stack as an ordinary user"
        )
    return wanted


def programs() -> Path:
    """The folder of PostgreSQL's programs: the newest of this machine's, from 15 on.

    Raises:
        InputError: there is none; says where it was looked for.
    """
    folders = [Path(found).parent for found in [shutil.which("postgres")] if found]
    for pattern in _PLACES:
        folders.extend(Path("/").glob(pattern.removeprefix("/")))
    versions = {folder: version for folder in folders if (version := _major(folder)) >= OLDEST}
    if not versions:
        raise InputError(
            f"PostgreSQL {OLDEST} or newer is not here (no `postgres` and `initdb` on PATH or in {', '.join(_PLACES)}):"
            " install it (Debian and Ubuntu: `apt install postgresql`), or use docker-compose.yml"
        )
    return max(versions, key=lambda folder: versions[folder])


def _major(folder: Path) -> int:
    if not all((folder / name).exists() for name in ("postgres", "initdb", "psql")):
        return 0
    said = subprocess.run([folder / "postgres", "--version"], capture_output=True, text=True, check=False).stdout
    match = re.search(r"\d+", said)
    return int(match.group()) if match else 0


def prepare_data(data: Path, binaries: Path, user: str, password: str) -> bool:
    """Make a data folder with password authentication over TCP, unless it is there.

    `initdb` runs beside it, and its folder is renamed: what is there is whole.

    Args:
        data: the folder.
        binaries: PostgreSQL's programs.
        user: system user who will own it; empty: ourselves.
        password: of the superuser ``postgres``.

    Returns:
        Whether it was made.

    Raises:
        InputError: the folder belongs to another major version or holds something else, the user cannot reach it, or
            `initdb` failed.
    """
    check_reachable(data.parent, user)
    version = data / "PG_VERSION"
    if version.exists():
        there = version.read_text().strip()
        if there != str(_major(binaries)):
            raise InputError(
                f"{data} was made by PostgreSQL {there}, and {binaries} holds {_major(binaries)}: install {there}, or "
                "back up with it, remove the folder and restore (docs/guides/back-up-and-restore.md)"
            )
        return False
    if data.exists() and any(data.iterdir()):
        raise InputError(f"{data} holds files, but no PG_VERSION: damaged, or not ours; look before you remove it")
    beside = data.with_name(f".{data.name}.new")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(mode=0o700)
    # The password goes by a file, since command lines are for all to see.
    with tempfile.NamedTemporaryFile("w", prefix="notellm2-") as handle:
        handle.write(password + "\n")
        handle.flush()
        if user:
            entry = pwd.getpwnam(user)
            os.chown(handle.name, entry.pw_uid, entry.pw_gid)
            os.chown(beside, entry.pw_uid, entry.pw_gid)
        command = [str(binaries / "initdb"), "--pgdata", str(beside), "--username=postgres", f"--pwfile={handle.name}"]
        command += ["--auth=scram-sha-256", "--encoding=UTF8", "--no-locale"]
        made = subprocess.run(command, user=user or None, cwd="/", capture_output=True, text=True, check=False)
    if made.returncode:
        shutil.rmtree(beside, ignore_errors=True)
        raise InputError(f"{data}: initdb failed: {(made.stderr or made.stdout).strip()[-800:]}")
    beside.rename(data)
    return True


def check_reachable(folder: Path, user: str) -> None:
    """Raise where a system user cannot pass through the folders to this one.

    Raises:
        InputError: names the first folder that is closed to the user, and its mode.
    """
    if not user:
        return
    entry = pwd.getpwnam(user)
    for place in [*reversed(folder.absolute().parents), folder.absolute()]:
        state = place.stat()
        mine, group = state.st_uid == entry.pw_uid, state.st_gid == entry.pw_gid
        bit = 0o100 if mine else 0o010 if group else 0o001
        if not state.st_mode & bit:
            raise InputError(
                f"state folder {folder.parent}: the user {user}, as whom PostgreSQL runs, cannot pass through {place} "
                f"(mode {state.st_mode & 0o777:o}): choose another folder with --state, or start as an ordinary user"
            )
