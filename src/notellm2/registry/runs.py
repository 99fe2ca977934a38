"""One MLflow run a retraining, whatever happens to the process.

A run belongs to a *run key*, the digest of what the retraining is made from (recipe and data). The same flow executed
again, or resumed after a kill, continues the run of its key: it is RUNNING again, what is logged already is left as
it is, and it ends FINISHED. Nothing is logged twice; a finished run that is continued keeps its first start time.

Uses MLflow's client only, never its fluent functions, so there is no active run to leak between flows or threads.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import yaml

from notellm2.artifacts import Artifact
from notellm2.notes.dataset import Dataset
from notellm2.processes import has_ended, process_tag
from notellm2.publication.location import Location
from notellm2.publication.pointer import VERSIONS
from notellm2.recipe import Recipe
from notellm2.registry import names
from notellm2.registry.curves import Curves
from notellm2.registry.decisions import Entry, Verdict
from notellm2.registry.figures import figures_of
from notellm2.registry.recipes import recipe_digest
from notellm2.registry.tracking import Tracking

# MLflow's limits (mlflow.utils.validation): params of a batch, metrics of a batch, characters of a value.
_PARAMS_PER_BATCH = 100
_METRICS_PER_BATCH = 1000
_PARAM_CHARS = 6000
_TAG_CHARS = 8000
_FLOW_RUNS = 100  # as many ids as the tag holds, and some to spare
_DIGEST_CHARS = 36

logger = logging.getLogger(__name__)


class Run:
    """An MLflow run of one retraining; as a context it ends FINISHED, FAILED or KILLED.

    Make it with `Run.open` where the retraining starts, and with `Run.attach` in a task that was handed the run's id.

    Attributes:
        tracking: the store.
        run_id: MLflow's id.
    """

    def __init__(self, tracking: Tracking, run_id: str) -> None:
        self.tracking = tracking
        self.run_id = run_id
        self._client = tracking.client
        self._curves = Curves(self._client, run_id)

    @classmethod
    def open(cls, tracking: Tracking, run_key: str, *, name: str) -> Run:
        """Continue the run of a key, or start it.

        Also ends runs that still claim to be RUNNING although their process on this machine is gone (kill -9): as
        KILLED, so that the list of runs tells the truth.

        Args:
            tracking: the store.
            run_key: digest of recipe and data.
            name: what people read in the list of runs, for a new run.
        """
        client = tracking.client
        experiment_id = tracking.experiment_id()
        with tracking.lock("runs"):
            tracking.describe_experiment()
            _end_orphans(tracking, experiment_id)
            runs = client.search_runs(
                [experiment_id], f"tags.`{names.RUN_KEY}` = '{run_key}'", order_by=["attributes.start_time ASC"]
            )
            if runs:
                run_id = runs[0].info.run_id
                client.set_tag(run_id, names.PROCESS, process_tag())
                client.update_run(run_id, status="RUNNING")
            else:
                tags = {
                    names.RUN_KEY: run_key,
                    names.PROCESS: process_tag(),
                    "mlflow.source.name": "flows.retrain",
                    "mlflow.source.type": "JOB",
                }
                run_id = client.create_run(experiment_id, tags=tags, run_name=name).info.run_id
        return cls(tracking, run_id)

    @classmethod
    def attach(cls, tracking: Tracking, run_id: str) -> Run:
        """The run with this id, its status left as it is."""
        return cls(tracking, run_id)

    def __enter__(self) -> Run:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.finish()
            return
        from mlflow.exceptions import MlflowException

        try:
            self.finish("FAILED" if issubclass(kind, Exception) else "KILLED")
        except MlflowException as unreachable:  # The error that ended the run matters more than that MLflow was away.
            logger.warning("could not record in MLflow that run %s has ended: %s", self.run_id, unreachable)

    def finish(self, status: str = "FINISHED") -> None:
        """End the run: FINISHED, FAILED or KILLED. Sends the curves' last points first if it ends well."""
        if status == "FINISHED":
            self._curves.flush()
        self._client.set_terminated(self.run_id, status)

    def suspend(self) -> None:
        """Say that the run goes on later: a person is to decide first."""
        self._client.update_run(self.run_id, status="SCHEDULED")

    def log_origin(
        self,
        *,
        recipe: str,
        data_md5: str,
        git_commit: str | None = None,
        flow_run: str | None = None,
        flow_run_url: str | None = None,
    ) -> None:
        """Record where the run comes from, as tags; what is None is left out.

        A run that is continued names the flow run that continues it, and in a second tag all there were.
        """
        known = self._client.get_run(self.run_id).data.tags.get(names.FLOW_RUNS, "").split()
        flow_runs = [*(id_ for id_ in known if id_ != flow_run), *([flow_run] if flow_run else [])]
        tags = {
            names.RECIPE: recipe,
            names.DATA_MD5: data_md5,
            names.GIT_COMMIT: git_commit,
            "mlflow.source.git.commit": git_commit,
            names.FLOW_RUN: flow_run,
            names.FLOW_RUN_URL: flow_run_url,
            names.FLOW_RUNS: " ".join(flow_runs[-_FLOW_RUNS:]) or None,
        }
        self.log_tags({name: value for name, value in tags.items() if value is not None})

    def log_tags(self, tags: Mapping[str, str]) -> None:
        """Set tags; a value longer than MLflow takes is cut."""
        from mlflow.entities import RunTag

        items = [RunTag(name, _cut(value, _TAG_CHARS)) for name, value in tags.items()]
        for start in range(0, len(items), _PARAMS_PER_BATCH):
            self._client.log_batch(self.run_id, tags=items[start : start + _PARAMS_PER_BATCH])

    def log_recipe(self, recipe: Recipe) -> None:
        """Record every field of the recipe as a parameter (``training.lr``), all of it as ``recipe.yaml``, its digest.

        Raises:
            MlflowException: the run holds another value of a field; then its run key did not cover the recipe.
        """
        from mlflow.entities import Param

        tree = recipe.model_dump(mode="json")
        params = [Param(name, _cut(value, _PARAM_CHARS)) for name, value in flatten(tree).items()]
        for start in range(0, len(params), _PARAMS_PER_BATCH):
            self._client.log_batch(self.run_id, params=params[start : start + _PARAMS_PER_BATCH])
        self.log_tags({names.RECIPE_DIGEST: recipe_digest(recipe)})
        self._client.log_text(self.run_id, yaml.safe_dump(tree, sort_keys=False, allow_unicode=True), "recipe.yaml")

    def log_dataset(self, dataset: Dataset, data_md5: str) -> None:
        """Record the data version as the run's dataset input; its digest is the DVC md5 (``.dir`` included).

        The source is of MLflow's kind ``code`` with the version as a tag: a ``dvc://`` source is refused by MLflow.
        """
        from mlflow.entities import Dataset as Input
        from mlflow.entities import DatasetInput, InputTag

        info = dataset.info
        profile = {"notes": info.notes, "notes_with_image": info.notes_with_image, "interactions": info.interactions}
        source = {"tags": {names.DATA_MD5: data_md5, "source": info.source, "licence": info.licence}}
        entity = Input(
            name=info.name,
            digest=data_md5[:_DIGEST_CHARS],
            source_type="code",
            source=json.dumps(source),
            profile=json.dumps(profile),
        )
        self._client.log_inputs(self.run_id, [DatasetInput(entity, [InputTag("mlflow.data.context", "training")])])

    def on_metrics(self, step: int, values: Mapping[str, float | None]) -> None:
        """Log a training step live: the callback for the training loop. See `Curves.add`."""
        self._curves.add(step, values)

    def log_history(self, training: Artifact) -> None:
        """Log what the training artifact's metrics.jsonl holds and the run does not yet.

        Raises:
            ValueError: a line is no JSON object with a ``step``; names the line.
            MlflowException: the store refused or did not answer.
        """
        if self._has(training):
            return
        history: list[tuple[int, dict[str, float | None]]] = []
        for number, line in enumerate(training.file("metrics.jsonl").read_text().splitlines(), start=1):
            try:
                record = json.loads(line)
                step = int(record.pop("step"))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise ValueError(
                    f"{training.stage}/{training.key}/metrics.jsonl line {number}: expected a JSON object with "
                    f"'step' ({type(error).__name__}: {error})"
                ) from None
            numbers: dict[str, float | None] = {
                k: v for k, v in record.items() if isinstance(v, int | float) and not isinstance(v, bool)
            }
            history.append((step, numbers))
        self._curves.add_all(history)
        self._logged(training)

    def log_evaluation(self, evaluation: Artifact) -> None:
        """Log the evaluation's figures as metrics and its metrics.json as a file, once an artifact."""
        if not self._has(evaluation):
            self.log_file(evaluation.file("metrics.json"), "evaluation")
            self.log_figures(evaluation)

    def log_figures(self, artifact: Artifact) -> None:
        """Log every number of an evaluation, a comparison or a saliency artifact as a metric, once an artifact."""
        from mlflow.entities import Metric

        if self._has(artifact):
            return
        held = self._client.get_run(self.run_id).data.metrics
        now = _now_ms()
        changed = {name: value for name, value in figures_of(artifact).items() if held.get(name) != value}
        metrics = [Metric(name, value, now, 0) for name, value in changed.items()]
        for start in range(0, len(metrics), _METRICS_PER_BATCH):
            self._client.log_batch(self.run_id, metrics=metrics[start : start + _METRICS_PER_BATCH])
        self._logged(artifact)

    def log_quality(self, quality: Artifact) -> None:
        """Log the data checks' result, summary and Data Docs as files, once an artifact; a tag says where the docs are.

        MLflow shows each HTML file in a frame of its own, in which links lead nowhere: its first page says all that
        failed, and what is downloaded as a folder links.
        """
        if self._has(quality):
            return
        for name in ("result.json", "summary.md"):
            self.log_file(quality.file(name), "quality")
        self._client.log_artifacts(self.run_id, str(quality.file("data_docs")), "quality/data_docs")
        self.log_tags({names.DATA_DOCS: f"{quality.stage}/{quality.key}/data_docs/index.html in the store"})
        self._logged(quality)

    def log_verdict(self, verdict: Verdict) -> None:
        """Record the gate's verdict: tags with the sentence and with what each rule said, and ``gate.json``."""
        word = "passed" if verdict.passed else "refused"
        tags = {names.GATE: word, f"{names.GATE}.sentence": verdict.sentence}
        for rule in verdict.rules:
            outcome = "passed" if rule.passed else "refused" if rule.required else "warning"
            tags[names.rule_tag(rule.name)] = f"{outcome}: {rule.detail}"
        self.log_tags(tags)
        self._client.log_text(self.run_id, verdict.model_dump_json(indent=2) + "\n", "gate.json")

    def log_publication(self, entry: Entry, place: Location) -> None:
        """Record the ledger's line that brought the run's model into use, and the address of its index."""
        address = f"{place}/{VERSIONS}/{entry.to.publication}"
        self.log_tags({names.LEDGER: entry.line().decode().strip(), names.PUBLISHED: address})

    def log_file(self, path: Path, folder: str | None = None) -> None:
        """Log one file (``report.html``), below a folder of the run's files or at their top; replaces it there."""
        self._client.log_artifact(self.run_id, str(path), folder)

    def log_stage(self, artifact: Artifact) -> None:
        """Record which artifact a stage gave, as a tag: from the run to every file it is made of."""
        self._client.set_tag(self.run_id, names.artifact_tag(artifact.stage), artifact.key)

    def _logged(self, artifact: Artifact) -> None:
        # Last, after everything of it is logged: a kill before this repeats the logging, never leaves it half done.
        self.log_tags({names.artifact_tag(artifact.stage): artifact.key, _logged_tag(artifact): artifact.key})

    def _has(self, artifact: Artifact) -> bool:
        tags = self._client.get_run(self.run_id).data.tags
        return bool(tags.get(_logged_tag(artifact)) == artifact.key)


def flatten(tree: Mapping[str, Any], above: str = "") -> dict[str, str]:
    """A tree of settings as dotted names and texts: numbers and words as they are, lists and null as JSON."""
    flat: dict[str, str] = {}
    for name, value in tree.items():
        path = f"{above}{name}"
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{path}.")
        else:
            flat[path] = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return flat


def _logged_tag(artifact: Artifact) -> str:
    return f"{names.PREFIX}logged.{artifact.stage}"


def _cut(value: str, limit: int) -> str:
    return value if len(value) <= limit else value[: limit - 3] + "..."


def _end_orphans(tracking: Tracking, experiment_id: str) -> None:
    client = tracking.client
    for run in client.search_runs([experiment_id], "attributes.status = 'RUNNING'"):
        if has_ended(run.data.tags.get(names.PROCESS, "")):
            client.set_terminated(run.info.run_id, "KILLED")


def _now_ms() -> int:
    return int(time.time() * 1000)
