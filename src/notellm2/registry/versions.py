"""Model versions and their aliases.

A version is a model bundle that one run registered, with the figures it was judged by. The alias `challenger` names
the candidate last put forward, `champion` the version in use; one version may carry both.

MLflow moves an alias for whoever comes last, so the champion changes only by the transaction of
`notellm2.promotion.transaction`, which moves the published pointer with it.
"""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

from notellm2.artifacts import KEY_LENGTH, Artifact, digest_tree
from notellm2.errors import InputError
from notellm2.evaluation.metrics import SLICES, headline_k
from notellm2.publication.location import Location
from notellm2.publication.pointer import VERSIONS
from notellm2.registry import descriptions, names
from notellm2.registry.identities import refusal_explained
from notellm2.registry.models import log_model
from notellm2.registry.record import origin_of_run, stages_of, version_record
from notellm2.registry.runs import Run
from notellm2.registry.tracking import Tracking

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

    from notellm2.registry.decisions import Entry, Verdict


logger = logging.getLogger(__name__)

_OLD_MODEL_DESCRIPTION = "NoteLLM-2 note embeddings: a note in, float32[d] of length 1 out."
_MODEL_DESCRIPTION = (
    "NoteLLM-2 embeddings of notes: a note (title, topics, text, image) in, float32[d] of length 1 out.\n\n"
    "`champion` is in use, `challenger` was put forward last. A version's description says what it was judged by and "
    "what was decided about it. Put one into use with `notellm2 promote VERSION` or by giving it the alias "
    "`champion`, go back with `notellm2 rollback`: the published index moves with the alias, or the alias is put back."
)


