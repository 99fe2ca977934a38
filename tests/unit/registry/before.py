"""A run and a version as they were recorded when each fact had a tag of its own."""

from __future__ import annotations

import json
from typing import Any

from notellm2.registry import names
from notellm2.registry.record import origin_of_run, stages_of, version_record
from notellm2.registry.tracking import Tracking


def record_as_before(tracking: Tracking, run_id: str, version: str) -> None:
    """Give a run and a version the tags that they had before, in place of those they have now."""
    client, model = tracking.client, tracking.model_name
    known = client.get_run(run_id).data.tags
    stages, origin = stages_of(known), origin_of_run(known)
    tags = {tag: origin[fact] for fact, tag in names.ORIGIN_FACTS.items() if fact in origin}
    tags |= {f"notellm2.artifact.{stage}": key for stage, key in stages.made.items()}
    tags |= {f"notellm2.logged.{stage}": key for stage, key in stages.logged.items()}
    for name, value in tags.items():
        client.set_tag(run_id, name, value)
    client.delete_tag(run_id, names.STAGES)

    record = version_record(client.get_model_version(model, version).tags)
    tags = {tag: record[fact] for fact, tag in names.ORIGIN_FACTS.items() if record.get(fact)}
    tags |= {
        "notellm2.gate.compared_with": record["compared_with"],
        "notellm2.test_set": record["test_set"],
        "notellm2.gate.sentence": record["verdict"],
    }
    tags |= {"notellm2.artifacts": json.dumps(record["artifacts"])}
    tags |= {"notellm2.test_set.figures": json.dumps(_flat(record["figures"]))}
    tags |= {"notellm2.canary": "passed"} if record["canary"] else {}
    for name, value in tags.items():
        client.set_model_version_tag(model, version, name, value)
    client.delete_model_version_tag(model, version, names.RECORD)


def _flat(figures: dict[str, Any]) -> dict[str, float]:
    return {
        f"test.{row}.{part}.{name.replace('@', '_at_')}": value
        for row, slices in figures.items()
        for part, of_slice in slices.items()
        for name, value in of_slice.items()
    }
