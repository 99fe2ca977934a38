"""The MLflow server app ``notellm2``: MLflow's basic authentication, then our rules, for every request.

``mlflow server --app-name notellm2`` finds `create_app` by the entry point group ``mlflow.app``. It reads

- ``MLFLOW_ADMIN_PASSWORD`` (or ``_FILE``): of the user `admin`; another one at the next start is the new password,
- ``MLFLOW_FLASK_SERVER_SECRET_KEY`` (or ``_FILE``): MLflow's own, for its forms,

and keeps users and roles in the server's own database. MLflow's checks come first and ours can only take away. Two
hooks see everything: Flask's ``before_request`` for what MLflow serves by Flask, and a middleware for what it serves
beside Flask (uploads and downloads of files); each looks at the route that will answer, not at the path, which may be
written in many ways. A route that has no name on the list is refused.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import itertools
import json
import os
import posixpath
import re
import stat
import tempfile
from collections.abc import Awaitable, Callable
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from notellm2.access.rules import ROLES, refusal
from notellm2.credentials import secret
from notellm2.errors import InputError
from notellm2.workspace import file_lock

if TYPE_CHECKING:
    from flask import Flask, Response
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response as NativeResponse

ADMIN = "admin"
_CACHE_S = 30
# A password check costs some 60 ms of CPU by design, and MLflow makes three a request. A changed password is known
# to the worker that changed it at once, to its siblings after this many seconds.
_OF_A_MODEL = frozenset(
    {"GetLatestVersions", "GetModelVersion", "GetModelVersionByAlias", "GetModelVersionDownloadUri"}
)
"""Reading operations on a model that every role may read, so that each may know whether it is there."""
_NATIVE_FILE = re.compile(r"/(?:ajax-)?api/2\.0/mlflow-artifacts/artifacts/(?P<file>.*)", re.DOTALL)
_NATIVE = {"GET": "DownloadArtifact", "PUT": "UploadArtifact"}


def create_app() -> Any:
    """Make MLflow's app with authentication and our rules; FastAPI under uvicorn, Flask under gunicorn.

    Raises:
        InputError: a secret is missing; names the variable.
        MlflowException: the password is too short for MLflow (12 characters), or the database does not answer.
    """
    # MLflow reads its settings when its modules are imported, so these come first.
    os.environ["MLFLOW_BASIC_AUTH_FAIL_CLOSED"] = "true"
    os.environ["MLFLOW_SERVER_ENABLE_GRAPHQL_AUTH"] = "true"
    os.environ["MLFLOW_FLASK_SERVER_SECRET_KEY"] = _required("MLFLOW_FLASK_SERVER_SECRET_KEY")
    password, database = _required("MLFLOW_ADMIN_PASSWORD"), _database()
    with tempfile.NamedTemporaryFile("w", suffix=".ini", prefix="notellm2-auth-") as settings:  # readable by us alone
        settings.write(_settings(database))
        settings.flush()
        os.environ["MLFLOW_AUTH_CONFIG_PATH"] = settings.name
        os.environ["MLFLOW_AUTH_ADMIN_PASSWORD"] = password
        from mlflow.server import app as flask_app
        from mlflow.server import auth
    if auth.auth_config.database_uri != database:
        raise RuntimeError("mlflow.server.auth was imported before its settings were made: start this app by itself")
    # Not for what this process starts.
    del os.environ["MLFLOW_AUTH_CONFIG_PATH"], os.environ["MLFLOW_AUTH_ADMIN_PASSWORD"]
    # Workers start at once, and on a new database each would make the tables.
    lock = f"{sha256(database.encode()).hexdigest()[:16]}.lock"
    with file_lock(_own_folder() / lock, "making MLflow's user tables", timeout_s=120):
        served = auth.create_app(flask_app)
        if not auth.store.authenticate_user(ADMIN, password):
            auth.store.update_user(ADMIN, password=password)
    _guard_flask(flask_app)
    if served is not flask_app:
        _guard_native(served)
    return served


def _own_folder() -> Path:
    """A folder for lock files that no other user of this machine can have laid a link into."""
    folder = Path(tempfile.gettempdir()) / f"notellm2-mlflow-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
        raise InputError(f"{folder}: expected a folder of this user; remove it, or set TMPDIR to another place")
    return folder


def _required(name: str) -> str:
    value = secret(name)
    if value is None:
        raise InputError(f"{name} (or {name}_FILE) is not set: MLflow's server does not start without it")
    return value


def _database() -> str:
    from mlflow.server.constants import BACKEND_STORE_URI_ENV_VAR

    database = os.environ.get(BACKEND_STORE_URI_ENV_VAR, "")
    if "://" not in database:
        raise InputError("the app notellm2 keeps users beside the runs: give `mlflow server` a --backend-store-uri")
    return database


def _settings(database: str) -> str:
    return "\n".join(
        [
            "[mlflow]",
            # Without a role a user may nothing; a role's grants are made by `people`.
            "default_permission = NO_PERMISSIONS",
            f"database_uri = {database.replace('%', '%%')}",
            f"admin_username = {ADMIN}",
            "authorization_function = mlflow.server.auth:authenticate_request_basic_auth",
            f"auth_cache_ttl_seconds = {_CACHE_S}",
        ]
    )


def _guard_flask(app: Flask) -> None:
    from flask import request
    from mlflow.server import handlers

    operations = {
        (path, method): operation.__name__
        for path, operation, methods in handlers.get_endpoints(lambda message: message)
        for method in methods
    }

    def guard() -> Response | None:
        from flask import g
        from mlflow.server import auth

        user = g.get("mlflow_authenticated_user")
        if user is None and auth.is_unprotected_route(request.path):
            return None
        rule = request.url_rule
        if rule is None:
            operation = "a page that does not exist"
        else:
            operation = operations.get((rule.rule, request.method)) or str(rule.endpoint)
        reason = _refused(user or "", operation, **_content(operation))
        return None if reason is None else _forbidden(reason)

    def tell_missing(response: Response) -> Response:
        """MLflow forbids what is not there to all but administrators, and a client must know "not yet" from "no"."""
        from flask import g

        rule, user = request.url_rule, g.get("mlflow_authenticated_user")
        if response.status_code != 403 or rule is None or user is None:
            return response
        operation = operations.get((rule.rule, request.method), "")
        if operation not in _OF_A_MODEL or _refused(user, operation) is not None:
            return response
        return handlers.catch_mlflow_exception(_not_found)(operation) or response

    # After MLflow's own hooks, which have authenticated the user and may have refused already.
    app.before_request(handlers.catch_mlflow_exception(guard))
    app.after_request(tell_missing)


def _content(operation: str) -> dict[str, Any]:
    """What of the request decides, read as MLflow's handler is going to read it."""
    from flask import request
    from mlflow.protos import model_registry_pb2, service_pb2
    from mlflow.server.handlers import _get_request_message as read

    if operation in ("SetRegisteredModelAlias", "DeleteRegisteredModelAlias"):
        return {"alias": read(getattr(model_registry_pb2, operation)()).alias}
    if operation == "SetModelVersionTag":
        return {"tags": [read(model_registry_pb2.SetModelVersionTag()).key]}
    if operation == "CreateModelVersion":
        return {"tags": [tag.key for tag in read(model_registry_pb2.CreateModelVersion()).tags]}
    url_args = request.view_args or {}
    if operation == "FinalizeLoggedModel":
        named = read(service_pb2.FinalizeLoggedModel()).model_id
        return {"finished_model": any(_is_finished(model) for model in (url_args["model_id"], named) if model)}
    if operation in ("UploadArtifact", "CreateMultipartUpload", "CompleteMultipartUpload", "AbortMultipartUpload"):
        return {"finished_model": _in_finished_model(url_args["artifact_path"])}
    return {}


