"""Commands on a trained model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from notellm2.errors import InputError


def export(
    bundle: Annotated[Path, typer.Argument(help="The model bundle: the folder bundle/ of a training artifact.")],
    directory: Annotated[Path, typer.Argument(help="Folder to make; must not exist yet.")],
    onnx: Annotated[bool, typer.Option("--onnx", help="Also write an ONNX file (needs notellm2[onnx]).")] = False,
) -> None:
    """Write a model as a plain folder that transformers loads without this project.

    Adapters are folded in. What was written is loaded again and must embed as the bundle does.

    Example: notellm2 export store/training/0f3a/bundle exported --onnx
    """
    from notellm2.model.bundle import export as model

    try:
        model.export_bundle(bundle, directory, onnx=onnx, progress=lambda what: typer.echo(what, err=True))
    except model.BundleError as error:
        raise InputError(str(error)) from error
    typer.echo(f"{directory}: see its README.md for the lines that load it")
