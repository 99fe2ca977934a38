"""``python -m notellm2.access``: users and roles at the team's MLflow server."""

from __future__ import annotations

import argparse
import os
import sys
import warnings

from notellm2.access import people
from notellm2.access.rules import ROLES
from notellm2.credentials import redacted
from notellm2.errors import InputError

_HELP = """Without a command: makes the roles and the users trainer, promoter and reader with the passwords of
MLFLOW_TRAINER_PASSWORD, MLFLOW_PROMOTER_PASSWORD and MLFLOW_READER_PASSWORD at the server MLFLOW_TRACKING_URI, logged
in as admin with MLFLOW_ADMIN_PASSWORD. Each may be set as NAME_FILE, a file with the secret. Run it again whenever a
password changes.

Example: MLFLOW_TRACKING_URI=http://127.0.0.1:5000 python -m notellm2.access add kim --role promoter"""


def main(arguments: list[str] | None = None) -> int:
    """Run one command; 0: done, 1: the server refused or does not answer, 2: an argument is wrong."""
    args = _parser().parse_args(arguments)
    # MLflow's server uses a module that starlette is going to drop: no news to who makes users.
    warnings.filterwarnings("ignore", message=r"starlette\.middleware\.wsgi")
    try:
        return _run(args)
    except InputError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    except Exception as error:
        from mlflow.exceptions import MlflowException

        if not isinstance(error, MlflowException | OSError):
            raise
        said = str(error).strip().splitlines() or [type(error).__name__]
        sys.stderr.write(redacted(f"failed: {said[0]}\n"))
        return 1


def _run(args: argparse.Namespace) -> int:
    client = people.connect(os.environ.get("MLFLOW_TRACKING_URI"))
    if args.command == "add":
        people.put_user(client, args.user, people.new_password(), args.role)
        sys.stdout.write(f"{args.user}: {', '.join(args.role)}\n")
    elif args.command == "remove":
        people.remove_user(client, args.user)
        sys.stdout.write(f"{args.user}: removed\n")
    elif args.command == "list":
        for user, roles in people.roles_by_user(client).items():
            sys.stdout.write(f"{user}: {', '.join(roles)}\n")
    else:
        passwords = people.service_passwords()
        people.provision(client, passwords)
        sys.stdout.write(f"users {', '.join(passwords)}: roles and passwords are set\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m notellm2.access",
        description=_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command")
    add = commands.add_parser("add", help="make a person's user, or give it another password or other roles")
    add.add_argument("user")
    add.add_argument("--role", action="append", required=True, choices=list(ROLES), help="may be repeated")
    remove = commands.add_parser("remove", help="remove a user")
    remove.add_argument("user")
    commands.add_parser("list", help="print the users and their roles")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