def _not_found(operation: str) -> None:
    """Answer as MLflow does if the model that is asked about is not there.

    Raises:
        MlflowException: it is not there.
    """
    from mlflow.protos import model_registry_pb2
    from mlflow.server.handlers import _get_model_registry_store, _get_request_message

    _get_model_registry_store().get_registered_model(
        _get_request_message(getattr(model_registry_pb2, operation)()).name
    )


def _guard_native(app: Starlette) -> None:
    from mlflow.exceptions import MlflowException
    from mlflow.server import auth
    from starlette.middleware.base import BaseHTTPMiddleware
    from starlette.responses import JSONResponse
    from starlette.routing import Match, Mount

    routes = [route for route in app.routes if not isinstance(route, Mount)]

    async def guard(request: Request, call_next: Callable[[Request], Awaitable[NativeResponse]]) -> NativeResponse:
        path = request.scope["path"]
        served_here = any(route.matches(request.scope)[0] == Match.FULL for route in routes)
        if not served_here or auth.is_unprotected_route(path):
            return await call_next(request)
        try:
            user = await asyncio.to_thread(_authenticated, request.headers.get("authorization", ""))
            if user is None:
                return JSONResponse(
                    _error("UNAUTHENTICATED", "no such user, or another password"),
                    status_code=401,
                    headers={"WWW-Authenticate": 'Basic realm="mlflow"'},
                )
            reason = await asyncio.to_thread(_refused_native, user, request.method, path)
        except (
            MlflowException
        ) as error:  # The database does not answer: MLflow itself would call that "wrong password".
            return JSONResponse(json.loads(error.serialize_as_json()), status_code=error.get_http_status_code())
        if reason is not None:
            return JSONResponse(_error("PERMISSION_DENIED", reason), status_code=403)
        return await call_next(request)

    app.add_middleware(BaseHTTPMiddleware, dispatch=guard)  # Added last, so it runs first.