class Version(BaseModel):
    """A registered version.

    Attributes:
        name: of the registered model.
        version: its number, as text (MLflow's form).
        run_id: of the retraining's run.
        bundle: digest of the model bundle's files.
        data_md5: of the data it was trained on.
        test_set: what its test figures were measured on.
        created: when it was registered, UTC.
        promoted_at: when it became champion, UTC, ISO; None if it never did.
        promoted_over: the champion it replaced; "none" if there was none; None if it never became champion.
        gate: "passed" or "refused"; None if no gate has judged it.
        verdict: the gate's sentence; empty if no gate has judged it.
        compared_with: the champion its verdict was reached against; None if there was none, or no gate has judged it.
        canary: whether its registered bundle was loaded and gave its canary embeddings again.
        metrics: test figures by row (modality or baseline), slice and figure (``recall@10``): the main ones.
        artifacts: stage to key of everything it was made from.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    version: str
    run_id: str
    bundle: str
    data_md5: str
    test_set: str
    created: datetime
    promoted_at: str | None
    promoted_over: str | None
    gate: str | None
    verdict: str
    compared_with: str | None
    canary: bool
    metrics: Mapping[str, Mapping[str, Mapping[str, float]]]
    artifacts: Mapping[str, str]


def register(run: Run, bundle: Path, *, data_md5: str, test_set: str) -> Version:
    """Log a bundle as a model of the run, register it as a version, and give it the alias `challenger`.

    A version of this run with the same bundle is returned as it is (with the alias), so a repeated or resumed flow
    registers nothing twice. The run's test figures and artifact keys are kept on the version, so log the evaluation
    first.

    Args:
        run: of the retraining.
        bundle: the model bundle's directory.
        data_md5: of the data version.
        test_set: digest of the test pairs and pool that the run's test figures were measured on.
    """
    tracking, client = run.tracking, run.tracking.client
    digest = digest_tree(bundle)[:KEY_LENGTH]
    # One registration at a time: two processes must not both find that there is no version yet.
    with tracking.lock("versions", timeout_s=600):
        registered = _registered(tracking, run.run_id, digest)
        if registered is None:
            model = log_model(run, bundle, digest)
            _ensure_registered_model(tracking)
            # By its files' address where we talk to the database ourselves: there MLflow resolves models:/ through
            # its global store, which is another one, and would make a stray mlflow.db in the current folder.
            source = f"models:/{model.model_id}" if tracking.artifacts is None else model.artifact_location
            registered = client.create_model_version(
                tracking.model_name,
                source,
                run.run_id,
                tags={names.BUNDLE: digest},
                model_id=model.model_id,
                await_creation_for=0,
            )
            # What MLflow's own registration writes, so that its pages link model and version.
            link = json.dumps([{"name": registered.name, "version": registered.version}])
            client.set_logged_model_tags(model.model_id, {"mlflow.modelVersions": link})
        number = str(registered.version)
        facts, origin = _facts(run)
        known = version_record(registered.tags)
        # Where it comes from stays as it was: the flow run that registered it, not one that met it there.
        origin = {fact: known.get(fact) or value for fact, value in origin.items()}
        _change_record(tracking, number, **origin | facts | {"data_md5": data_md5, "test_set": test_set})
    with tracking.lock("aliases"):
        move_alias(tracking, names.CHALLENGER, number)
    return get_version(tracking, number)


def champion(tracking: Tracking) -> Version | None:
    """Return the version in use, or None."""
    return _by_alias(tracking, names.CHAMPION)


def challenger(tracking: Tracking) -> Version | None:
    """Return the candidate last registered, or None."""
    return _by_alias(tracking, names.CHALLENGER)


def get_version(tracking: Tracking, version: str) -> Version:
    """Find a version by its number.

    Raises:
        InputError: there is no such version.
    """
    from mlflow.exceptions import MlflowException

    try:
        return _version(tracking.client.get_model_version(tracking.model_name, version))
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise
        raise InputError(
            f"version {version!r} of model {tracking.model_name!r}: not in {tracking.shown_uri}; "
            "see `notellm2 status` or the MLflow page for the versions there are"
        ) from None


def with_bundle(tracking: Tracking, version: str, bundle: str) -> Version | None:
    """Return a version if it is still the model of that bundle.

    None where it was deleted, or where a registry that was begun anew gave its number to another model.
    """
    try:
        registered = get_version(tracking, version)
    except InputError:
        return None
    return registered if registered.bundle == bundle else None


def alias_version(tracking: Tracking, alias: str) -> str | None:
    """Return the number of the version an alias names; None where nothing carries it."""
    version = _version_by_alias(tracking, alias) if tracking.exists else None
    return None if version is None else str(version.version)


def move_alias(tracking: Tracking, alias: str, version: str | None) -> None:
    """Let an alias name a version, or nothing.

    MLflow moves it for whoever comes last. The alias `champion` is moved by the promotion's transaction alone
    (`notellm2.promotion.transaction`), which holds a lease, and with the promoter's credentials.

    Raises:
        Forbidden: the server does not let this process's user move it.
    """
    if alias_version(tracking, alias) == version:
        return
    client = tracking.promoting if alias == names.CHAMPION else tracking.client
    with refusal_explained(
        f"move the alias {alias!r} of model {tracking.model_name!r}", version and f"promote {version}"
    ):
        if version is None:
            client.delete_registered_model_alias(tracking.model_name, alias)
        else:
            client.set_registered_model_alias(tracking.model_name, alias, version)


def begin_change(tracking: Tracking, entry: Entry) -> None:
    """Show a server that this process is a promoter, before anything moves; a database knows no users.

    Raises:
        Forbidden: the server does not take it for one.
    """
    if tracking.served and entry.to.version is not None:
        back = entry.action == "rollback"
        deed, command = ("go back to", "rollback --to") if back else ("promote", "promote")
        what = f"{deed} version {entry.to.version} of model {tracking.model_name!r}"
        with refusal_explained(what, f"{command} {entry.to.version}"):
            tracking.promoting.set_model_version_tag(tracking.model_name, entry.to.version, names.BEGUN, entry.id)


def record_change(tracking: Tracking, entry: Entry, place: Location) -> None:
    """Tag the version that a line of the ledger brought into use, with its index's address; again, nothing changes."""
    version = str(entry.to.version)
    tags = {names.PUBLISHED: f"{place}/{VERSIONS}/{entry.to.publication}"}
    if entry.moved:
        tags[names.DECISION] = f"in use since {entry.at}, by {entry.by} ({entry.action}): {entry.reason}"
    if entry.action == "promote":
        tags |= {
            names.PROMOTED_OVER: entry.over.version or "none",
            # Last: what has a time has been recorded whole.
            names.PROMOTED_AT: entry.at,
        }
    client = tracking.promoting
    with refusal_explained(f"record a promotion on version {version} of model {tracking.model_name!r}", None):
        for key, value in tags.items():
            client.set_model_version_tag(tracking.model_name, version, key, value)


