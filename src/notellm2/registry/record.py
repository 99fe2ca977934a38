"""What a run and a version keep for machines, each as one tag of JSON: so that people see few tags.

Runs and versions that were made before have a tag for each fact; they are read as well, and what is newer counts.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from notellm2.registry import names


class Stages(NamedTuple):
    """The artifacts of a run.

    Attributes:
        made: stage to key of what the run made or used.
        logged: stage to key of what is logged whole in MLflow.
    """

    made: dict[str, str]
    logged: dict[str, str]

    def tag(self) -> str:
        """Write it as the tag's value."""
        return json.dumps(self._asdict(), sort_keys=True)


def stages_of(tags: Mapping[str, str]) -> Stages:
    """Read what a run's tags say of its artifacts."""
    stages = Stages(_beginning_with(tags, names.artifact_tag("")), _beginning_with(tags, names.logged_tag("")))
    recorded = json.loads(tags.get(names.STAGES, "{}"))
    return Stages(stages.made | recorded.get("made", {}), stages.logged | recorded.get("logged", {}))


def origin_of_run(tags: Mapping[str, str]) -> dict[str, str]:
    """Read where a run comes from: `names.ORIGIN_FACTS`, as far as they are known."""
    flow_runs = tags.get(names.FLOW_RUNS, "").split()
    facts = {
        **_old_origin(tags),
        "git_commit": tags.get(names.SOURCE_COMMIT) or tags.get(names.GIT_COMMIT, ""),
        "flow_run": flow_runs[-1] if flow_runs else tags.get(names.FLOW_RUN, ""),
    }
    return {name: value for name, value in facts.items() if value}


def version_record(tags: Mapping[str, str]) -> dict[str, Any]:
    """Read what a version's tags say of it: its origin, test set, verdict, canary, artifacts and figures."""
    record: dict[str, Any] = _old_origin(tags) | {
        "test_set": tags.get(names.TEST_SET, ""),
        "verdict": tags.get(f"{names.GATE}.sentence", ""),
        "compared_with": tags.get(names.COMPARED_WITH, "none"),
        "canary": tags.get(names.CANARY) == "passed",
        "artifacts": json.loads(tags.get(names.ARTIFACTS, "{}")),
        "figures": _nested(json.loads(tags.get(names.FIGURES, "{}"))),
    }
    newer: dict[str, Any] = json.loads(tags.get(names.RECORD, "{}"))
    return record | newer


def _old_origin(tags: Mapping[str, str]) -> dict[str, str]:
    return {fact: tags[tag] for fact, tag in names.ORIGIN_FACTS.items() if tags.get(tag)}


def _beginning_with(tags: Mapping[str, str], prefix: str) -> dict[str, str]:
    return {name.removeprefix(prefix): value for name, value in tags.items() if name.startswith(prefix)}


def _nested(metrics: Mapping[str, float]) -> dict[str, dict[str, dict[str, float]]]:
    """Figures as they were kept before, by one name each (``test.both.all.recall_at_10``), as a tree."""
    tree: dict[str, dict[str, dict[str, float]]] = {}
    for name, value in metrics.items():
        levels = name.removeprefix("test.").split(".")
        if len(levels) == 3:
            row, part, figure = levels
            tree.setdefault(row, {}).setdefault(part, {})[figure.replace("_at_", "@")] = value
    return tree
