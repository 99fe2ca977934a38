"""The names that runs and versions carry in MLflow: stable, so that searches and dashboards may rest on them.

Metrics:
    ``training/<field>`` is a curve, one point a logged step: every number in the training stage's metrics.jsonl
    (``training/loss``, ``training/validation_recall_at_10``, ...). The slash gives the curves a section of their
    own at the top of MLflow's page of a run.
    ``test.<row>.<slice>.<figure>`` is a final figure: the evaluation stage's metrics.json with dots for its levels
    and ``@`` written ``_at_`` (``test.both.all.recall_at_10``, ``test.tfidf.short_query.mrr``). Rows are both,
    text_only, image_only, shuffled (modalities of the model), linear, vision, tfidf, tfidf_full, popular (baselines).
    ``interval.``, ``space.``, ``comparison.`` and ``saliency.`` begin the names of what goes with them:
    docs/reference/metrics.md lists all.

Tags of runs and versions begin with ``notellm2.``; the constants below say what each holds.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

PREFIX = "notellm2."
RUN_KEY = PREFIX + "run_key"
"""Digest of recipe and data: one MLflow run for each."""
RECIPE = PREFIX + "recipe"
RECIPE_DIGEST = PREFIX + "recipe_digest"
"""Digest of every field of the recipe: the name says which file, this what was in it."""
DATA_MD5 = PREFIX + "data_md5"
GIT_COMMIT = PREFIX + "git_commit"
FLOW_RUN = PREFIX + "prefect_flow_run"
"""Id of the Prefect flow run: on a run the last one that continued it, on a version the one that registered it."""
FLOW_RUN_URL = FLOW_RUN + ".url"
"""Its page, where Prefect's address was known."""
FLOW_RUNS = FLOW_RUN + "s"
"""Ids of all flow runs that worked on a run, the first one first, with spaces between."""
ORIGIN = (RECIPE, RECIPE_DIGEST, DATA_MD5, GIT_COMMIT, FLOW_RUN, FLOW_RUN_URL)
"""Where a run comes from; a version keeps these of its run."""
LEDGER = PREFIX + "ledger"
"""On a run: the ledger's line that brought its model into use."""
PUBLISHED = PREFIX + "published"
"""Address of the published index that brought a version into use last; on its run too."""
PROCESS = PREFIX + "process"
"""Host, process id and its start time: tells a run whose process was killed from one that is alive."""
GATE = PREFIX + "gate"
"""``passed`` or ``refused``, and the sentence that says why."""
DATA_DOCS = PREFIX + "data_docs"
"""Where in the store Great Expectations' pages about the run's data are."""
BUNDLE = PREFIX + "bundle"
"""Digest of the model bundle's files."""
TEST_SET = PREFIX + "test_set"
"""What the test figures were measured on; figures of two versions compare only where this is equal."""
FIGURES = PREFIX + "test_set.figures"
"""JSON: the version's test figures by metric name, so that they stay its own whatever its run logs later. MLflow's
page lists tags by name and this one is long: the name puts it last."""
ARTIFACTS = PREFIX + "artifacts"
"""JSON: stage to key of what the version was made from."""
PROMOTED_AT = PREFIX + "promoted_at"
PROMOTED_BECAUSE = PREFIX + "promoted_because"
PROMOTED_BY = PREFIX + "promoted_by"
PROMOTED_OVER = PREFIX + "promoted_over"
DECISION = PREFIX + "decision"
"""On a version: how it stands with people, in a sentence: waiting, expired, refused, put back, promoted."""
COMPARED_WITH = GATE + ".compared_with"
"""On a version: the champion its verdict was reached against, ``none`` if there was none."""
BEGUN = PREFIX + "ledger.begun"
"""On a version at a server: the id of the change to it that began last. Only a promoter may write it, so that who may
not is refused before anything has moved."""
CANARY = PREFIX + "canary"
"""On a version: ``passed`` once the registered bundle was loaded and gave its canary embeddings again."""

CHAMPION = "champion"
CHALLENGER = "challenger"

TRAINING = "training/"
TEST = "test."
INTERVAL = "interval."
SPACE = "space."
COMPARISON = "comparison."
SALIENCY = "saliency."


def ledger_tag(sequence: int) -> str:
    """Tag of a version that holds the ledger's line with this number, JSON."""
    return f"{LEDGER}.{sequence:06d}"


def rule_tag(rule: str) -> str:
    """Tag that holds what the gate's rule said."""
    return f"{GATE}.rule.{rule}"


def artifact_tag(stage: str) -> str:
    """Tag that holds the key of the stage's artifact."""
    return f"{PREFIX}artifact.{stage}"


def training_metric(field: str) -> str:
    """MLflow's name of a training curve: ``validation_recall@10`` is ``training/validation_recall_at_10``."""
    return TRAINING + _safe(field)


def test_metric(row: str, part: str, figure: str) -> str:
    """MLflow's name of a test figure: ``both``, ``all``, ``recall@10`` is ``test.both.all.recall_at_10``."""
    return TEST + ".".join(_safe(level) for level in (row, part, figure))


def test_metrics(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Every finite number of an evaluation's metrics.json under its MLflow name; what is undefined (null) is absent."""
    return figures(TEST, metrics)


def figures(prefix: str, tree: Mapping[str, Any]) -> dict[str, float]:
    """Every finite number of a tree under a prefix and its path, dots between the levels."""
    return {prefix + ".".join(path): value for path, value in _leaves(tree, ()) if math.isfinite(value)}


def _leaves(value: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], float]]:
    if isinstance(value, Mapping):
        for name, below in value.items():
            yield from _leaves(below, (*path, _safe(str(name))))
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield path, float(value)


def _safe(name: str) -> str:
    return re.sub(r"[^\w\-. :/]", "_", name.replace("@", "_at_"), flags=re.ASCII)
