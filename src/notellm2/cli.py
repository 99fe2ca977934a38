"""The command line ``notellm2``. Each command imports what it needs when it runs, so ``--help`` stays instant.

Wrong input ends with a message on stderr and status 2, never with a traceback.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from notellm2.errors import InputError

if TYPE_CHECKING:
    from notellm2.artifacts import Artifact, Store
    from notellm2.workspace import Workspace

app = typer.Typer(
    help="Multimodal item-to-item recommendation: sample data, imports, data versions, artifacts, similar notes.\n\n"
    "The retraining itself is `python -m flows.retrain --recipe recipes/sample.yaml`.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
data = typer.Typer(help="Data versions: what a training run can name and get back.", no_args_is_help=True)
artifacts = typer.Typer(help="Stage outputs in the store: list, show, verify, remove.", no_args_is_help=True)
app.add_typer(data, name="data")
app.add_typer(artifacts, name="artifacts")

StoreOption = Annotated[Path, typer.Option("--store", help="Folder with artifacts, runs and published indexes.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
RemoteOption = Annotated[str | None, typer.Option(help="Name of the DVC remote; the default one when not given.")]
DataArgument = Annotated[Path, typer.Argument(help="The data set's folder.")]
_STORE = Path("store")
_DATA = Path("data")


@app.command()
def sample(
    directory: Annotated[Path, typer.Argument(help="Folder to write the raw export to; must not exist yet.")],
    notes: Annotated[int, typer.Option(help="Number of notes.")] = 2000,
    users: Annotated[int, typer.Option(help="Number of users.")] = 3000,
    seed: Annotated[int, typer.Option(help="Seed; the same seed gives the same bytes.")] = 7,
) -> None:
    """Write a generated raw export: notes with drawn images, and a week of behaviour.

    Example: notellm2 sample raw/sample --notes 2000 --users 3000
    """
    from pydantic import ValidationError

    from notellm2.notes.sample import write_sample
    from notellm2.recipe import SampleConfig

    try:
        config = SampleConfig(notes=notes, users=users, seed=seed)
    except ValidationError as error:
        lines = [f"--{e['loc'][0]}: {e['msg']}, found {e['input']}" for e in error.errors()]
        raise InputError("; ".join(lines)) from None
    write_sample(directory, config)
    typer.echo(f"{directory}: {notes} notes, {users} users; next: notellm2 import {directory} --into data")


@app.command(name="import")
def import_(
    export: Annotated[Path, typer.Argument(help="Folder with notes.*, interactions.* and images.")],
    into: Annotated[Path, typer.Option("--into", help="Data set folder to make or replace.")],
    name: Annotated[str | None, typer.Option(help="Name of the data set; the folder's when not given.")] = None,
    licence: Annotated[str | None, typer.Option(help="Licence of the data, written into dataset.json.")] = None,
    max_bytes: Annotated[int, typer.Option(help="Largest encoded image, bytes.")] = 8_000_000,
    max_pixels: Annotated[int, typer.Option(help="Largest decoded image, pixels.")] = 40_000_000,
) -> None:
    """Read a plain export into a data set; what cannot be used is counted, located and quarantined.

    Example: notellm2 import raw/sample --into data
    """
    from notellm2.notes.export import import_export
    from notellm2.recipe import ImageLimits

    if max_bytes < 1 or max_pixels < 1:
        raise InputError("--max-bytes and --max-pixels: expected at least 1")
    limits = ImageLimits(max_bytes=max_bytes, max_pixels=max_pixels)
    report = import_export(export, into, limits=limits, name=name, licence=licence)
    typer.echo(report.render())


@data.command()
def pin(directory: DataArgument = _DATA) -> None:
    """Record the data set's version in <folder>.dvc, which goes into git.

    Example: notellm2 data pin data
    """
    from notellm2.notes import versions

    typer.echo(f"{directory}: pinned {versions.pin(directory)}")


@data.command()
def pull(directory: DataArgument = _DATA, remote: RemoteOption = None) -> None:
    """Fetch the pinned version from the DVC remote.

    Example: notellm2 data pull data
    """
    from notellm2.notes import versions

    typer.echo(f"{directory}: {versions.pull(directory, remote)}")


@data.command()
def push(directory: DataArgument = _DATA, remote: RemoteOption = None) -> None:
    """Send the pinned version to the DVC remote.

    Example: notellm2 data push data
    """
    from notellm2.notes import versions

    typer.echo(f"{directory}: stored {versions.push(directory, remote)}")


@data.command(name="status")
def data_status(directory: DataArgument = _DATA, as_json: JsonOption = False) -> None:
    """Compare the data set on disk with the pinned version; status 1 when they differ.

    Example: notellm2 data status data
    """
    from notellm2.notes import versions

    found = versions.status(directory)
    if as_json:
        _print_json({"path": str(directory), "current": found.current, "pinned": found.pinned, "clean": found.clean})
    elif found.clean:
        typer.echo(f"{directory}: {found.current}, as pinned")
    else:
        current, pinned = found.current or "nothing there", found.pinned or "nothing"
        advice = "pin" if found.current else "pull"
        typer.echo(f"{directory}: {current}, pinned is {pinned}; next: notellm2 data {advice} {directory}")
    if not found.clean:
        raise typer.Exit(1)


@artifacts.command(name="list")
def list_(
    stage: Annotated[str | None, typer.Option(help="Only this stage.")] = None,
    store: StoreOption = _STORE,
    as_json: JsonOption = False,
) -> None:
    """List finished stage outputs, oldest first.

    Example: notellm2 artifacts list --stage training
    """
    rows = sorted((_row(a) for a in _store(store).artifacts() if stage in (None, a.stage)), key=lambda r: r["created"])
    if as_json:
        _print_json(rows)
        return
    for row in rows:
        size = f"{row['bytes'] / 1e6:9.1f} MB"
        typer.echo(f"{row['created']}  {row['stage'] + '/' + row['key']:44s} {size} {row['seconds']:8.1f} s")
    typer.echo(f"{len(rows)} artifact(s) in {store}")


@artifacts.command()
def show(
    address: Annotated[str, typer.Argument(help="stage/key; the key may be cut while it stays unambiguous.")],
    store: StoreOption = _STORE,
    as_json: JsonOption = False,
) -> None:
    """Show an artifact's manifest: what it was made from, by what, and what is in it.

    Example: notellm2 artifacts show training/3f2a
    """
    artifact = _store(store).get(address)
    manifest = artifact.manifest
    if as_json:
        _print_json({**manifest, "path": str(artifact.path)})
        return
    import yaml

    typer.echo(f"# {artifact.path}")
    typer.echo(yaml.safe_dump(manifest, sort_keys=False, allow_unicode=True, width=110).rstrip())


@artifacts.command()
def verify(
    address: Annotated[str | None, typer.Argument(help="stage/key; all artifacts when not given.")] = None,
    store: StoreOption = _STORE,
    as_json: JsonOption = False,
) -> None:
    """Read every file and compare it with the manifest's sha256; status 1 when anything is wrong.

    Example: notellm2 artifacts verify
    """
    folder = _store(store)
    chosen = [folder.get(address)] if address else list(folder.artifacts())
    found = {f"{a.stage}/{a.key}": folder.problems(a) for a in chosen}
    damaged = {name: problems for name, problems in found.items() if problems}
    if as_json:
        _print_json({"checked": len(found), "damaged": damaged})
    else:
        for name, problems in damaged.items():
            for problem in problems:
                typer.echo(f"{name}: {problem}")
        advice = "; the next run moves them aside and makes them again" if damaged else ""
        typer.echo(f"{len(found)} artifact(s) checked, {len(damaged)} damaged{advice}")
    if damaged:
        raise typer.Exit(1)


@artifacts.command()
def gc(
    keep: Annotated[int, typer.Option(min=1, help="Newest artifacts kept of each stage, with all they need.")] = 2,
    older_than: Annotated[float, typer.Option(min=0, help="Touch nothing younger than this, hours.")] = 24.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    store: StoreOption = _STORE,
    as_json: JsonOption = False,
) -> None:
    """Remove artifacts that neither a recent one nor a model in use was made from, and what killed runs left.

    Example: notellm2 artifacts gc --keep 2 --dry-run
    """
    from notellm2.workspace import Workspace

    folder = _store(store)
    newest: dict[str, list[Artifact]] = {}
    for artifact in sorted(folder.artifacts(), key=lambda a: str(a.manifest["created"]), reverse=True):
        newest.setdefault(artifact.stage, []).append(artifact)
    kept = {(a.stage, a.key) for chosen in newest.values() for a in chosen[:keep]}
    with Workspace.at(store).exclusive("artifacts gc"):
        kept |= _in_use(Workspace.at(store))
        removed = folder.gc(kept, older_than_s=older_than * 3600, dry_run=dry_run)
    if as_json:
        _print_json({"removed": [str(path) for path in removed], "dry_run": dry_run})
        return
    for path in removed:
        typer.echo(str(path))
    typer.echo(f"{len(removed)} folder(s) {'would be removed' if dry_run else 'removed'} from {store}")


@app.command()
def similar(
    note_id: Annotated[str, typer.Argument(help="The note to start from.")],
    k: Annotated[int, typer.Option("-k", min=1, help="Number of neighbours.")] = 10,
    store: StoreOption = _STORE,
    as_json: JsonOption = False,
) -> None:
    """Print the notes most similar to one, from the published index alone.

    Example: notellm2 similar n000042 -k 10
    """
    from notellm2.index.published import Published
    from notellm2.workspace import Workspace

    published = Published(Workspace.at(store).published)
    neighbours = published.similar(note_id, k)
    if as_json:
        rows = [{"note_id": n.note_id, "score": round(float(n.score), 6)} for n in neighbours]
        _print_json({"note_id": note_id, "model_version": published.model_version, "similar": rows})
        return
    for neighbour in neighbours:
        typer.echo(f"{neighbour.score:.4f}  {neighbour.note_id}")


@app.command()
def status(store: StoreOption = _STORE, as_json: JsonOption = False) -> None:
    """Print champion and challenger with their figures by input and slice, and what is published.

    Example: notellm2 status
    """
    from notellm2.registry.status import collect_status, render
    from notellm2.workspace import Workspace

    _store(store)
    found = collect_status(Workspace.at(store))
    typer.echo(found.model_dump_json(indent=2) if as_json else render(found))


def main() -> None:
    """Run the command line; wrong input becomes a message and status 2."""
    try:
        app()
    except InputError as error:
        sys.stderr.write(f"error: {error}\n")
        raise SystemExit(2) from None


def _store(root: Path) -> Store:
    from notellm2.artifacts import Store

    if not root.is_dir():
        raise InputError(f"store {root}: no such folder; a retraining makes it, or name another with --store")
    return Store(root)


def _in_use(workspace: Workspace) -> set[tuple[str, str]]:
    """Artifacts of champion and challenger: without them no later version could be compared on new test pairs."""
    from notellm2.registry.status import collect_status

    found = collect_status(workspace)
    versions = [version for version in (found.champion, found.challenger) if version is not None]
    return {address for version in versions for address in version.artifacts.items()}


def _row(artifact: Artifact) -> dict[str, Any]:
    manifest = artifact.manifest
    return {
        "stage": artifact.stage,
        "key": artifact.key,
        "created": manifest["created"],
        "seconds": manifest["seconds"],
        "bytes": sum(entry["bytes"] for entry in manifest["files"].values()),
        "path": str(artifact.path),
    }


def _print_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))
