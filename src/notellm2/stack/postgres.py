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
_INSTALLED = "/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/opt/homebrew/opt/postgresql*/bin"


def system_user(wanted: str) -> str:
    """Return whom PostgreSQL runs as: ourselves (empty) unless we are root, which it refuses.

    Raises:
        InputError: we are root and there is no such user.
    """
    if os.geteuid() != 0:
        return ""
    if not any(entry.pw_name == wanted and entry.pw_uid for entry in pwd.getpwall()):
        raise InputError(
            f"PostgreSQL refuses to run as root, and this machine has no other user {wanted!r} for it: make one "
            f"(`useradd --system {wanted}`), name one by POSTGRES_SYSTEM_USER, or start the stack as an ordinary user"
        )
    return wanted


def programs() -> Path:
    """Find the folder of PostgreSQL's programs: the newest of this machine's, from 15 on.

    Raises:
        InputError: there is none; says where it was looked for.
    """
    on_path = shutil.which("postgres")
    folders = [Path(on_path).parent] if on_path else []
    for pattern in _INSTALLED:
        folders.extend(Path("/").glob(pattern.removeprefix("/")))
    versions = {folder: version for folder in folders if (version := _major(folder)) >= OLDEST}
    if not versions:
        raise InputError(
            f"PostgreSQL {OLDEST} or newer is not here (no `postgres` and `initdb` on PATH or in "
            f"{', '.join(_INSTALLED)}): install it (Debian and Ubuntu: `apt install postgresql`), or use "
            "docker-compose.yml"
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

    `initdb` runs under a temporary name, and its folder is renamed: what is there is whole.

    Args:
        data: the folder.
        binaries: PostgreSQL's programs.
        user: system user who will own it; empty: ourselves.
        password: of the superuser ``postgres``.

    Returns:
        Whether it was made.

    Raises:
        InputError: the folder belongs to another major version or holds something else, or `initdb` failed, as where
            the user cannot reach it.
    """
    version = data / "PG_VERSION"
    if version.exists():
        present = version.read_text().strip()
        if present != str(_major(binaries)):
            raise InputError(
                f"{data} was made by PostgreSQL {present}, and {binaries} holds {_major(binaries)}: install {present}, "
                "or back up with it, remove the folder and restore (docs/guides/back-up-and-restore.md)"
            )
        return False
    if data.exists() and any(data.iterdir()):
        raise InputError(f"{data} holds files, but no PG_VERSION: damaged, or not ours; look before you remove it")
    temporary = data.with_name(f".{data.name}.new")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(mode=0o700)
    # The password goes by a file, since command lines are for all to see.
    with tempfile.NamedTemporaryFile("w", prefix="notellm2-") as handle:
        handle.write(password + "\n")
        handle.flush()
        for path in (handle.name, temporary) if user else ():
            shutil.chown(path, user)
        command = [
            str(binaries / "initdb"),
            "--pgdata",
            str(temporary),
            "--username=postgres",
            f"--pwfile={handle.name}",
        ]
        command += ["--auth=scram-sha-256", "--encoding=UTF8", "--no-locale"]
        process = subprocess.run(command, user=user or None, cwd="/", capture_output=True, text=True, check=False)
    if process.returncode:
        shutil.rmtree(temporary, ignore_errors=True)
        hint = f"; the user {user}, as whom it runs, must be able to pass through every folder above" if user else ""
        raise InputError(f"{data}: initdb failed: {(process.stderr or process.stdout).strip()[-800:]}{hint}")
    temporary.rename(data)
    return True
