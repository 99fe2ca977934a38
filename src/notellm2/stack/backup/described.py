"""The set-up that an environment describes: the variables of the service ``backup`` in docker-compose.yml.

In its container they are the process's own; natively `Stack.environment("backup")` gives the same with this machine's
addresses and folders. The object store's settings (``AWS_...``) are read by its client from the process itself.

    PGHOST, PGPORT, PGUSER, PGPASSWORD     the server and its superuser
    NOTELLM2_STORE                         the workers' store; its folder holds their data, and DVC's settings
    NOTELLM2_PUBLISHED                     where indexes are published; empty: in the store
    MLFLOW_ARTIFACTS_DESTINATION           where MLflow's server keeps files
    S3_BUCKET                              the stack's bucket, all of it
"""

from __future__ import annotations

import configparser
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from notellm2.errors import InputError
from notellm2.publication.location import Location
from notellm2.stack import postgres
from notellm2.stack.backup.bucket import Bucket
from notellm2.stack.backup.databases import Server
from notellm2.stack.backup.installation import DVC, PINS, Installation, published_files
from notellm2.stack.backup.places import Folder, Place, StoreFolder, alone
from notellm2.workspace import Workspace

DATABASES = ("prefect", "mlflow")
"""What deploy/postgres/databases.sh makes; MLflow's users and their permissions are tables of its own database."""

_REQUIRED = ("PGHOST", "PGUSER", "PGPASSWORD", "NOTELLM2_STORE", "MLFLOW_ARTIFACTS_DESTINATION")
_DATA = "_data"
_PUBLISHED = "_published"
_LEFT_OUT = (
    ".env: the secrets; keep a copy apart from the backups",
    "data: as DVC has them; `notellm2 data pull` brings the pinned version to disk again",
    "store: vision features (_vision), which are made again, and work in progress (names that begin with a dot)",
)


class Remote(NamedTuple):
    """A remote of DVC.

    Attributes:
        name: what DVC calls it.
        url: a folder, absolute, or a URL.
    """

    name: str
    url: str


def described(environment: Mapping[str, str]) -> Installation:
    """What the variables describe; see the module.

    Args:
        environment: the variables.

    Raises:
        InputError: a variable is missing, or an object store is named and boto3 is not installed.
    """
    missing = [name for name in _REQUIRED if not environment.get(name)]
    if missing:
        raise InputError(
            f"{', '.join(missing)}: not set, and there is no .env to take them from: run it in the project's folder, "
            "or in the container: `docker compose run --rm backup`"
        )
    workspace = Workspace.at(Path(environment["NOTELLM2_STORE"]))
    bucket = environment.get("S3_BUCKET", "")
    places: dict[str, Place] = {}
    published, folder = _published(environment.get("NOTELLM2_PUBLISHED", ""), workspace, bucket, places)
    files = environment["MLFLOW_ARTIFACTS_DESTINATION"]
    if not files.startswith("s3://"):
        places["mlflow"] = Folder(Path(files))
    elif _parts(files)[0] == bucket:
        _add_bucket(places, bucket)
    else:
        places["mlflow"] = Bucket(*_parts(files))
    return Installation(
        server=Server(
            host=environment["PGHOST"],
            port=int(environment.get("PGPORT") or 5432),
            user=environment["PGUSER"],
            password=environment["PGPASSWORD"],
            # PATH first: in an image there is no server beside its programs.
            programs=None if shutil.which("pg_dump") else postgres.programs(),
        ),
        databases=DATABASES,
        places=places,
        workspace=workspace,
        published=published,
        folder=folder,
        left_out=(*_LEFT_OUT, *_add_data(workspace.root.parent, bucket, places)),
    )


def remotes(project: Path) -> list[Remote]:
    """The remotes that DVC's settings in a project name.

    Raises:
        InputError: a settings file is not readable.
    """
    found: dict[str, Remote] = {}
    for name in ("config", "config.local"):
        path = project / ".dvc" / name
        settings = configparser.ConfigParser(interpolation=None, strict=False)
        try:
            settings.read_string("\n".join(line.strip() for line in path.read_text().splitlines()))
        except FileNotFoundError:
            continue
        except (configparser.Error, UnicodeDecodeError) as error:
            raise InputError(f"{path}: not readable as DVC's settings: {str(error).splitlines()[0]}") from None
        for section in settings.sections():
            match = re.fullmatch(r"""'?remote "(.+)"'?""", section)
            if match and settings.has_option(section, "url"):
                url = settings.get(section, "url")
                # A relative folder is one from the file that names it.
                place = url if "://" in url else str((path.parent / Path(url).expanduser()).resolve())
                found[match.group(1)] = Remote(match.group(1), place)
    return list(found.values())


def _published(
    url: str, workspace: Workspace, bucket: str, places: dict[str, Place]
) -> tuple[Location, tuple[str, str]]:
    """The published place, and in which of the places its versions are; adds the store, and that place if need be."""
    store = workspace.root
    if not url:
        places["store"] = StoreFolder(store, (_DATA, _PUBLISHED), published_files(f"{_PUBLISHED}/"))
        return Location.at(store / _PUBLISHED), ("store", f"{_PUBLISHED}/")
    places["store"] = StoreFolder(store, (_DATA,))
    location = Location.at(url)
    if not url.startswith("s3://"):
        places["indexes"] = Folder(Path(url), published_files(""))
        return location, ("indexes", "")
    name, prefix = _parts(url)
    if name != bucket:
        places["indexes"] = Bucket(name, prefix, published_files(""))
        return location, ("indexes", "")
    places["bucket"] = Bucket(bucket, "", published_files(prefix))
    return location, ("bucket", prefix)


def _add_bucket(places: dict[str, Place], bucket: str) -> None:
    if "bucket" not in places:
        places["bucket"] = Bucket(bucket, "", alone)


def _add_data(home: Path, bucket: str, places: dict[str, Place]) -> list[str]:
    """Add the data versions that DVC keeps in the workers' folder; what is said of those elsewhere, a line each."""
    places[PINS] = Folder(home, tops=("[!.]*.dvc", ".dvc/config"))
    said, found = [], remotes(home)
    for remote in found:
        if "://" not in remote.url:
            places[f"{DVC}{remote.name}"] = Folder(Path(remote.url))
        elif remote.url.startswith("s3://") and _parts(remote.url)[0] == bucket:
            _add_bucket(places, bucket)
        else:
            said.append(f"DVC: remote {remote.name!r} is elsewhere; back it up where it is")
    if not found:
        places[f"{DVC}cache"] = Folder(home / ".dvc" / "cache")
    return said


def _parts(url: str) -> tuple[str, str]:
    """Bucket, and prefix with a ``/`` at its end or empty."""
    bucket, _, prefix = url.removeprefix("s3://").partition("/")
    return bucket, f"{prefix.strip('/')}/" if prefix.strip("/") else ""
