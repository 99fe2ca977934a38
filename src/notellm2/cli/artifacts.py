"""Commands on stage outputs in the store."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from notellm2.cli.options import STORE, JsonOption, StoreOption, group, open_store, print_json

if TYPE_CHECKING:
    from notellm2.artifacts import Artifact

artifact_commands = group("Stage outputs in the store: list, show, verify, remove.")


@artifact_commands.command(name="list")
def list_(
    stage: Annotated[str | None, typer.Option(help="Only this stage.")] = None,
    store: StoreOption = STORE,
    as_json: JsonOption = False,
) -> None:
    """List finished stage outputs, oldest first.

    Example: notellm2 artifacts list --stage training
    """
    rows = sorted(
        (_row(a) for a in open_store(store).artifacts() if stage in (None, a.stage)), key=lambda r: r["created"]
    )
    if as_json:
        print_json(rows)
        return
    for row in rows:
        size = f"{row['bytes'] / 1e6:9.1f} MB"
        typer.echo(f"{row['created']}  {row['stage'] + '/' + row['key']:44s} {size} {row['seconds']:8.1f} s")
    typer.echo(f"{len(rows)} artifact(s) in {store}")


@artifact_commands.command()
def show(
    address: Annotated[str, typer.Argument(help="stage/key; the key may be cut while it stays unambiguous.")],
    store: StoreOption = STORE,
    as_json: JsonOption = False,
) -> None:
    """Show an artifact's manifest: what it was made from, by what, and what is in it.

    Example: notellm2 artifacts show training/3f2a
    """
    artifact = open_store(store).get(address)
    manifest = artifact.manifest
    if as_json:
        print_json({**manifest, "path": str(artifact.path)})
        return
    import yaml

    typer.echo(f"# {artifact.path}")
    typer.echo(yaml.safe_dump(manifest, sort_keys=False, allow_unicode=True, width=110).rstrip())


@artifact_commands.command()
def verify(
    address: Annotated[str | None, typer.Argument(help="stage/key; all artifacts when not given.")] = None,
    store: StoreOption = STORE,
    as_json: JsonOption = False,
) -> None:
    """Read every file and compare it with the manifest's sha256; status 1 when anything is wrong.

    Example: notellm2 artifacts verify
    """
    folder = open_store(store)
    chosen = [folder.get(address)] if address else list(folder.artifacts())
    problems_of = {f"{a.stage}/{a.key}": folder.problems(a) for a in chosen}
    damaged = {name: problems for name, problems in problems_of.items() if problems}
    if as_json:
        print_json({"checked": len(problems_of), "damaged": damaged})
    else:
        for name, problems in damaged.items():
            for problem in problems:
                typer.echo(f"{name}: {problem}")
        advice = "; the next run moves them aside and makes them again" if damaged else ""
        typer.echo(f"{len(problems_of)} artifact(s) checked, {len(damaged)} damaged{advice}")
    if damaged:
        raise typer.Exit(1)


@artifact_commands.command()
def gc(
    keep: Annotated[int, typer.Option(min=1, help="Newest artifacts kept of each stage, with all they need.")] = 2,
    older_than: Annotated[float, typer.Option(min=0, help="Touch nothing younger than this, hours.")] = 24.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    store: StoreOption = STORE,
    as_json: JsonOption = False,
) -> None:
    """Remove artifacts that neither a recent one nor a model in use was made from, and what killed runs left.

    Example: notellm2 artifacts gc --keep 2 --dry-run
    """
    from notellm2.promotion.retention import artifacts_to_keep
    from notellm2.workspace import Workspace

    folder, workspace = open_store(store), Workspace.at(store)
    with workspace.exclusive("artifacts gc"):
        kept = artifacts_to_keep(workspace, newest=keep)
        removed = folder.gc(kept, older_than_s=older_than * 3600, dry_run=dry_run)
    if as_json:
        print_json({"removed": [str(path) for path in removed], "dry_run": dry_run})
        return
    for path in removed:
        typer.echo(str(path))
    typer.echo(f"{len(removed)} folder(s) {'would be removed' if dry_run else 'removed'} from {store}")


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
