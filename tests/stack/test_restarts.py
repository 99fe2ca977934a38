"""MLflow away from the middle of a training to after its end, PostgreSQL restarted under both servers meanwhile."""

from __future__ import annotations

import json

import requests

from tests.stack.outage import MODEL, STEPS, WAITS_AT, Retraining


def test_no_step_is_lost_and_the_run_ends_well(through_outage: Retraining) -> None:
    stack = through_outage.stack
    user = ("reader", stack.password("reader"))

    def ask(path: str, **given: object) -> dict[str, object]:
        answer = requests.get(f"{stack.mlflow_url}/api/2.0/mlflow/{path}", params=given, auth=user, timeout=30)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    experiment = ask("experiments/get-by-name", experiment_name=MODEL)["experiment"]["experiment_id"]
    found = requests.post(
        f"{stack.mlflow_url}/api/2.0/mlflow/runs/search", json={"experiment_ids": [experiment]}, auth=user, timeout=30
    ).json()["runs"]
    (run,) = found
    assert run["info"]["status"] == "FINISHED"
    (trained,) = [a for a in through_outage.store.artifacts() if a.stage == "training"]
    history = [json.loads(line) for line in trained.file("metrics.jsonl").read_text().splitlines()]
    curves = {name: {row["step"]: row[name] for row in history if row.get(name) is not None} for name in ("loss", "lr")}
    for name, points in curves.items():
        logged = ask("metrics/get-history", run_id=run["info"]["run_id"], metric_key=f"training/{name}")["metrics"]
        assert {int(point["step"]): point["value"] for point in logged} == points
        assert len(logged) == len(points) == STEPS > WAITS_AT, "each step once"


def test_the_servers_are_well_after_it(through_outage: Retraining) -> None:
    states = {row.name: row.state for row in through_outage.stack.native.status()}
    assert {states[name] for name in ("postgres", "mlflow", "prefect-server", "worker")} == {"healthy"}


def test_prefect_saw_one_completed_run(through_outage: Retraining) -> None:
    stack = through_outage.stack
    user = tuple(stack.settings.variables["PREFECT_AUTH"].split(":", 1))
    runs = requests.post(
        f"{stack.prefect_url}/flow_runs/filter",
        json={"flows": {"name": {"any_": ["retrain"]}}},
        auth=(user[0], user[1]),
        timeout=30,
    ).json()
    ours = [run for run in runs if MODEL in json.dumps(run["parameters"])]
    assert [run["state"]["type"] for run in ours] == ["COMPLETED"]
