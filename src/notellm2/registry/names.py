"""The names that runs and versions carry in MLflow: stable, so that searches and dashboards may rest on them.

Metrics are the few figures that two runs are compared by, at most `MOST_METRICS` a run, in groups:
    ``training/<field>``: curves, one point a logged step (`CURVES`). ``recall_at_10/<slice>/<row>``, ``test/<figure>``,
    ``space/<figure>``, ``comparison/<figure>``, ``seconds/<stage>``, ``memory/peak_gb``: one value a run. All others
    are in the run's files; docs/reference/metrics.md lists both.

Tags of runs and versions begin with ``notellm2.``; the constants below say what each holds. What only machines read is
one of them, JSON: `STAGES` of a run, `RECORD` of a version.
"""

from __future__ import annotations

import re

PREFIX = "notellm2."
RUN_KEY = PREFIX + "run_key"
"""Digest of recipe and data: one MLflow run for each."""
RECIPE = PREFIX + "recipe"
RECIPE_DIGEST = PREFIX + "recipe_digest"
"""Digest of every field of the recipe: the name says which file, this what was in it."""
DATA_MD5 = PREFIX + "data_md5"
FLOW_RUN_URL = PREFIX + "prefect_flow_run.url"
"""Page of the Prefect flow run that worked on a run last, where Prefect's address was known."""
FLOW_RUNS = PREFIX + "prefect_flow_runs"
"""Ids of all flow runs that worked on a run, the first one first, with spaces between."""
SOURCE_COMMIT = "mlflow.source.git.commit"
"""MLflow's own tag for the commit."""
STAGES = PREFIX + "stages"
"""On a run, JSON: the artifacts it made or used, and which of them are logged whole (`notellm2.registry.record`)."""
PUBLISHED = PREFIX + "published"
"""Address of the published index that brought a version into use last; on its run too."""
PROCESS = PREFIX + "process"
"""Host, process id and its start time: tells a run whose process was killed from one that is alive."""
GATE = PREFIX + "gate"
"""``passed`` or ``refused``."""
DATA_DOCS = PREFIX + "data_docs"
"""Where in the store Great Expectations' pages about the run's data are."""
BUNDLE = PREFIX + "bundle"
"""Digest of the model bundle's files."""
RECORD = PREFIX + "record"
"""On a version, JSON: where it comes from, the figures it was judged by, the gate's sentence and the
champion it was reached against (``none``: there was none), its artifacts."""
PROMOTED_AT = PREFIX + "promoted_at"
PROMOTED_OVER = PREFIX + "promoted_over"
DECISION = PREFIX + "decision"
"""On a version: how it stands with people, in a sentence: waiting, expired, refused, put back, promoted."""
ASKED = PREFIX + "champion_moved"
"""On the registered model at a server: JSON, who moved the alias `champion` last, to which version, when."""
BEGUN = PREFIX + "ledger.begun"
"""On a version at a server: the id of the change to it that began last. Only a promoter may write it, so that who may
not is refused before anything has moved."""
NOTE = "mlflow.note.content"
"""MLflow's own tag for a run's description."""

# Tags of before: read where they are, written no more.
GIT_COMMIT = PREFIX + "git_commit"
FLOW_RUN = PREFIX + "prefect_flow_run"
TEST_SET = PREFIX + "test_set"
FIGURES = PREFIX + "test_set.figures"
ARTIFACTS = PREFIX + "artifacts"
CANARY = PREFIX + "canary"
COMPARED_WITH = GATE + ".compared_with"
ORIGIN_FACTS = {
    "recipe": RECIPE,
    "recipe_digest": RECIPE_DIGEST,
    "data_md5": DATA_MD5,
    "git_commit": GIT_COMMIT,
    "flow_run": FLOW_RUN,
    "flow_run_url": FLOW_RUN_URL,
}
"""Where a run or a version comes from, by the tags of before."""

CHAMPION = "champion"
CHALLENGER = "challenger"

MOST_METRICS = 60
TRAINING = "training/"
CURVES = (
    "loss",
    "chance",
    "loss_visual",
    "loss_generation",
    "mean_cosine",
    "effective_rank",
    "visual_token_rank",
    "gradient_norm",
    "lr",
    "pairs_per_s",
    "validation_mrr",
    "validation_recall_at_10",
    "validation_loss",
)
"""Fields of a training step that are curves in MLflow; every field is in the run's training/metrics.jsonl."""


def artifact_tag(stage: str) -> str:
    """Name the tag that holds the key of the stage's artifact."""
    return f"{PREFIX}artifact.{stage}"


def logged_tag(stage: str) -> str:
    """Name the tag of before that holds the key of a stage's artifact that is logged whole."""
    return f"{PREFIX}logged.{stage}"


def training_metric(field: str) -> str:
    """Name a training curve in MLflow: ``validation_recall@10`` is ``training/validation_recall_at_10``."""
    return TRAINING + metric_part(field)


def metric_part(name: str) -> str:
    """Write a part of a metric's name without the characters that MLflow refuses: ``recall@10`` is ``recall_at_10``."""
    return re.sub(r"[^\w\-. :]", "_", name.replace("@", "_at_"), flags=re.ASCII)