def describe_change(tracking: Tracking, entry: Entry) -> None:
    """Say a line of the ledger in the descriptions of the versions it concerns: who, when, why; again, nothing changes.

    The ledger is the record. A server that takes no description from this user, one with older rules, undoes nothing.
    """
    from mlflow.exceptions import MlflowException

    if entry.action in ("refresh", "wait") or not tracking.exists:
        return
    concerned = (entry.to.version, entry.over.version) if entry.moved or entry.action == "mend" else (entry.to.version,)
    for version in dict.fromkeys(one for one in concerned if one is not None):
        try:
            before = tracking.client.get_model_version(tracking.model_name, version).description or ""
            described = descriptions.with_change(before, entry, version)
            if described != before:
                tracking.promoting.update_model_version(tracking.model_name, version, described)
        except MlflowException as error:
            logger.warning("the description of version %s does not tell of its %s: %s", version, entry.action, error)


def describe(tracking: Tracking, version: str, found: str) -> None:
    """Write what a retraining found into a version's description; people's own words and the decisions stay."""
    before = tracking.client.get_model_version(tracking.model_name, version).description or ""
    described = descriptions.with_findings(before, found, descriptions.VERSION_CHARS)
    if described != before:
        tracking.client.update_model_version(tracking.model_name, version, described)


def record_verdict(tracking: Tracking, version: str, verdict: Verdict, compared_with: str | None) -> None:
    """Keep on a version what the gate said of it, and against which champion: what a later promotion rests on."""
    # First, and "passed" last: whatever ends this half-way, a version that passed before is not promoted on it.
    tracking.client.set_model_version_tag(tracking.model_name, version, names.GATE, "refused")
    _change_record(tracking, version, verdict=verdict.sentence, compared_with=compared_with or "none")
    word = "passed" if verdict.passed else "refused"
    tracking.client.set_model_version_tag(tracking.model_name, version, names.GATE, word)


def record_canary(tracking: Tracking, version: str) -> None:
    """Keep on a version that its registered bundle gave its canary embeddings again."""
    _change_record(tracking, version, canary=True)


def add_artifact(tracking: Tracking, version: str, artifact: Artifact) -> None:
    """Keep on a version the key of another artifact that belongs to it (its index)."""
    known = get_version(tracking, version).artifacts
    if known.get(artifact.stage) != artifact.key:
        _change_record(tracking, version, artifacts={**known, artifact.stage: artifact.key})


def bundle_path(tracking: Tracking, version: str, into: Path) -> Path:
    """Find the directory of a version's model bundle: on this machine where it is there, else a download.

    Args:
        tracking: the store.
        version: its number.
        into: folder for a download.
    """
    from mlflow.artifacts import download_artifacts
    from mlflow.models import Model

    uri = tracking.client.get_model_version_download_uri(tracking.model_name, version)
    local = uri.startswith(("file:", "/"))
    destination = None if local else str(into)
    if not local:
        into.mkdir(parents=True, exist_ok=True)
    folder = Path(download_artifacts(artifact_uri=uri, dst_path=destination, tracking_uri=tracking.uri))
    flavor = Model.load(str(folder)).flavors["python_function"]
    return folder / str(flavor["artifacts"]["bundle"]["path"])


