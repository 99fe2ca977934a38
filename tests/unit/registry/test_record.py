"""What machines keep of runs and versions, and what they kept before: both are read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from notellm2.artifacts import Artifact
from notellm2.registry import names, versions
from notellm2.registry.catalogue import all_versions, run_record
from notellm2.registry.record import origin_of_run, version_record
from notellm2.registry.runs import Run
from notellm2.registry.tracking import Tracking
from tests.unit.registry.before import record_as_before

MD5 = "0123456789abcdef0123456789abcdef.dir"


def test_what_was_recorded_before_is_read_as_what_is_recorded_now(
    tracking: Tracking, bundle: Path, evaluation: Callable[..., Artifact]
) -> None:
    with Run.open(tracking, "key", name="sample") as run:
        run.log_origin(recipe="sample", data_md5=MD5, git_commit="abc", flow_run="f", flow_run_url="http://p/f")
        run.log_evaluation(evaluation())
        versions.register(run, bundle, data_md5=MD5, test_set="pairs-1")
    versions.record_canary(tracking, "1")
    now = versions.get_version(tracking, "1"), run_record(tracking, run.run_id), all_versions(tracking)
    tags = tracking.client.get_run(run.run_id).data.tags, tracking.client.get_model_version(now[0].name, "1").tags
    record_as_before(tracking, run.run_id, "1")
    assert (versions.get_version(tracking, "1"), run_record(tracking, run.run_id), all_versions(tracking)) == now
    before = tracking.client.get_run(run.run_id).data.tags, tracking.client.get_model_version(now[0].name, "1").tags
    assert names.STAGES not in before[0]
    assert names.RECORD not in before[1]
    assert origin_of_run(before[0]) == origin_of_run(tags[0])
    assert version_record(before[1]) == version_record(tags[1])

    # A run of before that is continued: what is logged stays, what is new is recorded as it is now.
    with Run.open(tracking, "key", name="sample") as again:
        again.log_evaluation(evaluation())
        again.log_origin(recipe="sample", data_md5=MD5, git_commit="def", flow_run="g", flow_run_url="http://p/g")
        versions.register(again, bundle, data_md5=MD5, test_set="pairs-1")
        versions.add_artifact(tracking, "1", evaluation(other=1))
    continued = run_record(tracking, run.run_id)
    assert (continued.origin["git_commit"], continued.flow_runs) == ("def", ("f", "g"))
    known = versions.get_version(tracking, "1")
    assert known.artifacts == {"evaluation": evaluation(other=1).key}
    assert (known.canary, known.metrics) == (True, now[0].metrics)
