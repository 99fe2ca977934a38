"""The command line ``notellm2``. Each command imports what it needs when it runs, so ``--help`` stays instant.

Wrong input ends with a message on stderr and status 2, never with a traceback; a disk, database or object store that
cannot be read or written with a message and status 1.
"""

from __future__ import annotations

import sys

import typer

from notellm2.cli import backup
from notellm2.cli.artifacts import artifact_commands
from notellm2.cli.data import data_commands, import_, sample
from notellm2.cli.doctor import doctor
from notellm2.cli.lineage import lineage
from notellm2.cli.model import export
from notellm2.cli.plugins import CommandGroup
from notellm2.cli.promotion import history, promote, refuse, rollback
from notellm2.cli.release import similar, status
from notellm2.cli.review import evaluate, report
from notellm2.cli.serve import serve
from notellm2.cli.stack import stack_commands
from notellm2.credentials import redacted
from notellm2.errors import InputError
from notellm2.printable import printable, tolerate_any_text
from notellm2.threads import let_idle_threads_sleep

app = typer.Typer(
    cls=CommandGroup,
    help="Multimodal item-to-item recommendation: retraining, sample data, imports, data versions, artifacts, similar "
    "notes, promotion and rollback.\n\n"
    "Start with `notellm2 retrain --recipe recipes/sample.yaml`.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command()(doctor)
app.command()(sample)
app.command(name="import")(import_)
app.command()(export)
app.command()(similar)
app.command()(serve)
app.command()(status)
app.command()(evaluate)
app.command()(report)
app.command()(promote)
app.command()(refuse)
app.command()(rollback)
app.command()(history)
app.command()(lineage)
app.add_typer(data_commands, name="data")
app.add_typer(artifact_commands, name="artifacts")
stack_commands.command()(backup.backup)
stack_commands.command()(backup.restore)
app.add_typer(stack_commands, name="stack")


_PLACES = ("mlflow", "sqlalchemy", "botocore")
"""Packages whose errors tell of a database or object store: known by name, since importing them takes seconds."""


def main() -> None:
    """Run the command line; wrong input becomes a message and status 2, a place that fails one and status 1."""
    tolerate_any_text()
    let_idle_threads_sleep()
    try:
        app(prog_name="notellm2")
    except InputError as error:
        sys.stderr.write(f"error: {printable(str(error), lines=True)}\n")
        raise SystemExit(2) from None
    except Exception as error:
        if not (isinstance(error, OSError) or type(error).__module__.split(".")[0] in _PLACES):
            raise
        said = redacted(str(error)).strip().splitlines() or ["no more is known"]
        sys.stderr.write(
            f"failed: {type(error).__name__}: {printable(said[0])}\n"
            "A file, database or object store cannot be read or written: see that it is there, whole and permitted.\n"
        )
        raise SystemExit(1) from None
