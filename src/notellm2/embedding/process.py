"""Embed in a process of its own, from a process that must never import torch. Imports no torch itself."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from notellm2.artifacts import Artifact, Store
from notellm2.errors import InputError
from notellm2.notes.dataset import Dataset


def embed_in_subprocess(store: Store, dataset: Dataset, data_md5: str, bundle: Path) -> Artifact:
    """Run `by_bundle.embed_bundle` in a child process: all notes of a data set by a bundle.

    Raises:
        InputError: as raised in the child; a damaged bundle too.
        RuntimeError: the child failed otherwise; what it said is on standard error.
    """
    return _run(store, dataset, data_md5, bundle, [])


def refresh_in_subprocess(
    store: Store, dataset: Dataset, data_md5: str, bundle: Path, digest: str, previous: Artifact | None
) -> Artifact:
    """Run `refresh.refresh_vectors` in a child process: only notes are embedded that earlier vectors do not have.

    Args:
        store: where the artifact goes.
        dataset: the notes.
        data_md5: its version.
        bundle: folder of the model that made the earlier vectors.
        digest: of the bundle, as the registry knows it.
        previous: the earlier vectors, in that store; None: everything is embedded.

    Raises:
        InputError, RuntimeError: as `embed_in_subprocess`.
    """
    more = ["--bundle-digest", digest]
    more += [] if previous is None else ["--previous", f"{previous.stage}/{previous.key}"]
    return _run(store, dataset, data_md5, bundle, more)


def _run(store: Store, dataset: Dataset, data_md5: str, bundle: Path, more: list[str]) -> Artifact:
    command = [sys.executable, "-m", "notellm2.embedding", "--store", str(store.root), "--data", str(dataset.path)]
    command += ["--data-md5", data_md5, "--bundle", str(bundle), *more]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    answer: dict[str, str] = json.loads(done.stdout.splitlines()[-1]) if done.stdout.strip() else {}
    if done.returncode == 0:
        return Artifact.from_reference(answer)
    if "message" in answer:
        raise InputError(answer["message"])
    raise RuntimeError(f"embedding with {bundle} ended with status {done.returncode}; what it said is above")
