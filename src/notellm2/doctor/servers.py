"""Whether servers and remotes that are configured answer: MLflow, Prefect, DVC's remote."""

from __future__ import annotations

import os
import socket
import time
import urllib.error
import urllib.parse
import urllib.request
from email.utils import parsedate_to_datetime
from pathlib import Path

from notellm2.credentials import redacted
from notellm2.doctor.check import Check, ok
from notellm2.errors import InputError
from notellm2.notes import versions
from notellm2.recipe import Recipe
from notellm2.registry.tracking import Tracking
from notellm2.workspace import Workspace

_TIMEOUT_S = 5.0
_SKEW_S = 60.0
_PORTS = {"postgresql": 5432, "mysql": 3306}


def check_servers(recipe: Recipe | None, workspace: Workspace) -> list[Check]:
    """Check that MLflow and Prefect answer, where the environment names servers.

    Args:
        recipe: whose registry is meant; None: the default one.
        workspace: the store.
    """
    checks = []
    try:
        tracking = Tracking.at(workspace, recipe.registry if recipe else None)
    except InputError as error:
        checks.append(Check("MLflow", "failed", str(error)))
    else:
        checks.append(_mlflow(tracking))
    address = os.environ.get("PREFECT_API_URL")
    if not address:
        checks.append(ok("Prefect", "no PREFECT_API_URL: each run has an embedded server"))
    else:
        advice = "start it (`notellm2 stack up`), or mend PREFECT_API_URL"
        checks.append(_asked("Prefect", f"{address.rstrip('/')}/health", advice))
    return checks


def _mlflow(tracking: Tracking) -> Check:
    advice = "start it (`notellm2 stack up`), or mend MLFLOW_TRACKING_URI"
    if tracking.served:
        return _asked("MLflow", f"{tracking.uri.rstrip('/')}/health", advice)
    if tracking.uri.startswith("sqlite:"):
        return ok("MLflow", f"{tracking.shown_uri}")
    where = urllib.parse.urlsplit(tracking.uri)
    port = where.port or _PORTS.get(where.scheme.partition("+")[0], 0)
    try:
        with socket.create_connection((where.hostname or "localhost", port), timeout=_TIMEOUT_S):
            return ok("MLflow", f"{tracking.shown_uri} answers")
    except OSError as error:
        return Check("MLflow", "failed", f"{tracking.shown_uri}: {error}", advice)


def _asked(name: str, url: str, advice: str) -> Check:
    """Ask a server for its health, and compare its clock with ours."""
    shown = redacted(url)
    # As for the stack's own health checks: a proxy has no business between.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=_TIMEOUT_S) as answer:  # http or https: what else is there is refused before
            date = answer.headers.get("Date")
    except urllib.error.HTTPError as error:
        return Check(name, "failed", f"{shown} answers {error.code} {error.reason}", advice)
    except (OSError, ValueError) as error:
        return Check(name, "failed", f"{shown}: {getattr(error, 'reason', error)}", advice)
    if date is not None:
        apart = parsedate_to_datetime(date).timestamp() - time.time()
        if abs(apart) > _SKEW_S:
            found = f"{shown} answers, and its clock is {apart:+.0f} s from this machine's"
            return Check(name, "warning", found, "set both clocks (timedatectl set-ntp true)")
    return ok(name, f"{shown} answers")


def check_remote(directory: Path) -> Check:
    """Check that DVC's remote answers, where the data set is pinned.

    Args:
        directory: the data set's folder.
    """
    name = "DVC remote"
    if not directory.with_name(f"{directory.name}.dvc").is_file():
        return ok(name, f"{directory} is not pinned: none is needed")
    try:
        remotes = versions.remotes(directory)
        if not remotes:
            advice = "`dvc remote add --default NAME URL`, then `notellm2 data push`"
            return Check(name, "warning", "none: the pinned version is on this machine only", advice)
        if not versions.is_stored(directory):
            return Check(name, "warning", f"{remotes[0]} lacks the pinned version", "`notellm2 data push`")
    except InputError as error:
        return Check(name, "failed", str(error))
    return ok(name, f"{', '.join(remotes)}: the pinned version is there")
