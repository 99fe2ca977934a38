"""As whom this process speaks to a tracking server: as itself, and as a promoter where it moves the champion.

MLflow itself reads ``MLFLOW_TRACKING_USERNAME`` and ``MLFLOW_TRACKING_PASSWORD`` at every request; a training needs no
more. Moving `champion` and writing the record of it is done as the user of ``NOTELLM2_PROMOTER_USERNAME`` and
``NOTELLM2_PROMOTER_PASSWORD`` where these are set, and by nothing else. Each may be set as ``NAME_FILE``.
"""

from __future__ import annotations

import contextlib
import copy
import os
from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING, Protocol

from notellm2.credentials import secret
from notellm2.errors import InputError

if TYPE_CHECKING:
    from mlflow.store.model_registry.rest_store import RestStore

OWN = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD")
PROMOTER = ("NOTELLM2_PROMOTER_USERNAME", "NOTELLM2_PROMOTER_PASSWORD")

_REFUSED = ("PERMISSION_DENIED", "UNAUTHENTICATED", "CUSTOMER_UNAUTHORIZED")


class Forbidden(InputError):
    """The tracking server does not let this process's user do it; the message says who could and how."""


class Registrar(Protocol):
    """What moving a champion takes of a client; `mlflow.MlflowClient` is one."""

    def set_registered_model_alias(self, name: str, alias: str, version: str) -> None:
        """Let an alias name a version."""

    def delete_registered_model_alias(self, name: str, alias: str) -> None:
        """Let an alias name nothing."""

    def set_model_version_tag(self, name: str, version: str, key: str, value: str) -> None:
        """Set a tag of a version."""

    def update_model_version(self, name: str, version: str, description: str) -> object:
        """Set a version's description."""


def read_own() -> None:
    """Hand MLflow the credentials that are in files; it knows the variables only.

    Raises:
        InputError: a file cannot be read.
    """
    for name in OWN:
        value = secret(name)
        if value is not None:
            os.environ[name] = value


def promoter() -> tuple[str, str] | None:
    """Return name and password of the promoter that this process may speak as; None where it has none.

    Raises:
        InputError: one of the two is missing, or a file cannot be read.
    """
    name, password = (secret(variable) for variable in PROMOTER)
    if name is None and password is None:
        return None
    if name is None or password is None:
        missing = PROMOTER[0] if name is None else PROMOTER[1]
        raise InputError(f"{missing} is not set: a promoter's name and password go together")
    return name, password


@cache
def registrar(uri: str, name: str, password: str) -> Registrar:
    """Make a client of the model registry that speaks as this user, whatever MLflow's own variables say."""
    from mlflow.store.model_registry.rest_store import RestStore
    from mlflow.utils.credentials import get_default_host_creds
    from mlflow.utils.rest_utils import MlflowHostCreds

    def credentials() -> MlflowHostCreds:
        own: MlflowHostCreds = copy.copy(get_default_host_creds(uri))  # How TLS is checked stays.
        own.username, own.password, own.token, own.auth = name, password, None, None
        return own

    return _Registrar(RestStore(credentials))


class _Registrar:
    def __init__(self, store: RestStore) -> None:
        self._store = store

    def set_registered_model_alias(self, name: str, alias: str, version: str) -> None:
        self._store.set_registered_model_alias(name, alias, version)

    def delete_registered_model_alias(self, name: str, alias: str) -> None:
        self._store.delete_registered_model_alias(name, alias)

    def set_model_version_tag(self, name: str, version: str, key: str, value: str) -> None:
        from mlflow.entities.model_registry import ModelVersionTag

        self._store.set_model_version_tag(name, version, ModelVersionTag(key, value))

    def update_model_version(self, name: str, version: str, description: str) -> object:
        return self._store.update_model_version(name, version, description)


@contextlib.contextmanager
def refusal_explained(deed: str, command: str | None) -> Iterator[None]:
    """Let the server's refusal become a `Forbidden` that says how to go on.

    Args:
        deed: what is done, as in "may not ...".
        command: of `notellm2` that makes a version champion once the right is there; None: there is none to name.
    """
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        if error.error_code not in _REFUSED:
            raise
        credentials = promoter()
        user = secret(OWN[0]) if credentials is None else credentials[0]
        if credentials is None:
            remedy = f"set {PROMOTER[0]} and {PROMOTER[1]} (or {PROMOTER[1]}_FILE) to a promoter's"
        else:
            remedy = f"{PROMOTER[0]} needs a user with the role promoter, and {PROMOTER[1]} its password"
        again = "" if command is None else f"; `notellm2 {command}` then makes it champion"
        raise Forbidden(f"user {user or 'without a name'} may not {deed}: {remedy}{again}") from None
