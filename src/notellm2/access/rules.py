"""The list: which role may call which operation of MLflow, and with what.

An operation is named by the request message of MLflow's API (``SetRegisteredModelAlias``), which is the same by every
path that leads to it (``/api/2.0``, ``/ajax-api/2.0``), or by its view function where it has no message. Whatever is
not listed here, so whatever a later MLflow adds, is for administrators only: deleting experiments, runs, models and
versions, renaming a model, stages, users and roles, webhooks, the gateway.

Only a promoter moves an alias; a trainer may move `challenger`. Two more ways to change what is in use are closed: the
tags of the promotion's record are a promoter's, and the files of a finished model are nobody's but an administrator's.
"""

from __future__ import annotations

from collections.abc import Collection

from notellm2.registry import names

TRAINER_ALIAS = "challenger"
"""The one alias that a trainer may move: the candidate put forward."""

PROMOTER_TAGS = (f"{names.PREFIX}ledger.", f"{names.PREFIX}promoted_")
"""How the tags begin that record a promotion on a version: a rollback trusts them."""

# A version that says it is a prompt is hidden from who may read models.
_HIDDEN_TAGS = ("mlflow.prompt.",)
# A version that says it is another bundle's would no longer be met where the pointer names it.
_FIXED_TAGS = (names.BUNDLE,)

_READ = frozenset(
    {
        "BatchGetTraceInfos",
        "BatchGetTraces",
        "DownloadArtifact",
        "GetDataset",
        "GetDatasetExperimentIds",
        "GetDatasetRecords",
        "GetExperiment",
        "GetExperimentByName",
        "GetLatestVersions",
        "GetLoggedModel",
        "GetMetricHistory",
        "GetMetricHistoryBulkInterval",
        "GetModelVersion",
        "GetModelVersionByAlias",
        "GetModelVersionDownloadUri",
        "GetPresignedDownloadUrl",
        "GetRegisteredModel",
        "GetRun",
        "ListArtifacts",
        "ListLoggedModelArtifacts",
        "ListScorers",
        "ListWorkspaces",
        "QueryTraceMetrics",
        "SearchDatasets",
        "SearchEvaluationDatasets",
        "SearchExperiments",
        "SearchLoggedModels",
        "SearchModelVersions",
        "SearchRegisteredModels",
        "SearchRuns",
        "SearchTraces",
        "SearchTracesV3",
        # The pages themselves and what they ask for; MLflow's GraphQL only reads.
        "_get_server_info",
        "_graphql",
        "health",
        "serve",
        "serve_artifacts",
        "serve_get_logged_model_artifact",
        "serve_get_metric_history_bulk",
        "serve_get_metric_history_bulk_interval",
        "serve_get_trace_artifact",
        "serve_get_ui_telemetry",
        "serve_model_version_artifact",
        "serve_post_ui_telemetry",
        "serve_search_datasets",
        "serve_static_file",
        "version",
        # Oneself: MLflow lets a user see its own account and change its own password, no other.
        "get_current_user",
        "get_user_permission",
        "list_current_user_permissions",
        "list_user_roles",
        "update_user_password",
    }
)

_RECORD = frozenset(
    {
        "AbortMultipartUpload",
        "CompleteMultipartUpload",
        "CreateExperiment",
        "CreateLoggedModel",
        "CreateModelVersion",
        "CreateMultipartUpload",
        "CreateRegisteredModel",
        "CreateRun",
        "DeleteTag",
        "FinalizeLoggedModel",
        "LogBatch",
        "LogInputs",
        "LogLoggedModelParamsRequest",
        "LogMetric",
        "LogModel",
        "LogOutputs",
        "LogParam",
        "SetExperimentTag",
        "SetLoggedModelTags",
        "SetModelVersionTag",
        "SetRegisteredModelAlias",
        "SetTag",
        "UpdateModelVersion",
        "UpdateRegisteredModel",
        "UpdateRun",
        "UploadArtifact",
    }
)

_PROMOTE = frozenset(
    {
        "DeleteRegisteredModelAlias",
        "SetModelVersionTag",
        "SetRegisteredModelAlias",
        # The descriptions that people read and add to.
        "UpdateModelVersion",
        "UpdateRegisteredModel",
    }
)

ROLES = {"reader": _READ, "trainer": _READ | _RECORD, "promoter": _READ | _PROMOTE}
"""Role to the operations it may call."""

GRANTS = {"reader": ("READ", "READ"), "trainer": ("EDIT", "EDIT"), "promoter": ("READ", "MANAGE")}
"""Role to MLflow's own permission on all experiments and on all registered models: what its own checks want before
ours. MANAGE is what MLflow wants of who removes an alias; what else it would allow is not on our list."""


def refusal(
    roles: Collection[str],
    operation: str,
    *,
    alias: str | None = None,
    tags: Collection[str] = (),
    finished_model: bool = False,
) -> str | None:
    """Say why a user who is no administrator may not do it; None where it may.

    Args:
        roles: of the user; names that are not ours count for nothing.
        operation: what is called.
        alias: the alias that it would move.
        tags: keys of the tags that it would set on a version.
        finished_model: whether it would change the files or the state of a model that is finished.
    """
    held = [role for role in roles if role in ROLES]
    if not held:
        return "the user has none of the roles " + ", ".join(ROLES)
    if not any(operation in ROLES[role] for role in held):
        able = [role for role, operations in ROLES.items() if operation in operations]
        return f"{operation} is for {' or '.join(able) if able else 'administrators'}"
    if finished_model:
        return "the files of a finished model do not change: register another version"
    fixed = sorted(set(tags) & set(_FIXED_TAGS))
    if fixed and operation == "SetModelVersionTag":
        return f"tag {fixed[0]!r} is given to a version when it is made, and stays"
    if "promoter" in held:
        return None
    if alias is not None and alias != TRAINER_ALIAS:
        return f"the alias {alias!r} is a promoter's to move, a trainer moves {TRAINER_ALIAS!r} only"
    guarded = sorted(key for key in tags if key.startswith((*PROMOTER_TAGS, *_HIDDEN_TAGS)))
    if guarded:
        return f"tag {guarded[0]!r} is a promoter's to set"
    return None
