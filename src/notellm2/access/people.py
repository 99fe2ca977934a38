"""Users and their roles at the team's MLflow server, made and mended over its API as its administrator.

Everything here may be repeated: what is as it should be stays, a changed password is set, a missing role is made.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

from notellm2.access.rules import GRANTS, ROLES
from notellm2.credentials import secret
from notellm2.errors import InputError

if TYPE_CHECKING:
    from mlflow.server.auth.client import AuthServiceClient
    from mlflow.server.auth.entities import Role

ADMIN = "admin"
SERVICES = {role: f"MLFLOW_{role.upper()}_PASSWORD" for role in ("trainer", "promoter", "reader")}
"""Users that programs log in as, each named like its one role, to the variable with its password."""
MIN_PASSWORD = 12
"""Characters; MLflow takes no shorter one."""

_WORKSPACE = "default"  # Where MLflow keeps roles of a server without workspaces.
_RESOURCES = ("experiment", "registered_model")


def connect(uri: str | None) -> AuthServiceClient:
    """Make a client of the server that is logged in as `admin` for the rest of this process.

    Args:
        uri: of the server, ``MLFLOW_TRACKING_URI``.

    Raises:
        InputError: no server is named, or ``MLFLOW_ADMIN_PASSWORD`` (or ``_FILE``) is not set.
    """
    if not uri or not uri.startswith(("http://", "https://")):
        raise InputError("MLFLOW_TRACKING_URI: expected the server's address, http://host:port")
    password = secret("MLFLOW_ADMIN_PASSWORD")
    if password is None:
        raise InputError("MLFLOW_ADMIN_PASSWORD (or MLFLOW_ADMIN_PASSWORD_FILE) is not set: users are made by `admin`")
    os.environ["MLFLOW_TRACKING_USERNAME"] = ADMIN
    os.environ["MLFLOW_TRACKING_PASSWORD"] = password
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    from mlflow.server.auth.client import AuthServiceClient

    return AuthServiceClient(uri.rstrip("/"))


def service_passwords() -> dict[str, str]:
    """Read the passwords of `SERVICES` from their variables.

    Raises:
        InputError: one is not set or too short; names the variable, never the value.
    """
    return {user: _checked(variable, secret(variable)) for user, variable in SERVICES.items()}


def provision(client: AuthServiceClient, passwords: Mapping[str, str]) -> None:
    """Make the roles with their grants, and the service users with their passwords and one role each."""
    _roles(client)
    for user, password in passwords.items():
        put_user(client, user, password, [user])


def put_user(client: AuthServiceClient, user: str, password: str, roles: Collection[str]) -> None:
    """Make a user, or give an old one this password; of our roles it then has exactly these.

    Raises:
        InputError: no such role.
    """
    for role in roles:
        if role not in ROLES:
            raise InputError(f"role {role!r}: expected one of {', '.join(ROLES)}")
    if not _created(client, user, password):
        client.update_user_password(user, password)
    known, held = _roles(client), {role.name for role in client.list_user_roles(user)}
    for name, ours in known.items():
        if name in roles and name not in held:
            client.assign_role(user, ours.id)
        elif name in held and name not in roles:
            client.unassign_role(user, ours.id)


def remove_user(client: AuthServiceClient, user: str) -> None:
    """Remove a user; its password opens nothing from then on.

    Raises:
        InputError: it is the administrator.
        MlflowException: there is no such user.
    """
    if user == ADMIN:
        raise InputError(f"user {ADMIN!r} is the one who removes users: it stays")
    client.delete_user(user)


def roles_by_user(client: AuthServiceClient) -> dict[str, list[str]]:
    """List every user, with the roles of ours that it has; `admin` has none and may everything."""
    from mlflow.server.auth.routes import LIST_USERS

    users = client._request(LIST_USERS, "GET")["users"]
    held = {user["username"]: sorted(role["name"] for role in user["roles"] if role["name"] in ROLES) for user in users}
    return dict(sorted(held.items()))


def new_password() -> str:
    """Read a person's password: from ``NOTELLM2_USER_PASSWORD`` (or ``_FILE``), else asked for at the terminal.

    Raises:
        InputError: it is too short, or there is nobody to ask.
    """
    import getpass
    import sys

    password = secret("NOTELLM2_USER_PASSWORD")
    if password is None and sys.stdin.isatty():
        password = getpass.getpass("New password: ")
    return _checked("NOTELLM2_USER_PASSWORD", password)


def _created(client: AuthServiceClient, user: str, password: str) -> bool:
    from mlflow.exceptions import MlflowException

    try:
        client.create_user(user, password)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
        return False
    return True


def _roles(client: AuthServiceClient) -> dict[str, Role]:
    """Our roles with exactly the grants they should have."""
    roles = {role.name: role for role in client.list_roles(_WORKSPACE) if role.name in ROLES}
    for name in ROLES:
        if name not in roles:
            roles[name] = client.create_role(_WORKSPACE, name, "made by notellm2.access")
        wanted = dict(zip(_RESOURCES, GRANTS[name], strict=True))
        for grant in client.list_role_permissions(roles[name].id):
            if grant.resource_pattern == "*" and wanted.get(grant.resource_type) == grant.permission:
                del wanted[grant.resource_type]
            else:
                client.remove_role_permission(grant.id)
        for resource, permission in wanted.items():
            client.add_role_permission(roles[name].id, resource, "*", permission)
    return roles


def _checked(variable: str, password: str | None) -> str:
    if password is None:
        raise InputError(f"{variable} (or {variable}_FILE) is not set")
    if len(password) < MIN_PASSWORD:
        raise InputError(f"{variable}: too short, MLflow takes passwords of at least {MIN_PASSWORD} characters")
    return password
