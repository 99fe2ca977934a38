"""The model bundle as a logged pyfunc model *from code*: safetensors, JSON and one script, no pickles.

Logging never loads the model: the signature is written here, requirements are this package's own pins, and the input
example is checked against the signature only. Measured: 0.4 s for a small bundle on an idle machine, 2 s on a busy
one; the bundle's files are copied twice (MLflow's staging, then its artifact store).
"""

from __future__ import annotations

import importlib.metadata
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from packaging.requirements import Requirement
from packaging.version import Version

from notellm2.registry import names
from notellm2.registry.descriptions import model_card
from notellm2.registry.runs import Run

if TYPE_CHECKING:
    from mlflow.entities import LoggedModel
    from mlflow.models import ModelSignature

# 1 x 1 pixel, a whole PNG file: an example must not carry a user's note into the registry.
_PIXEL = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de"
    "0000000c49444154789c63f8cfc0000003010100c9fe92ef0000000049454e44ae426082"
)
_MODEL_CODE = Path(__file__).with_name("pyfunc_model.py")


def log_model(run: Run, bundle: Path, digest: str) -> LoggedModel:
    """Return the run's logged model of this bundle; logs it unless a killed process got that far already.

    Args:
        run: of the retraining; its lock "versions" must be held: one process at a time.
        bundle: the model bundle's directory.
        digest: of the bundle's files.
    """
    import mlflow.pyfunc
    from mlflow.entities import LoggedModelOutput
    from mlflow.models import Model

    tracking, client = run.tracking, run.tracking.client
    experiment_id = client.get_run(run.run_id).info.experiment_id
    for model in client.search_logged_models([experiment_id], f"source_run_id = '{run.run_id}'"):
        if model.tags.get(names.BUNDLE) == digest:
            if str(model.status) == "READY":
                return model
            if str(model.status) == "PENDING":
                # What a killed process left. Not deleted: that is an administrator's to do (`registry.access`).
                client.finalize_logged_model(model.model_id, "FAILED")
    model = client.create_logged_model(
        experiment_id, name=tracking.model_name, source_run_id=run.run_id, tags={names.BUNDLE: digest}
    )
    # In the workspace, not in /tmp, which may be small memory: a bundle may be gigabytes. The caller's lock makes
    # this the only user, so what a killed process left can go.
    folder = tracking.locks.parent / "upload"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        mlflow.pyfunc.save_model(
            folder / "model",
            python_model=str(_MODEL_CODE),
            artifacts={"bundle": str(bundle)},
            signature=signature(),
            input_example=input_example(),
            pip_requirements=requirements(),
            mlflow_model=Model(
                artifact_path=model.artifact_location,
                run_id=run.run_id,
                model_uuid=model.model_id,
                model_id=model.model_id,
            ),
        )
        tags = client.get_run(run.run_id).data.tags
        card = model_card(tracking.model_name, tags.get(names.RECIPE, "unknown"), tags.get(names.DATA_MD5, "unknown"))
        (folder / "model" / "README.md").write_text(card, encoding="utf-8")
        client.log_model_artifacts(model.model_id, str(folder / "model"))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    client.log_outputs(run.run_id, [LoggedModelOutput(model.model_id, step=0)])
    return client.finalize_logged_model(model.model_id, "READY")


def requirements() -> list[str]:
    """List what a server of the model installs: this package and its direct dependencies, at these versions.

    Own pins, not MLflow's inference: that would load the model in a second process for a minute.
    """
    own = importlib.metadata.distribution("notellm2")
    pins = [f"notellm2=={own.version}"]
    for line in own.requires or ():
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            installed = Version(importlib.metadata.version(requirement.name))
            # Without the local part: 2.13.0+cpu is on no public index.
            pins.append(f"{requirement.name}=={installed.public}")
    return pins


def signature() -> ModelSignature:
    """Return the model's contract: note_id, title, topics, content, optional image bytes; embedding float32[d]."""
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema, TensorSpec
    from mlflow.types.schema import Array

    inputs: list[ColSpec | TensorSpec] = [
        ColSpec(DataType.string, "note_id"),
        ColSpec(DataType.string, "title"),
        ColSpec(Array(DataType.string), "topics"),
        ColSpec(DataType.string, "content"),
        ColSpec(DataType.binary, "image", required=False),
    ]
    outputs: list[ColSpec | TensorSpec] = [ColSpec(Array(DataType.float), "embedding")]
    return ModelSignature(Schema(inputs), Schema(outputs))


def input_example() -> Any:
    """Make up two notes as a data frame, the second without image (empty: MLflow's JSON has no null for bytes)."""
    import pandas as pd

    return pd.DataFrame(
        [
            {
                "note_id": "example-1",
                "title": "Sourdough for beginners",
                "topics": ["baking", "bread"],
                "content": "Flour, water, salt and time.",
                "image": _PIXEL,
            },
            {"note_id": "example-2", "title": "Evening walk", "topics": [], "content": "", "image": b""},
        ]
    )