def _registered(tracking: Tracking, run_id: str, digest: str) -> ModelVersion | None:
    versions = tracking.client.search_model_versions(f"name = '{tracking.model_name}' and run_id = '{run_id}'")
    matches = [v for v in versions if v.tags.get(names.BUNDLE) == digest and v.status == "READY"]
    return max(matches, key=lambda v: int(v.version), default=None)


def _ensure_registered_model(tracking: Tracking) -> None:
    from mlflow.exceptions import MlflowException

    client, name = tracking.client, tracking.model_name
    try:
        client.create_registered_model(name, description=_MODEL_DESCRIPTION)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
        if client.get_registered_model(name).description in (None, "", _OLD_MODEL_DESCRIPTION):
            client.update_registered_model(name, _MODEL_DESCRIPTION)


def _by_alias(tracking: Tracking, alias: str) -> Version | None:
    version = _version_by_alias(tracking, alias) if tracking.exists else None
    return None if version is None else _version(version)


def _version_by_alias(tracking: Tracking, alias: str) -> ModelVersion | None:
    from mlflow.exceptions import MlflowException

    client = tracking.client
    try:
        return client.get_model_version_by_alias(tracking.model_name, alias)
    except MlflowException as error:
        # MLflow has one code for "no such alias" and for other mistakes in the arguments, so ask in another way.
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return None
        missing = error.error_code == "INVALID_PARAMETER_VALUE"
        if missing and alias not in client.get_registered_model(tracking.model_name).aliases:
            return None
        raise


def _version(registered: ModelVersion) -> Version:
    tags = registered.tags
    record = version_record(tags)
    return Version(
        name=registered.name,
        version=str(registered.version),
        run_id=registered.run_id or "",
        bundle=tags.get(names.BUNDLE, ""),
        data_md5=record.get("data_md5", ""),
        test_set=record["test_set"],
        created=datetime.fromtimestamp(registered.creation_timestamp / 1000, UTC),
        promoted_at=tags.get(names.PROMOTED_AT),
        promoted_over=tags.get(names.PROMOTED_OVER),
        gate=tags.get(names.GATE),
        verdict=record["verdict"],
        compared_with=None if record["compared_with"] == "none" else record["compared_with"],
        canary=record["canary"],
        metrics=record["figures"],
        artifacts=record["artifacts"],
    )


def _change_record(tracking: Tracking, version: str, **facts: Any) -> None:
    """Write facts into a version's record; nothing where they are there already."""
    tags = tracking.client.get_model_version(tracking.model_name, version).tags
    before = version_record(tags)
    value = json.dumps(before | facts, sort_keys=True)
    if tags.get(names.RECORD) != value:
        tracking.client.set_model_version_tag(tracking.model_name, version, names.RECORD, value)


def _facts(run: Run) -> tuple[dict[str, Any], dict[str, str]]:
    """What a version keeps of its run: test figures and artifact keys; and where it comes from."""
    client = run.tracking.client
    tags = client.get_run(run.run_id).data.tags
    made, figures = stages_of(tags).made, {}
    if "evaluation" in made:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(client.download_artifacts(run.run_id, "evaluation/metrics.json", folder))
            figures = _main_figures(json.loads(path.read_text(encoding="utf-8")))
    return {"figures": figures, "artifacts": made}, origin_of_run(tags)


def _main_figures(metrics: Mapping[str, Any]) -> dict[str, dict[str, dict[str, float]]]:
    """Recall at the headline cut-off, MRR and the number of queries, on the main slices; undefined ones are absent."""
    shown = (f"recall@{headline_k(metrics)}", "mrr", "n")  # type: ignore[arg-type]
    return {
        row: {
            part: {name: round(figures[name], 6) for name in shown if figures.get(name) is not None}
            for part, figures in slices.items()
            if part in SLICES
        }
        for row, slices in metrics.items()
    }
