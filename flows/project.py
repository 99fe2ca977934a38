"""Steps that prefect.yaml names: where a worker finds the project, and which version of it is deployed.

Imports no Prefect and nothing of the library: Prefect runs a step before the flow.
"""

from __future__ import annotations

import os
import subprocess
from importlib.metadata import version
from pathlib import Path

HOME_VARIABLE = "NOTELLM2_HOME"


def enter() -> dict[str, str]:
    """Go to the project's folder on this machine, where recipes and relative paths of a deployment begin.

    It is the one that `NOTELLM2_HOME` names, else the one this file lies in.

    Returns:
        ``directory``: the folder.

    Raises:
        FileNotFoundError: it has no recipes; says what to do.
    """
    named = os.environ.get(HOME_VARIABLE)
    home = Path(named) if named else Path(__file__).resolve().parents[1]
    if not (home / "recipes").is_dir():
        raise FileNotFoundError(
            f"{home}: no project here (no folder recipes/); set {HOME_VARIABLE} in the worker's environment to the "
            "checkout, or install the project there with `pip install -e .`"
        )
    os.chdir(home)
    return {"directory": str(home)}


def describe() -> dict[str, str]:
    """Say what is deployed: the commit of the checkout or of the image, else the package's version.

    Returns:
        ``version``.
    """
    return {"version": commit(12) or version("notellm2")}


def commit(digits: int = 40, folder: Path | None = None) -> str | None:
    """Return the commit this code is from, with ``-dirty`` after it if files differ; None where git does not know.

    Pins of data (``*.dvc``) do not count: an ingest writes them, and every run records its data version by itself. An
    image holds no repository: its ``NOTELLM2_COMMIT`` says what it was built from.

    Args:
        digits: of the commit's name, at least; an image's is returned as it is.
        folder: in the checkout; None: this file's.
    """

    def git(*arguments: str) -> str:
        here = folder or Path(__file__).parent
        return subprocess.run(
            ["git", *arguments], cwd=here, capture_output=True, text=True, check=True, timeout=30
        ).stdout.strip()

    try:
        described = git("describe", "--always", f"--abbrev={digits}", "--exclude=*")
        changed = git("status", "--porcelain", "--untracked-files=no", "--", ":/", ":(top,exclude,glob)**/*.dvc")
    except (OSError, subprocess.SubprocessError):
        return os.environ.get("NOTELLM2_COMMIT") or None
    return described + ("-dirty" if changed else "")
