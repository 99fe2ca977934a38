"""Who may do what at the real stack; every route and role is tried in tests/unit/access."""

from __future__ import annotations

import pytest
import requests

from tests.stack.conftest import RunningStack
from tests.stack.outage import MODEL, Retraining

ALIAS = "/api/2.0/mlflow/registered-models/alias"


def alias(stack: RunningStack, name: str) -> str | None:
    answer = requests.get(
        stack.mlflow_url + ALIAS,
        params={"name": MODEL, "alias": name},
        auth=("reader", stack.password("reader")),
        timeout=30,
    )
    return answer.json()["model_version"]["version"] if answer.status_code == 200 else None


def test_a_first_retraining_as_trainer_begins_on_an_empty_registry(through_outage: Retraining) -> None:
    before = through_outage.said["before"]
    assert (before.returncode, before.stdout) == (0, "None None\n"), before.stderr
    assert through_outage.said["retrain"].returncode == 0
    assert alias(through_outage.stack, "challenger") == "1"


@pytest.mark.parametrize("user", ["trainer", "reader"])
def test_credentials_of_a_training_cannot_move_champion(through_outage: Retraining, user: str) -> None:
    stack = through_outage.stack
    answer = requests.post(
        stack.mlflow_url + ALIAS,
        json={"name": MODEL, "alias": "champion", "version": "1"},
        auth=(user, stack.password(user)),
        timeout=30,
    )
    assert answer.status_code == 403
    assert "promoter" in answer.text or user == "reader"


def test_a_worker_that_may_not_promote_leaves_a_challenger_and_the_command_says_what_to_do(
    through_outage: Retraining,
) -> None:
    stack, refused = through_outage.stack, through_outage.said["promote as trainer"]
    assert alias(stack, "challenger") == "1"
    assert refused.returncode == 2
    assert "user trainer may not promote version 1" in refused.stderr
    assert "NOTELLM2_PROMOTER_USERNAME and NOTELLM2_PROMOTER_PASSWORD" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_with_a_promoters_credentials_beside_its_own_it_promotes(through_outage: Retraining) -> None:
    promoted = through_outage.said["promote"]
    assert (promoted.returncode, promoted.stderr) == (0, "")
    assert alias(through_outage.stack, "champion") == "1"
    history = through_outage.said["history"].stdout
    assert "promote (manual)" in history
