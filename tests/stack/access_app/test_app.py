"""The table of docs/guides/access-and-secrets.md, asked of a real server by its HTTP API."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import requests

from tests.unit.access.server import PASSWORDS, Server

ALIAS = "/api/2.0/mlflow/registered-models/alias"


@dataclass(frozen=True)
class Registered:
    """A model with two versions that `trainer` registered; 1 is `champion`, by `promoter`."""

    server: Server
    experiment: str
    run: str
    finished: str
    unfinished: str
    model: str

    def ask(self, user: str | None, method: str, path: str, **given: Any) -> requests.Response:
        auth = None if user is None else (user, PASSWORDS[user])
        return requests.request(method, self.server.url + path, auth=auth, timeout=30, **given)

    def must(self, user: str, method: str, path: str, **given: Any) -> dict[str, Any]:
        answer = self.ask(user, method, path, **given)
        assert answer.status_code == 200, answer.text
        return dict(answer.json()) if answer.text else {}

    def alias(self, alias: str = "champion") -> str | None:
        answer = self.ask("reader", "GET", ALIAS, params={"name": self.model, "alias": alias})
        return str(answer.json()["model_version"]["version"]) if answer.status_code == 200 else None

    def files(self, *parts: str) -> str:
        return "/api/2.0/mlflow-artifacts/artifacts/" + "/".join((self.experiment, *parts))


@pytest.fixture(scope="module")
def registered(server: Server) -> Registered:
    name = f"m-{uuid.uuid4().hex[:8]}"
    place = Registered(server, "", "", "", "", name)

    def do(path: str, method: str = "POST", **body: Any) -> dict[str, Any]:
        return place.must("trainer", method, f"/api/2.0/mlflow/{path}", json=body)

    experiment = do("experiments/create", name=name)["experiment_id"]
    run = do("runs/create", experiment_id=experiment)["run"]["info"]["run_id"]
    models = [
        do("logged-models", experiment_id=experiment, name=name, source_run_id=run)["model"]["info"]["model_id"]
        for _ in range(2)
    ]
    place = Registered(server, experiment, run, models[0], models[1], name)
    place.must("trainer", "PUT", place.files("models", models[0], "artifacts", "MLmodel"), data=b"weights")
    do(f"logged-models/{models[0]}", "PATCH", model_id=models[0], status="LOGGED_MODEL_READY")
    do("registered-models/create", name=name)
    for _ in range(2):
        do("model-versions/create", name=name, source=f"models:/{models[0]}", run_id=run, model_id=models[0])
    do("registered-models/alias", name=name, alias="challenger", version="2")
    place.must("promoter", "POST", ALIAS, json={"name": name, "alias": "champion", "version": "1"})
    return place


@pytest.fixture
def unmoved(registered: Registered) -> Iterator[Registered]:
    """What a test tries here must leave the champion where it is, and its files as they were."""
    yield registered
    assert registered.alias() == "1"
    kept = registered.ask("reader", "GET", registered.files("models", registered.finished, "artifacts", "MLmodel"))
    assert kept.content == b"weights"


@pytest.mark.parametrize("user", ["trainer", "reader", None])
@pytest.mark.parametrize("prefix", ["/api/2.0", "/ajax-api/2.0"])
def test_no_route_moves_champion_for_who_is_no_promoter(unmoved: Registered, user: str | None, prefix: str) -> None:
    name = unmoved.model
    moved = {"name": name, "alias": "champion", "version": "2"}
    removed = {"name": name, "alias": "champion"}
    version = {"name": name, "version": "1"}
    staged = {**version, "stage": "Archived", "archive_existing_versions": True}
    reopened = {"model_id": unmoved.finished, "status": "LOGGED_MODEL_UPLOAD_FAILED"}
    for method, path, body in (
        ("POST", "registered-models/alias", moved),
        ("DELETE", "registered-models/alias", removed),
        ("POST", "registered-models/rename", {"name": name, "new_name": name + "-renamed"}),
        ("DELETE", "registered-models/delete", {"name": name}),
        ("DELETE", "model-versions/delete", version),
        ("POST", "model-versions/transition-stage", staged),
        ("POST", "model-versions/set-tag", {**version, "key": "notellm2.ledger.000001", "value": "{}"}),
        ("POST", "model-versions/set-tag", {**version, "key": "mlflow.prompt.is_prompt", "value": "true"}),
        ("DELETE", "model-versions/delete-tag", {**version, "key": "notellm2.bundle"}),
        ("POST", "registered-models/set-tag", {"name": name, "key": "mlflow.prompt.is_prompt", "value": "true"}),
        ("POST", "runs/delete", {"run_id": unmoved.run}),
        ("POST", "experiments/delete", {"experiment_id": unmoved.experiment}),
        ("DELETE", f"logged-models/{unmoved.finished}", {}),
        ("PATCH", f"logged-models/{unmoved.finished}", reopened),
    ):  # fmt: skip
        answer = unmoved.ask(user, method, f"{prefix}/mlflow/{path}", json=body)
        assert answer.status_code == (401 if user is None else 403), (method, path, answer.text)


@pytest.mark.parametrize(
    ("path", "body", "headers"),
    [
        (ALIAS, b'{"name": "NAME", "alias": "challenger", "alias": "champion", "version": "2"}', {}),
        (ALIAS, b'{"name": "NAME", "alias": "champion", "version": "2"}', {"Content-Type": "text/plain"}),
        (ALIAS, b'"{\\"name\\": \\"NAME\\", \\"alias\\": \\"champion\\", \\"version\\": \\"2\\"}"', {}),
        (f"{ALIAS}?alias=challenger", b'{"name": "NAME", "alias": "champion", "version": "2"}', {}),
        (f"{ALIAS}/", b'{"name": "NAME", "alias": "champion", "version": "2"}', {}),
        (f"/{ALIAS}", b'{"name": "NAME", "alias": "champion", "version": "2"}', {}),
        ("/static-files/.." + ALIAS, b'{"name": "NAME", "alias": "champion", "version": "2"}', {}),
        (ALIAS.replace("alias", "%61lias"), b'{"name": "NAME", "alias": "champion", "version": "2"}', {}),
        (ALIAS, b'{"name": "NAME", "alias": "champion", "version": "2"}', {"X-HTTP-Method-Override": "GET"}),
        ("/graphql", b'{"query": "mutation { setRegisteredModelAlias }"}', {}),
    ],
)
def test_no_way_of_writing_the_request_gets_a_trainer_past_the_rule(
    unmoved: Registered, path: str, body: bytes, headers: dict[str, str]
) -> None:
    answer = unmoved.ask(
        "trainer",
        "POST",
        path,
        data=body.replace(b"NAME", unmoved.model.encode()),
        headers={"Content-Type": "application/json", **headers},
        allow_redirects=False,
    )
    assert answer.status_code >= 300 or path == "/graphql", answer.text
    assert unmoved.alias("challenger") == "2"


def test_a_trainer_registers_and_puts_forward_and_a_promoter_moves_both_ways(registered: Registered) -> None:
    def move(user: str, alias: str, version: str) -> None:
        registered.must(user, "POST", ALIAS, json={"name": registered.model, "alias": alias, "version": version})
        assert registered.alias(alias) == version

    move("trainer", "challenger", "1")
    move("trainer", "challenger", "2")
    move("promoter", "champion", "2")
    registered.must("promoter", "DELETE", ALIAS, json={"name": registered.model, "alias": "champion"})
    assert registered.alias() is None
    move("promoter", "champion", "1")
    tag = {"name": registered.model, "version": "1", "key": "notellm2.ledger.000001", "value": "{}"}
    registered.must("promoter", "POST", "/api/2.0/mlflow/model-versions/set-tag", json=tag)
    registered.must("trainer", "POST", "/api/2.0/mlflow/model-versions/set-tag", json={**tag, "key": "notellm2.gate"})


def test_a_reader_reads_runs_models_aliases_and_files_and_writes_nothing(unmoved: Registered) -> None:
    name, run = unmoved.model, unmoved.run
    for method, path, given in (
        ("GET", "experiments/get", {"params": {"experiment_id": unmoved.experiment}}),
        ("POST", "runs/search", {"json": {"experiment_ids": [unmoved.experiment]}}),
        ("GET", "runs/get", {"params": {"run_id": run}}),
        ("GET", "artifacts/list", {"params": {"run_id": run}}),
        ("GET", "registered-models/get", {"params": {"name": name}}),
        ("GET", "registered-models/alias", {"params": {"name": name, "alias": "champion"}}),
        ("GET", "model-versions/get", {"params": {"name": name, "version": "1"}}),
        ("GET", "model-versions/search", {"params": {"filter": f"name='{name}'"}}),
        ("GET", "model-versions/get-download-uri", {"params": {"name": name, "version": "1"}}),
        ("GET", f"logged-models/{unmoved.finished}", {}),
        ("GET", f"logged-models/{unmoved.finished}/artifacts/directories", {}),
    ):  # fmt: skip
        unmoved.must("reader", method, f"/api/2.0/mlflow/{path}", **given)
    aliases = unmoved.must("reader", "GET", "/api/2.0/mlflow/registered-models/get", params={"name": name})
    assert {a["alias"] for a in aliases["registered_model"]["aliases"]} == {"champion", "challenger"}
    assert unmoved.ask("reader", "GET", "/").status_code == 200
    for method, path, body in (
        ("POST", "experiments/create", {"name": "mine"}),
        ("POST", "runs/create", {"experiment_id": unmoved.experiment}),
        ("POST", "runs/log-metric", {"run_id": run, "key": "a", "value": 1.0, "timestamp": 0}),
        ("POST", "runs/set-tag", {"run_id": run, "key": "a", "value": "b"}),
        ("POST", "registered-models/create", {"name": "mine"}),
        ("POST", "model-versions/create", {"name": name, "source": f"models:/{unmoved.finished}"}),
        ("POST", "registered-models/alias", {"name": name, "alias": "challenger", "version": "1"}),
        ("POST", "users/create", {"username": "mine", "password": "a long enough one"}),
    ):  # fmt: skip
        assert unmoved.ask("reader", method, f"/api/2.0/mlflow/{path}", json=body).status_code == 403, path
    assert unmoved.ask("reader", "PUT", unmoved.files(run, "artifacts", "a.txt"), data=b"x").status_code == 403


@pytest.mark.parametrize("user", ["trainer", "promoter", "reader", "admin"])
def test_a_model_that_is_not_there_is_not_found_and_not_forbidden(registered: Registered, user: str) -> None:
    gone = {"name": "no-such-model", "alias": "champion", "version": "1"}
    for path in ("registered-models/alias", "model-versions/get", "model-versions/get-download-uri"):
        answer = registered.ask(user, "GET", f"/api/2.0/mlflow/{path}", params=gone)
        assert (answer.status_code, answer.json()["error_code"]) == (404, "RESOURCE_DOES_NOT_EXIST"), answer.text
    there = registered.ask(user, "GET", ALIAS, params={**gone, "name": registered.model, "alias": "no-such-alias"})
    assert there.json()["error_code"] == "INVALID_PARAMETER_VALUE", "as MLflow says it"


def test_what_is_not_there_is_not_told_to_who_may_not_read(registered: Registered) -> None:
    auth = ("stranger", "without any role")
    stranger = {"username": auth[0], "password": auth[1]}
    registered.must("admin", "POST", "/api/2.0/mlflow/users/create", json=stranger)
    ask = {"name": "no-such-model", "alias": "champion"}
    assert requests.get(registered.server.url + ALIAS, params=ask, auth=auth, timeout=30).status_code == 403
    assert requests.get(registered.server.url + ALIAS, params=ask, timeout=30).status_code == 401
    registered.must("admin", "DELETE", "/api/2.0/mlflow/users/delete", json={"username": auth[0]})


def test_the_files_of_a_finished_model_are_sealed_and_others_are_not(unmoved: Registered) -> None:
    for path in (
        unmoved.files("models", unmoved.finished, "artifacts", "MLmodel"),
        unmoved.files("models", unmoved.finished, "artifacts", "another"),
        unmoved.files("models", "", unmoved.finished, "artifacts", "MLmodel"),
        unmoved.files("models", unmoved.finished, "artifacts", "MLmodel").replace("/api/", "/ajax-api/"),
        unmoved.files("models", "%6d" + unmoved.finished[1:], "artifacts", "MLmodel"),
        # MLflow decodes once more, and drops line breaks and tabs.
        unmoved.files("models", "%256d" + unmoved.finished[1:], "artifacts", "MLmodel"),
        unmoved.files("models", "%25256d" + unmoved.finished[1:], "artifacts", "MLmodel"),
        unmoved.files("models", "m%250A" + unmoved.finished[1:], "artifacts", "MLmodel"),
        unmoved.files("mod%09els", unmoved.finished, "artifacts", "MLmodel"),
        unmoved.files("mod%2509els", unmoved.finished, "artifacts", "MLmodel"),
        unmoved.files("models%252F" + unmoved.finished, "artifacts", "MLmodel"),
    ):
        assert unmoved.ask("trainer", "PUT", path, data=b"others").status_code == 403, path
    assert unmoved.ask("trainer", "DELETE", unmoved.files("models", unmoved.finished)).status_code == 403
    unmoved.must("trainer", "PUT", unmoved.files("models", unmoved.unfinished, "artifacts", "MLmodel"), data=b"x")
    unmoved.must("trainer", "PUT", unmoved.files(unmoved.run, "artifacts", "a.txt"), data=b"x")


def test_what_is_served_beside_the_list_is_for_administrators(registered: Registered) -> None:
    for user in ("trainer", "promoter", "reader"):
        for method, path in (
            ("POST", "/v1/traces"),
            ("GET", "/ajax-api/3.0/mlflow/assistant/config"),
            ("POST", "/ajax-api/3.0/jobs/search"),
            ("GET", "/api/2.0/mlflow/users/list"),
            ("GET", "/api/2.0/mlflow/webhooks"),
            ("GET", "/no/such/page"),
        ):
            assert registered.ask(user, method, path, json={}).status_code == 403, (user, path)


def test_a_wrong_password_opens_nothing_and_health_needs_none(registered: Registered) -> None:
    url = registered.server.url
    for path in ("/", "/api/2.0/mlflow/experiments/search", registered.files("models", registered.finished, "x")):
        assert requests.get(url + path, auth=("trainer", PASSWORDS["reader"]), timeout=30).status_code == 401, path
        assert requests.get(url + path, headers={"Authorization": "Basic !"}, timeout=30).status_code == 401, path
    assert requests.get(f"{url}/health", timeout=30).status_code == 200
