"""Content-addressed stage outputs: the one contract between rooms.

An artifact is an immutable directory ``<store>/<stage>/<key>/`` that holds ``manifest.json`` and files. Its key is
the digest of the stage's name and version, its part of the configuration and the keys of its inputs, so equal work
has an equal address and is never done twice. It is written to a temporary sibling, each file is hashed and flushed
to disk, and one rename publishes it: a directory without a valid manifest does not exist. A run killed anywhere
leaves at most temporary siblings, which `Store.gc` removes.

Names that begin with ``_`` at the top of a store are not stages (MLflow's and Prefect's files live there), nor are
names that begin with ``.`` (temporary siblings and workspaces).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from notellm2.errors import InputError

MANIFEST = "manifest.json"
FORMAT = 1
KEY_LENGTH = 20
_NAME = re.compile(r"[a-z][a-z0-9-]*\Z")

Config = BaseModel | Mapping[str, Any]
Inputs = Mapping[str, "Artifact | str"]


class ArtifactError(RuntimeError):
    """An artifact is damaged or incomplete; the message names the file and what to do."""


@dataclass(frozen=True)
class Artifact:
    """A finished stage output: a reference of a few hundred bytes, safe to hand between tasks as JSON.

    Attributes:
        stage: name of the stage that made it.
        key: digest of what it was made from.
        path: its directory.
        reused: whether it was there before; False from the call of `Store.build` that made it. No part of what it is.
    """

    stage: str
    key: str
    path: Path
    reused: bool = field(default=True, compare=False)

    def file(self, name: str) -> Path:
        """Return the path of one of its files.

        Raises:
            ArtifactError: the artifact has no such file.
        """
        path = self.path / name
        if not path.exists():
            raise ArtifactError(f"{self.stage}/{self.key} has no file {name!r} (looked in {self.path})")
        return path

    @property
    def manifest(self) -> dict[str, Any]:
        """Its manifest: stage, key, config, inputs, provenance, summary, files (sha256 and bytes), created."""
        manifest: dict[str, Any] = json.loads((self.path / MANIFEST).read_text())
        return manifest

    @property
    def summary(self) -> dict[str, Any]:
        """What the stage said about its output: small counts and figures, JSON."""
        summary: dict[str, Any] = self.manifest["summary"]
        return summary

    def reference(self) -> dict[str, str]:
        """Return the artifact as plain strings, for JSON."""
        return {"stage": self.stage, "key": self.key, "path": str(self.path)}

    @classmethod
    def from_reference(cls, reference: Mapping[str, str]) -> Artifact:
        """Return the artifact that `reference` named."""
        return cls(reference["stage"], reference["key"], Path(reference["path"]))


def digest_json(value: Any) -> str:
    """Compute the SHA-256 (hex) of a JSON value, independent of key order and platform."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def digest_file(path: Path) -> str:
    """Compute the SHA-256 (hex) of a file's bytes, read in blocks."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def digest_tree(root: Path) -> str:
    """Compute the SHA-256 (hex) of a directory: relative names and bytes of every file, in order of name."""
    files = sorted(p for p in root.rglob("*") if p.is_file())
    return digest_json([[p.relative_to(root).as_posix(), digest_file(p)] for p in files])


def fsync_path(path: Path) -> None:
    """Flush a file or directory to disk, so that a later rename cannot outlive its content."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomic(path: Path, content: str | bytes) -> None:
    """Replace a small file in one step: readers see the old content or the new, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with temporary.open("wb") as handle:
            handle.write(content.encode() if isinstance(content, str) else content)
            handle.flush()
            os.fsync(handle.fileno())
        temporary.replace(path)
        fsync_path(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@dataclass(frozen=True)
class Store:
    """A folder of artifacts.

    Attributes:
        root: the folder; made on first write.
        provenance: facts written into every new manifest beside its inputs but not into keys (data md5, git commit,
            recipe name): they say where an artifact came from without making equal work unequal.
    """

    root: Path
    provenance: Mapping[str, str] = field(default_factory=dict)

    def key(self, stage: str, version: int, config: Config, inputs: Inputs) -> str:
        """Compute the address of a stage's output; it changes when stage, configuration or any input does."""
        return digest_json(
            {
                "stage": stage,
                "version": version,
                "config": _plain(config),
                "inputs": _input_keys(inputs),
            }
        )[:KEY_LENGTH]

    def build(
        self,
        stage: str,
        version: int,
        config: Config,
        inputs: Inputs,
        write: Callable[[Path], Mapping[str, Any] | None],
    ) -> Artifact:
        """Return the stage's artifact, making it only if no valid one exists.

        Args:
            stage: name: lower-case letters, digits, hyphens.
            version: of the stage's code; raise it when the same inputs should give another output.
            config: the part of the recipe the stage reads, and nothing else.
            inputs: name to artifact, or to a digest for what is no artifact (a data version's md5).
            write: called with an empty directory; leaves the files there and returns a small JSON summary.

        Raises:
            InputError: the stage's name is not of the form above.
            Exception: whatever `write` raises; nothing of the attempt remains visible.
        """
        if not _NAME.match(stage):
            raise InputError(f"stage name {stage!r}: expected lower-case letters, digits and hyphens")
        key = self.key(stage, version, config, inputs)
        existing = self.find(stage, key)
        if existing is not None:
            return existing
        final = self.root / stage / key
        temporary = self._sibling(stage, key, f"tmp-{os.getpid()}-{uuid.uuid4().hex[:8]}")
        temporary.mkdir(parents=True)
        started = time.monotonic()
        try:
            summary = dict(write(temporary) or {})
            manifest = {
                "format": FORMAT,
                "stage": stage,
                "version": version,
                "key": key,
                "config": _plain(config),
                "inputs": _input_keys(inputs),
                "provenance": dict(self.provenance),
                "summary": summary,
                "files": {name: _entry(temporary / name) for name in _files(temporary)},
                "seconds": round(time.monotonic() - started, 3),
                "created": datetime.now(UTC).isoformat(timespec="seconds"),
            }
            write_atomic(temporary / MANIFEST, json.dumps(manifest, indent=2, sort_keys=True) + "\n")
            for directory in sorted({p.parent for p in temporary.rglob("*")}, reverse=True):
                fsync_path(directory)
            self._publish(temporary, final)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(self.workspace(stage, key, create=False), ignore_errors=True)
        return Artifact(stage, key, final, reused=False)

    def find(self, stage: str, key: str) -> Artifact | None:
        """Find the artifact at an address, or None; verified file by file, and moved aside if it is damaged."""
        path = self.root / stage / key
        if not path.is_dir():
            return None
        artifact = Artifact(stage, key, path)
        if self.problems(artifact):
            # Moved aside, not deleted: the damage may be worth a look, and the stage can run again meanwhile.
            with contextlib.suppress(FileNotFoundError):
                path.rename(self._sibling(stage, key, f"damaged-{uuid.uuid4().hex[:8]}"))
            return None
        return artifact

    def problems(self, artifact: Artifact) -> list[str]:
        """List what is wrong with an artifact, one line a problem; empty when every file matches its manifest."""
        try:
            manifest = artifact.manifest
            files: dict[str, dict[str, Any]] = manifest["files"]
            address = (manifest["stage"], manifest["key"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            return [f"{MANIFEST}: not readable as a manifest ({type(error).__name__}: {error})"]
        if address != (artifact.stage, artifact.key):
            return [f"{MANIFEST}: names {address[0]}/{address[1]}, the directory is {artifact.stage}/{artifact.key}"]
        present = set(_files(artifact.path))
        problems = [f"{name}: not in the manifest" for name in sorted(present - files.keys())]
        for name, entry in sorted(files.items()):
            path = artifact.path / name
            if name not in present:
                problems.append(f"{name}: missing")
            elif path.stat().st_size != entry["bytes"]:
                problems.append(f"{name}: {path.stat().st_size} bytes, the manifest says {entry['bytes']}")
            elif digest_file(path) != entry["sha256"]:
                problems.append(f"{name}: its bytes do not match the manifest's sha256")
        return problems

    def workspace(self, stage: str, key: str, *, create: bool = True) -> Path:
        """Make a directory beside the artifact that survives a kill (checkpoints); removed once that is built."""
        path = self._sibling(stage, key, "work")
        if create:
            path.mkdir(parents=True, exist_ok=True)
        return path

    def artifacts(self) -> Iterator[Artifact]:
        """List every artifact with a manifest, by stage and key."""
        for manifest in sorted(self.root.glob(f"[!_.]*/[!.]*/{MANIFEST}")):
            yield Artifact(manifest.parent.parent.name, manifest.parent.name, manifest.parent)

    def get(self, address: str) -> Artifact:
        """Find the artifact named ``stage/key``; the key may be cut as long as it stays unambiguous.

        Raises:
            InputError: no artifact, or more than one, answers to that address.
        """
        stage, _, prefix = address.partition("/")
        matches = [a for a in self.artifacts() if a.stage == stage and a.key.startswith(prefix)]
        if len(matches) != 1:
            known = ", ".join(f"{a.stage}/{a.key}" for a in matches[:5]) or "none"
            raise InputError(
                f"artifact {address!r}: expected exactly one match in {self.root}, found {len(matches)} ({known}); "
                "see `notellm2 artifacts list`"
            )
        return matches[0]

    def gc(self, keep: set[tuple[str, str]], *, older_than_s: float = 3600.0, dry_run: bool = False) -> list[Path]:
        """Remove artifacts that `keep` does not reach, and left-overs older than `older_than_s` seconds.

        Args:
            keep: addresses (stage, key) to keep, with everything they were made from.
            older_than_s: age below which nothing is touched, so that a run in progress keeps what it just made.
            dry_run: only say what would go.

        Returns:
            The directories removed (or that would be).
        """
        artifacts = {(a.stage, a.key): a for a in self.artifacts()}
        inputs = {address: a.manifest["inputs"].values() for address, a in artifacts.items()}
        by_key: dict[str, list[tuple[str, str]]] = {}
        for stage, key in artifacts:
            by_key.setdefault(key, []).append((stage, key))
        reached: set[tuple[str, str]] = set()
        queue = [address for address in keep if address in artifacts]
        while queue:
            address = queue.pop()
            if address not in reached:
                reached.add(address)
                queue.extend(a for key in inputs[address] for a in by_key.get(key, []))
        leftovers = [p for p in self.root.glob("[!_.]*/.*") if p.is_dir()]
        doomed = [a.path for address, a in artifacts.items() if address not in reached] + leftovers
        horizon = time.time() - older_than_s
        removed = [p for p in doomed if p.stat().st_mtime < horizon]
        if not dry_run:
            for path in removed:
                shutil.rmtree(path)
        return removed

    def _publish(self, temporary: Path, final: Path) -> None:
        try:
            temporary.rename(final)
        except OSError:
            # Another run finished the same work first; its artifact has the same address, so it is ours too.
            if self.find(final.parent.name, final.name) is None:
                raise
            return
        fsync_path(final.parent)

    def _sibling(self, stage: str, key: str, suffix: str) -> Path:
        return self.root / stage / f".{key}.{suffix}"


def _plain(config: Config) -> dict[str, Any]:
    return config.model_dump(mode="json") if isinstance(config, BaseModel) else dict(config)


def _input_keys(inputs: Inputs) -> dict[str, str]:
    return {name: value.key if isinstance(value, Artifact) else value for name, value in inputs.items()}


def _files(directory: Path) -> list[str]:
    """Names of all files below a directory but its manifest, relative, in order."""
    names = (p.relative_to(directory).as_posix() for p in directory.rglob("*") if p.is_file())
    return sorted(name for name in names if name != MANIFEST)


def _entry(path: Path) -> dict[str, Any]:
    digest = digest_file(path)
    fsync_path(path)
    return {"sha256": digest, "bytes": path.stat().st_size}
