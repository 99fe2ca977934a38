"""The machine and what is installed on it: versions, threads, accelerator, clock."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from notellm2.artifacts import Store
from notellm2.doctor.check import Check, ok
from notellm2.recipe import Recipe
from notellm2.threads import describe_threads, let_idle_threads_sleep
from notellm2.workspace import Workspace

CONSTRAINTS = Path("constraints.txt")
_PROBE = """
import json, torch
cuda = torch.cuda.is_available()
names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if cuda else []
print(json.dumps({"torch": torch.__version__, "threads": torch.get_num_threads(), "cuda": names}))
"""
_PROBE_S = 120.0
_SHOWN = 4
_BUILT = datetime(2025, 1, 1, tzinfo=UTC)
"""No clock that is right is earlier than this code."""
_AHEAD_S = 120.0
"""Seconds that a file may be younger than now: clocks of machines that share a disk differ a little."""


def check_versions(constraints: Path = CONSTRAINTS) -> list[Check]:
    """Check every package that this one needs against its bounds, and against the versions that were tested together.

    Args:
        constraints: ``constraints.txt`` of the project; where it is not there, bounds alone are checked.
    """
    wanted = [Requirement(text) for text in requires("notellm2") or ()]
    needed = [one for one in wanted if one.marker is None or one.marker.evaluate({"extra": ""})]
    wrong = []
    for requirement in needed:
        there = _version(requirement.name)
        if there is None or not requirement.specifier.contains(there, prereleases=True):
            wrong.append(f"{requirement.name} {there or 'is missing'}, wanted {requirement.specifier or 'any'}")
    reinstall = "pip install -c constraints.txt -e ."
    checks = [ok("packages", f"{len(needed)} within their bounds, Python {sys.version.split()[0]}")]
    if wrong:
        checks = [Check("packages", "failed", _some(wrong), f"`{reinstall}`")]
    if constraints.is_file():
        checks.append(_tested(constraints, {canonicalize_name(one.name) for one in needed}, reinstall))
    return checks


def _tested(constraints: Path, needed: set[str], reinstall: str) -> Check:
    lines = [line for line in constraints.read_text(encoding="utf-8").splitlines() if "==" in line]
    pins = [Requirement(line) for line in lines if not line.startswith("#")]
    others = []
    for pin in pins:
        there = _version(pin.name)
        if canonicalize_name(pin.name) in needed and there is not None and not pin.specifier.contains(there):
            others.append(f"{pin.name} {there}, tested{pin.specifier}")
    if others:
        return Check("tested versions", "warning", _some(others), f"if something fails, `{reinstall}`")
    return ok("tested versions", f"those of {constraints}")


def _some(problems: list[str]) -> str:
    more = f" and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
    return ", ".join(problems[:_SHOWN]) + more


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def check_compute(recipe: Recipe | None = None) -> list[Check]:
    """Check torch's threads and the accelerator, in a process of its own: torch never comes into this one.

    Args:
        recipe: whose training is to run; None: any.
    """
    environment = dict(os.environ)
    let_idle_threads_sleep(environment)
    done = subprocess.run(
        [sys.executable, "-P", "-c", _PROBE],
        env=environment,
        capture_output=True,
        text=True,
        timeout=_PROBE_S,
        check=False,
    )
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        return [Check("torch", "failed", f"cannot be imported: {said}", "`pip install -c constraints.txt -e .`")]
    found = json.loads(done.stdout.splitlines()[-1])
    return [_threads(int(found["threads"]), environment), _accelerator(found, recipe)]


def _threads(count: int, environment: dict[str, str]) -> Check:
    cores = len(os.sched_getaffinity(0))
    words = describe_threads(count, environment)
    if environment.get("OMP_WAIT_POLICY", "").upper() == "ACTIVE":
        return Check("threads", "warning", words, "unset OMP_WAIT_POLICY: threads that spin slow each other down")
    if count > cores:
        return Check("threads", "warning", f"{words}, on {cores} core(s)", f"set OMP_NUM_THREADS={cores}")
    load = os.getloadavg()[0]
    if load > 1.5 * cores:
        return Check(
            "threads",
            "warning",
            f"{words}; other work already keeps {load:.1f} of {cores} core(s) busy",
            "wait for it, or expect a slow training",
        )
    return ok("threads", words)


def _accelerator(found: dict[str, object], recipe: Recipe | None) -> Check:
    names = found["cuda"]
    if names:
        return ok("accelerator", f"{', '.join(map(str, names)) if isinstance(names, list) else names}")
    if recipe is not None and recipe.model.base_weights == "nf4":
        return Check(
            "accelerator", "warning", "none, and model.base_weights is nf4", "4-bit weights on a CPU are slow: use bf16"
        )
    return ok("accelerator", f"none; torch {found['torch']} trains on the CPU")


def check_clock(workspace: Workspace) -> Check:
    """Check that the clock is neither before this code nor before what the store already holds.

    Args:
        workspace: the store.
    """
    now = time.time()
    shown = f"{datetime.fromtimestamp(now, UTC):%Y-%m-%d %H:%M} UTC"
    advice = "set the clock (timedatectl set-ntp true): retention, schedules and `quality.latest` go by it"
    if now < _BUILT.timestamp():
        return Check("clock", "failed", f"it says {shown}", advice)
    manifests = [a.path / "manifest.json" for a in Store(workspace.root).artifacts()] if workspace.root.is_dir() else []
    newest = max((path.stat().st_mtime for path in manifests), default=0.0)
    if newest > now + _AHEAD_S:
        return Check(
            "clock", "warning", f"it says {shown}, and the store holds files of {newest - now:.0f} s later", advice
        )
    return ok("clock", shown)
