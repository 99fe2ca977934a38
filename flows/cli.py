"""Commands for people: ``notellm2 retrain`` and the others, found by the entry points in pyproject.toml.

Flags are made from the settings of each flow (`flows.parameters`): names, help and defaults stand there once. A flow,
and with it Prefect, is imported when its command runs. Status 0: done. 2: something is wrong with what the user wrote;
the message says what to do. 1: a stage failed. 130: interrupted.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args, get_origin

import typer
from pydantic.fields import FieldInfo

from flows.parameters import (
    AblateSettings,
    BacktestSettings,
    CleanupSettings,
    Flag,
    FlowSettings,
    IngestSettings,
    RefreshSettings,
    RetrainSettings,
)
from notellm2.errors import InputError
from notellm2.workspace import Workspace

S = TypeVar("S", bound=FlowSettings)


def _command_of(kind: type[S]) -> Callable[[Callable[[S], int]], Callable[..., None]]:
    """Make a function of settings a command with a flag for each of them."""

    def decorate(run: Callable[[S], int]) -> Callable[..., None]:
        def command(**values: Any) -> None:
            plain = {name: _plain(value, kind.model_fields[name]) for name, value in values.items()}
            if status := run(kind.check(**plain)):
                raise typer.Exit(status)

        fields = kind.model_fields.items()
        options = [_option(name, field) for name, field in sorted(fields, key=lambda f: not f[1].is_required())]
        command.__name__, command.__doc__ = run.__name__, run.__doc__
        command.__signature__ = inspect.Signature(options)  # type: ignore[attr-defined]
        command.__annotations__ = {option.name: option.annotation for option in options}
        return command

    return decorate


def _option(name: str, field: FieldInfo) -> inspect.Parameter:
    flag = _flag(field)
    shown = flag.name or f"--{name.replace('_', '-')}"
    kind: Any = field.annotation
    default: Any = inspect.Parameter.empty if field.is_required() else field.default
    if kind is bool and default:
        shown = f"{shown}/--no-{shown.removeprefix('--')}"
    elif flag.metavar in ("FILE", "FOLDER"):
        kind = Path if field.is_required() or default is not None else Path | None
        default = Path(default) if isinstance(default, str) else default
    elif get_origin(kind) is list and not flag.repeated:
        kind, default = str, ",".join(map(str, default))
    text = str(field.description)
    info = typer.Option(shown, metavar=flag.metavar, help=f"{text[0].upper()}{text[1:]}.")
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, info])


def _plain(value: Any, field: FieldInfo) -> Any:
    """What typer read, as the settings take it."""
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, str) and get_origin(field.annotation) is list:
        (member,) = get_args(field.annotation)
        return [member(part.strip()) if member is str else part.strip() for part in value.split(",")]
    return value


def _flag(field: FieldInfo) -> Flag:
    return next((one for one in field.metadata if isinstance(one, Flag)), Flag())


@_command_of(RetrainSettings)
def retrain(settings: RetrainSettings) -> int:
    """Turn notes and behaviour into a registered model and a published index.

    Finished stages are reused: the same command continues a killed run, and does nothing twice.

    Example: notellm2 retrain --recipe recipes/sample.yaml --set training.steps=200
    """
    from flows.runtime.terminal import run_command
    from notellm2.doctor.recipe_fit import require_approver

    require_approver(settings.loaded_recipe)  # before Prefect's server is started

    def start() -> object:
        from flows.retrain import retrain

        return retrain(settings)

    return run_command(Workspace.at(settings.store_path), "a retraining", start)


@_command_of(IngestSettings)
def ingest(settings: IngestSettings) -> int:
    """Make a new export the data set's next version: import it, check it, replace data.dir in one step.

    It is recorded with DVC. A version that fails its checks changes nothing.

    Example: notellm2 ingest --recipe recipes/team.yaml --data exports/today
    """
    from flows.runtime.terminal import run_command

    def start() -> object:
        from flows.ingest import ingest

        return ingest(settings)

    return run_command(Workspace.at(settings.store_path).of_flow("ingest"), "an ingest", start)


@_command_of(RefreshSettings)
def refresh_index(settings: RefreshSettings) -> int:
    """Bring the published index up to date with the notes; nothing is trained.

    The champion embeds what is new or changed, what is gone is dropped, and the index is validated and published. With
    nothing to do, nothing moves.

    Example: notellm2 refresh-index --store store --data exports/today
    """
    from flows.runtime.terminal import run_command
    from notellm2.publication.pointer import read_pointer

    workspace = Workspace.at(settings.store_path)
    if not workspace.root.is_dir():
        raise InputError(f"store {workspace.root}: no such folder; a retraining makes it")
    read_pointer(workspace.published)  # With nothing to refresh, no server need be started to say so.

    def start() -> object:
        from flows.refresh_index import refresh_index

        return refresh_index(settings)

    return run_command(workspace.of_flow("refresh"), "an index refresh", start)


@_command_of(BacktestSettings)
def backtest(settings: BacktestSettings) -> int:
    """Train on all behaviour up to a window of time, test on that window, and slide.

    It shows how good the recipe would have been week by week, and how a model ages that is not retrained. Finished
    stages are reused. Nothing is registered or published.

    Example: notellm2 backtest --recipe recipes/sample.yaml --days 1 --windows 3
    """
    from flows.runtime.terminal import run_command

    def start() -> object:
        from flows.backtest import backtest

        return backtest(settings)

    return run_command(Workspace.at(settings.store_path), "a backtest", start)


@_command_of(AblateSettings)
def ablate(settings: AblateSettings) -> int:
    """Train and measure variants of a recipe with several seeds, side by side in one table and one plot.

    Finished parts are reused: the same command continues a killed sweep.

    Example: notellm2 ablate --recipe recipes/local-pretrained.yaml --variants text,basic,notellm2 --seeds 0,1
    """
    from flows.runtime.terminal import run_command

    def start() -> object:
        from flows.ablate import ablate

        return ablate(settings)

    return run_command(Workspace.at(settings.store_path), "a sweep", start)


@_command_of(CleanupSettings)
def cleanup(settings: CleanupSettings) -> int:
    """Remove old artifacts, data versions, flow runs and MLflow runs that nothing in use rests on.

    It says too whether the champion is stale.

    Example: notellm2 cleanup --recipe recipes/team.yaml --dry-run
    """
    from flows.runtime.terminal import run_command

    def start() -> object:
        from flows.cleanup import cleanup

        return cleanup(settings)

    return run_command(Workspace.at(settings.store_path).of_flow("cleanup"), "a cleanup", start)


def follow(
    store: Annotated[
        Path, typer.Option(help="Folder with artifacts, runs and published indexes.", envvar="NOTELLM2_STORE")
    ] = Path("store"),
    model: Annotated[
        str | None, typer.Option(help="Registered model; the published one's name when not given.")
    ] = None,
    every: Annotated[float, typer.Option(min=0.1, help="Seconds between looks.")] = 2.0,
    once: Annotated[bool, typer.Option("--once", help="Look once and end.")] = False,
) -> None:
    """Carry out what a promoter asks for by moving the alias champion in MLflow's page, or put it back and say why.

    It ends approvals that nobody gave too, and emits what was decided. Runs until it is stopped.

    Example: notellm2 follow --store store
    """
    from flows.runtime.environment import prepare

    if not store.is_dir() and once:
        raise InputError(f"store {store}: no such folder; a retraining makes it, or name another with --store")
    prepare(Workspace.at(store))
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    from flows.follow import follow_decisions

    follow_decisions(store, every_s=every, once=once, model=model)


class PoolType(StrEnum):
    """Where runs of the work pool go."""

    PROCESS = "process"
    DOCKER = "docker"
    KUBERNETES = "kubernetes"


def deploy(
    file: Annotated[Path, typer.Option(help="Deployments.")] = Path("prefect.yaml"),
    automations: Annotated[Path, typer.Option(help="Automations.")] = Path("deploy/automations.yaml"),
    pool_type: Annotated[
        PoolType,
        typer.Option(
            help="Where runs of the work pool go; docker and kubernetes take templates from deploy/work-pools."
        ),
    ] = PoolType.PROCESS,
    check: Annotated[
        bool, typer.Option("--check", help="Only read the files and say what is wrong with them.")
    ] = False,
) -> None:
    """Make or update what a Prefect server runs: work pool, queues, deployments, alert blocks, automations.

    PREFECT_API_URL names the server; addresses of alert blocks are in the environment. Run it in the project's folder.

    Example: PREFECT_API_URL=http://127.0.0.1:4200/api notellm2 deploy
    """
    from flows.deploy.deployments import deploy as deploy_project

    if status := deploy_project(file, automations, pool_type.value, check_only=check):
        raise typer.Exit(status)
