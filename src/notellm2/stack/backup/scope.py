"""What belongs into a backup: where the databases, files and pointers of one set-up are.

The set-up is described by the variables of the service ``backup`` in docker-compose.yml. In its container they are the
process's own; natively `Stack.environment("backup")` gives the same with this machine's addresses and folders. The
object store's settings (``AWS_...``) are read by its client from the process itself.

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
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from notellm2.errors import InputError
from notellm2.promotion.journal import JOURNAL
from notellm2.promotion.ledger import LEDGER
from notellm2.publication.location import Location
from notellm2.publication.opening import open_location
from notellm2.publication.pointer import POINTER
from notellm2.stack import postgres
from notellm2.stack.backup.databases import Server
from notellm2.stack.backup.storage import Bucket, Entry, Folder, Storage
from notellm2.workspace import Workspace

DATABASES = ("prefect", "mlflow")
"""What deploy/postgres/databases.sh makes; MLflow's users and their permissions are tables of its own database."""
POINTERS = (LEDGER, JOURNAL, POINTER)
"""The small objects of the publication that change, in the order of a restore: what readers follow comes last."""
PUBLISHED = "published"
"""Name, in a backup, of what holds `POINTERS` and nothing else."""
STORE = "store"
PINS = "pins"
"""Name of the storage of data versions' pins: DVC's pointer files and settings, which lie in the project."""
DVC = "dvc-"
"""Names of storages that begin so hold what DVC keeps, by its content."""

_PUBLISHED_HERE = "_published"
_STAGES_AND_DATA = ("[!_.]*", "_data")
_REQUIRED = ("PGHOST", "PGUSER", "PGPASSWORD", "NOTELLM2_STORE", "MLFLOW_ARTIFACTS_DESTINATION")
_LEFT_OUT = (
    ".env: the secrets; keep a copy apart from the backups",
    "data: as DVC has them; `notellm2 data pull` brings the pinned version to disk again",
    "store: vision features (_vision), which are made again, and work in progress (names that begin with a dot)",
)


@dataclass(frozen=True)
class Scope:
    """What belongs into a backup of one set-up.

    Attributes:
        server: of the databases.
        storages: of files, by name.
        workspace: the store; held while it is written to.
        published: where readers look.
        versions: of published indexes lie in one of the storages: its name, and what their names begin with there.
        left_out: what is known to be there and in no storage, with the reason, a line each.
    """

    server: Server
    storages: Mapping[str, Storage]
    workspace: Workspace
    published: Location
    versions: tuple[str, str]
    left_out: tuple[str, ...] = ()

    def entries(self, name: str) -> Iterator[Entry]:
        """List the files of a storage without the `POINTERS`, which are read and written by themselves."""
        storage, prefix = self.versions
        pointers = {f"{prefix}{pointer}" for pointer in POINTERS} if name == storage else set()
        return (entry for entry in self.storages[name].entries() if entry.name not in pointers)


def read_scope(environment: Mapping[str, str]) -> Scope:
    """Find what belongs into a backup of the set-up that these variables describe; see the module.

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
    storages: dict[str, Storage] = {}
    url = environment.get("NOTELLM2_PUBLISHED") or str(workspace.root / _PUBLISHED_HERE)
    inside = url == str(workspace.root / _PUBLISHED_HERE)
    storages[STORE] = Folder(workspace.root, *_STAGES_AND_DATA, *([_PUBLISHED_HERE] if inside else []))
    versions = (STORE, f"{_PUBLISHED_HERE}/") if inside else _add(storages, "indexes", url, bucket)
    _add(storages, "mlflow", environment["MLFLOW_ARTIFACTS_DESTINATION"], bucket)
    left_out = _add_data(storages, workspace.root.parent, bucket)
    return Scope(
        server=Server(
            host=environment["PGHOST"],
            port=int(environment.get("PGPORT") or 5432),
            user=environment["PGUSER"],
            password=environment["PGPASSWORD"],
            # PATH first: in an image there is no server beside its programs.
            programs=None if shutil.which("pg_dump") else postgres.programs(),
        ),
        storages=storages,
        workspace=workspace,
        published=open_location(url),
        versions=versions,
        left_out=(*_LEFT_OUT, *left_out),
    )


def dvc_remotes(project: Path) -> dict[str, str]:
    """List the remotes that DVC's settings in a project name: an absolute folder or a URL each.

    Raises:
        InputError: a settings file is not readable.
    """
    remotes = {}
    for path in (project / ".dvc" / "config", project / ".dvc" / "config.local"):
        settings = configparser.ConfigParser(interpolation=None, strict=False)
        try:
            settings.read_string("\n".join(line.strip() for line in path.read_text().splitlines()))
        except FileNotFoundError:
            continue
        except (configparser.Error, UnicodeDecodeError) as error:
            raise InputError(f"{path}: not readable as DVC's settings: {str(error).splitlines()[0]}") from None
        for section in settings.sections():
            match = re.fullmatch(r"""'?remote "(.+)"'?""", section)
            if match and (url := settings.get(section, "url", fallback="")):
                # A relative folder is one from the file that names it.
                absolute = url if "://" in url else str((path.parent / Path(url).expanduser()).resolve())
                remotes[match.group(1)] = absolute
    return remotes


def _add(storages: dict[str, Storage], name: str, url: str, bucket: str) -> tuple[str, str]:
    """Add a folder or URL under a name, the stack's own bucket once and whole; its storage and prefix there."""
    if not url.startswith("s3://"):
        storages[name] = Folder(Path(url))
        return name, ""
    own, _, rest = url.removeprefix("s3://").partition("/")
    prefix = f"{rest.strip('/')}/" if rest.strip("/") else ""
    if own == bucket:
        storages.setdefault("bucket", Bucket(bucket))
        return "bucket", prefix
    storages[name] = Bucket(own, prefix)
    return name, ""


def _add_data(storages: dict[str, Storage], home: Path, bucket: str) -> list[str]:
    """Add the data versions that DVC keeps in the workers' folder; a line for each that is elsewhere."""
    storages[PINS] = Folder(home, "[!.]*.dvc", ".dvc/config")
    elsewhere, remotes = [], dvc_remotes(home)
    for name, url in remotes.items():
        if "://" in url and not f"{url}/".startswith(f"s3://{bucket}/"):
            elsewhere.append(f"DVC: remote {name!r} is elsewhere; back it up where it is")
        else:
            _add(storages, f"{DVC}{name}", url, bucket)
    if not remotes:
        storages[f"{DVC}cache"] = Folder(home / ".dvc" / "cache")
    return elsewhere