def _authenticated(header: str) -> str | None:
    from mlflow.server import auth

    scheme, _, encoded = header.partition(" ")
    try:
        name, _, password = base64.b64decode(encoded.strip(), validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return None
    user = auth._authenticate_cached(name, password) if scheme.lower() == "basic" else None
    return None if user is None else str(user.username)


def _refused_native(user: str, method: str, path: str) -> str | None:
    match = _NATIVE_FILE.fullmatch(path)
    if match is None or method not in _NATIVE:
        return _refused(user, f"{method} {path}")
    operation = _NATIVE[method]
    return _refused(user, operation, finished_model=operation == "UploadArtifact" and _in_finished_model(match["file"]))


def _refused(user: str, operation: str, **content: Any) -> str | None:
    from mlflow.server import auth

    known = auth.store.get_user(user)
    if known.is_admin:
        return None
    roles = [role.name for role in auth.store.list_user_roles(known.id) if role.name in ROLES]
    reason = refusal(roles, operation, **content)
    return None if reason is None else f"user {user!r} ({', '.join(roles) or 'no role'}): {reason}"


def _in_finished_model(path: str) -> bool:
    """Whether a path of the artifact store lies in a finished logged model: ``<experiment>/models/<id>/...``.

    Raises:
        MlflowException: MLflow takes no such path.
    """
    from mlflow.utils.uri import validate_path_is_safe

    # MLflow decodes what was decoded once more, and drops line breaks: asked here what it will ask, of the same path.
    parts = posixpath.normpath(validate_path_is_safe(path)).split("/")
    return any(above == "models" and _is_finished(model) for above, model in itertools.pairwise(parts))


def _is_finished(model_id: str) -> bool:
    from mlflow.exceptions import MlflowException
    from mlflow.server.handlers import _get_tracking_store

    try:
        return str(_get_tracking_store().get_logged_model(model_id).status) == "READY"
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return False
        raise


def _forbidden(reason: str) -> Response:
    from flask import jsonify, make_response

    return make_response(jsonify(_error("PERMISSION_DENIED", reason)), 403)


def _error(code: str, message: str) -> dict[str, str]:
    return {"error_code": code, "message": message}
