from __future__ import annotations

import subprocess
import sys

import pytest

from notellm2.access.rules import GRANTS, PROMOTER_TAGS, ROLES, refusal
from tests.conftest import ROOT

_SOURCE = {"PYTHONPATH": str(ROOT / "src")}
DESTRUCTIVE = ("Delete", "Restore", "Rename", "Transition")


@pytest.fixture(scope="module")
def mlflow_operations() -> set[str]:
    """Every operation that the installed MLflow serves, and the view functions of its plain pages."""
    from mlflow.server import app, handlers

    messages = {message.__name__ for _, message, _ in handlers.get_endpoints(lambda message: message)}
    return messages | set(app.view_functions)


def test_every_name_on_the_list_is_one_that_mlflow_has(mlflow_operations: set[str]) -> None:
    # Pages of users and roles are added when the app is made; the real server's tests call them.
    accounts = {
        "get_current_user",
        "get_user_permission",
        "list_current_user_permissions",
        "list_user_roles",
        "update_user_password",
    }
    listed = set().union(*ROLES.values()) - accounts
    assert listed <= mlflow_operations


def test_what_destroys_moves_stages_or_makes_users_is_for_administrators(mlflow_operations: set[str]) -> None:
    listed = set().union(*ROLES.values())
    allowed = {name for name in listed if name.startswith(DESTRUCTIVE)}
    assert allowed == {"DeleteRegisteredModelAlias", "DeleteTag"}
    assert "DeleteRegisteredModelAlias" not in ROLES["trainer"]
    assert not {name for name in listed if "Webhook" in name or "Gateway" in name or "create_user" in name}


def test_graphql_has_no_mutation_that_changes_anything() -> None:
    from mlflow.server.graphql.graphql_schema_extensions import schema

    mutation = schema.graphql_schema.mutation_type
    assert mutation is not None
    assert set(mutation.fields) == {"mlflowSearchDatasets", "mlflowSearchRuns", "testMutation"}


def test_every_role_has_a_grant() -> None:
    assert set(GRANTS) == set(ROLES)


@pytest.mark.parametrize("alias", ["champion", "Champion", "champion ", "", "challenger2"])
def test_a_trainer_moves_the_alias_challenger_only(alias: str) -> None:
    assert refusal(["trainer"], "SetRegisteredModelAlias", alias="challenger") is None
    assert "promoter's to move" in str(refusal(["trainer"], "SetRegisteredModelAlias", alias=alias))
    assert refusal(["promoter"], "SetRegisteredModelAlias", alias=alias) is None


@pytest.mark.parametrize("operation", ["UpdateModelVersion", "UpdateRegisteredModel"])
def test_descriptions_are_a_trainers_and_a_promoters_to_write(operation: str) -> None:
    for role in ("trainer", "promoter"):
        assert refusal([role], operation) is None
    assert refusal(["reader"], operation) is not None


def test_only_a_promoter_removes_an_alias() -> None:
    assert refusal(["promoter"], "DeleteRegisteredModelAlias", alias="champion") is None
    for role in ("trainer", "reader"):
        assert refusal([role], "DeleteRegisteredModelAlias", alias="champion") is not None


@pytest.mark.parametrize("operation", ["SetModelVersionTag", "CreateModelVersion"])
@pytest.mark.parametrize("tag", [*(f"{prefix}x" for prefix in PROMOTER_TAGS), "mlflow.prompt.is_prompt"])
def test_the_record_of_a_promotion_is_not_a_trainers_to_write(operation: str, tag: str) -> None:
    assert refusal(["trainer"], operation, tags=["notellm2.gate"]) is None
    assert tag in str(refusal(["trainer"], operation, tags=["notellm2.gate", tag]))


def test_whose_bundle_a_version_is_does_not_change() -> None:
    assert refusal(["trainer"], "CreateModelVersion", tags=["notellm2.bundle"]) is None
    for role in ("trainer", "promoter"):
        assert "stays" in str(refusal([role], "SetModelVersionTag", tags=["notellm2.bundle"]))


@pytest.mark.parametrize("roles", [["trainer"], ["promoter", "trainer"]])
def test_the_files_of_a_finished_model_are_sealed(roles: list[str]) -> None:
    assert refusal(roles, "UploadArtifact") is None
    assert "finished model" in str(refusal(roles, "UploadArtifact", finished_model=True))


def test_roles_add_up_and_others_count_for_nothing() -> None:
    assert refusal(["trainer", "promoter"], "CreateRun") is None
    assert refusal(["trainer", "promoter"], "SetRegisteredModelAlias", alias="champion") is None
    assert "none of the roles" in str(refusal(["__user_3__", "owner"], "GetRun"))
    assert "none of the roles" in str(refusal([], "GetRun"))


def test_what_is_not_listed_is_refused_and_the_refusal_says_who_may() -> None:
    assert refusal(["promoter"], "AnOperationOfNextYear") == "AnOperationOfNextYear is for administrators"
    assert refusal(["reader"], "CreateRun") == "CreateRun is for trainer"
    assert (
        refusal(["reader"], "SetRegisteredModelAlias", alias="x")
        == "SetRegisteredModelAlias is for trainer or promoter"
    )


def test_the_package_needs_only_what_the_servers_image_has() -> None:
    """Before it calls MLflow it has imported the standard library and our own light modules alone."""
    code = (
        "import sys; import notellm2.access.app, notellm2.access.people\n"
        "import notellm2.access.__main__\n"
        "print(*sorted({m.partition('.')[0] for m in sys.modules} - set(sys.stdlib_module_names)))"
    )
    done = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, env=_SOURCE, timeout=60)
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.split()) <= {"__main__", "notellm2"}
