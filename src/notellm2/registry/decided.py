"""How a version stands with people, on its page: waiting, refused, expired, put back or promoted."""

from __future__ import annotations

import json

from notellm2.registry import names
from notellm2.registry.runs import Run
from notellm2.registry.tracking import Tracking

_TAG_CHARS = 5000  # MLflow's limit of a version's tag


def record_decision(tracking: Tracking, version: str, sentence: str) -> None:
    """Say on a version's page how it stands; a registry that is not there, or has no such version, is left alone."""
    from mlflow.exceptions import MlflowException

    if not tracking.exists:
        return
    try:
        tracking.client.set_model_version_tag(tracking.model_name, version, names.DECISION, sentence[:_TAG_CHARS])
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise


def end_waiting_run(tracking: Tracking, version: str, status: str) -> None:
    """End the run of a version that waited for a decision, if it still says so (SCHEDULED).

    Args:
        tracking: the store.
        version: its number; one that is gone has no run to end.
        status: MLflow's word: FAILED or KILLED.
    """
    from mlflow.exceptions import MlflowException

    try:
        run_id = tracking.client.get_model_version(tracking.model_name, version).run_id
        if run_id and tracking.client.get_run(run_id).info.status == "SCHEDULED":
            run = Run.attach(tracking, run_id)
            run.conclude("not decided", "**Not decided**: its time was over or it was cancelled; it stays challenger.")
            run.finish(status)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise


def asked_by(tracking: Tracking, version: str | None) -> str:
    """Say who moved the alias `champion` last, for people: MLflow's user where the server has written it down.

    Args:
        tracking: the store.
        version: what the alias names; a note about another version is an older one.
    """
    note = json.loads(tracking.client.get_registered_model(tracking.model_name).tags.get(names.ASKED, "{}"))
    if note.get("version") == (version or "none") and note.get("by"):
        return f"{note['by']} (in MLflow)"
    return "somebody (in MLflow)"
