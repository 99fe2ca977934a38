"""One MLflow run a retraining, whatever happens to the process.

A run belongs to a *run key*, the digest of what the retraining is made from (recipe and data). The same flow executed
again, or resumed after a kill, continues the run of its key: it is RUNNING again, what is logged already is left as
it is, and it ends FINISHED. Nothing is logged twice; a finished run that is continued keeps its first start time.

Uses MLflow's client only, never its fluent functions, so there is no active run to leak between flows or threads.
"""

from __future__ import annotations

import json
import logging
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import yaml

from notellm2.artifacts import Artifact
from notellm2.notes.dataset import Dataset
from notellm2.processes import has_ended, process_tag
from notellm2.publication.location import Location
from notellm2.publication.pointer import VERSIONS
from notellm2.recipe import Recipe
from notellm2.registry import descriptions, names, tables
from notellm2.registry.curves import Curves
from notellm2.registry.decisions import Entry, Verdict
from notellm2.registry.figures import figures_of
from notellm2.registry.recipes import recipe_digest
from notellm2.registry.record import Stages, stages_of
from notellm2.registry.run_names import named
from notellm2.registry.tracking import Tracking

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run as MlflowRun

# MLflow's limits (mlflow.utils.validation): params of a batch, characters of a value.
_PARAMS_PER_BATCH = 100
_PARAM_CHARS = 6000
_TAG_CHARS = 8000
_FLOW_RUNS = 100  # as many ids as the tag holds, and some to spare
_DIGEST_CHARS = 36
_SENTENCE_CHARS = 1000

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
    def open(cls, tracking: Tracking, run_key: str, *, name: str, chosen: bool = False) -> Run:
        """Continue the run of a key, or start it.

        Also ends runs that still claim to be RUNNING although their process on this machine is gone (kill -9): as
        KILLED, so that the list of runs tells the truth.

        Args:
            tracking: the store.
            run_key: digest of recipe and data.
            name: what people read in the list of runs, for a new run.
            chosen: whether a person chose the name: a run that is continued takes it too.
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
                before = named(runs[0].info.run_name or name, None)
                client.update_run(run_id, status="RUNNING", name=name if chosen else before)
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
        """Open the run with this id, its status left as it is."""
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

        failed = issubclass(kind, Exception)
        said = f"**Failed**: {kind.__name__}: {error}" if failed else f"**Interrupted** ({kind.__name__})."
        try:
            self.conclude("failed" if failed else "interrupted", said)
            self.finish("FAILED" if failed else "KILLED")
        except MlflowException as unreachable:  # The error that ended the run matters more than that MLflow was away.
            logger.warning("could not record in MLflow that run %s has ended: %s", self.run_id, unreachable)

    def finish(self, status: str = "FINISHED") -> None:
        """End the run: FINISHED, FAILED or KILLED. Sends the curves' last points first if it ends well."""
        if status == "FINISHED":
            self._curves.flush()
            if "**Running**" in self._tags().get(names.NOTE, ""):
                self.conclude("finished", "**Finished**.")
        self._client.set_terminated(self.run_id, status)

    def suspend(self) -> None:
        """Say that the run goes on later: a person is to decide first."""
        self.conclude("waiting", "**Waits for a person** to approve or refuse it.")
        self._client.update_run(self.run_id, status="SCHEDULED")

    def conclude(self, word: str, sentence: str) -> None:
        """Say what came of the run: a word in its name, a sentence at the top of its description."""
        _conclude(self._client, self._client.get_run(self.run_id), word, sentence)

    def describe(self, found: str) -> None:
        """Write the run's description; people's own words above it stay. See `notellm2.registry.descriptions`."""
        described = descriptions.with_findings(self._tags().get(names.NOTE, ""), found, descriptions.RUN_CHARS)
        self._client.set_tag(self.run_id, names.NOTE, described)

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

        A run that is continued names every flow run that worked on it, the last one with its page.
        """
        known = self._tags().get(names.FLOW_RUNS, "").split()
        flow_runs = [*(id_ for id_ in known if id_ != flow_run), *([flow_run] if flow_run else [])]
        tags = {
            names.RECIPE: recipe,
            names.DATA_MD5: data_md5,
            names.SOURCE_COMMIT: git_commit,
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
        """Record the recipe whole as ``recipe.yaml``, its digest, and as parameters what differs from the defaults.

        Where alerts go is no parameter: a run may be continued with others.

        Raises:
            MlflowException: the run holds another value of a field; then its run key did not cover the recipe.
        """
        from mlflow.entities import Param

        tree, defaults = (
            flatten(one.model_dump(mode="json", exclude={"name", "alerts"})) for one in (recipe, Recipe(name="default"))
        )
        params = [Param(name, _cut(value, _PARAM_CHARS)) for name, value in tree.items() if defaults.get(name) != value]
        for start in range(0, len(params), _PARAMS_PER_BATCH):
            self._client.log_batch(self.run_id, params=params[start : start + _PARAMS_PER_BATCH])
        self.log_tags({names.RECIPE_DIGEST: recipe_digest(recipe)})
        whole = yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
        self._client.log_text(self.run_id, whole, "recipe.yaml")

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
        """Log the curves of the training artifact's metrics.jsonl that the run does not hold yet, and the file itself.

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
        self.log_file(training.file("metrics.jsonl"), "training")
        self._logged(training)

    def log_evaluation(self, evaluation: Artifact) -> None:
        """Log the evaluation's main figures as metrics, all of them as files and tables, once an artifact."""
        if not self._has(evaluation):
            self.log_file(evaluation.file("metrics.json"), "evaluation")
            self.log_tables(evaluation)
            self.log_figures(evaluation)

    def log_tables(self, evaluation: Artifact, *others: Artifact) -> None:
        """Log every figure and every query as tables; again, they are replaced. See `notellm2.registry.tables`."""
        with tempfile.TemporaryDirectory() as folder:
            tables.write_tables(Path(folder), evaluation, others)
            for file in sorted(Path(folder).iterdir()):
                self.log_file(file, "evaluation")
        shown = [{"path": f"evaluation/{tables.QUERIES}", "type": "table"}]
        self.log_tags({"mlflow.loggedArtifacts": json.dumps(shown)})

    def log_figures(self, artifact: Artifact) -> None:
        """Log the main figures of an evaluation or a comparison as metrics, once an artifact."""
        if not self._has(artifact):
            self._log_metrics(figures_of(artifact))
            self._logged(artifact)

    def log_costs(self, seconds: Mapping[str, float], peak_gb: float) -> None:
        """Log the seconds that stages took when they were done, and the most memory that a process of the run held.

        Args:
            seconds: stage to seconds.
            peak_gb: of this process and those it started; the largest of a run's attempts stays.
        """
        held = self._client.get_run(self.run_id).data.metrics.get("memory/peak_gb", 0.0)
        costs = {f"seconds/{names.metric_part(stage)}": value for stage, value in seconds.items()}
        self._log_metrics(costs | {"memory/peak_gb": max(held, peak_gb)})

    def _log_metrics(self, values: Mapping[str, float]) -> None:
        """Log final values; one that the run holds already is not drawn twice."""
        from mlflow.entities import Metric

        held, now = self._client.get_run(self.run_id).data.metrics, _now_ms()
        changed = {name: value for name, value in values.items() if held.get(name) != value}
        self._client.log_batch(self.run_id, metrics=[Metric(name, value, now, 0) for name, value in changed.items()])

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
        """Record the gate's verdict as a tag, and what each rule said in ``gate.json``."""
        self.log_tags({names.GATE: "passed" if verdict.passed else "refused"})
        self._client.log_text(self.run_id, verdict.model_dump_json(indent=2) + "\n", "gate.json")

    def log_publication(self, entry: Entry, place: Location) -> None:
        """Record the address of the index that brought the run's model into use."""
        self.log_tags({names.PUBLISHED: f"{place}/{VERSIONS}/{entry.to.publication}"})

    def log_summary(self, summary: Mapping[str, Any]) -> None:
        """Log what the description says as plain data, ``summary.json``."""
        text = json.dumps(summary, indent=2, ensure_ascii=False) + "\n"
        self._client.log_text(self.run_id, text, "summary.json")

    def log_file(self, path: Path, folder: str | None = None) -> None:
        """Log one file (``report.html``), below a folder of the run's files or at their top; replaces it there."""
        self._client.log_artifact(self.run_id, str(path), folder)

    def log_stage(self, artifact: Artifact) -> None:
        """Record which artifact a stage gave: from the run to every file it is made of."""
        self._record(artifact, logged=False)

    def _logged(self, artifact: Artifact) -> None:
        # Last, after everything of it is logged: a kill before this repeats the logging, never leaves it half done.
        self._record(artifact, logged=True)

    def _record(self, artifact: Artifact, *, logged: bool) -> None:
        stages, stage = stages_of(self._tags()), {artifact.stage: artifact.key}
        known = Stages(stages.made | stage, stages.logged | stage if logged else stages.logged)
        self.log_tags({names.STAGES: known.tag()})

    def _has(self, artifact: Artifact) -> bool:
        return stages_of(self._tags()).logged.get(artifact.stage) == artifact.key

    def _tags(self) -> dict[str, str]:
        tags: dict[str, str] = self._client.get_run(self.run_id).data.tags
        return tags


def flatten(tree: Mapping[str, Any], above: str = "") -> dict[str, str]:
    """Flatten a tree of settings to dotted names and texts: numbers and words as they are, lists and null as JSON."""
    flat: dict[str, str] = {}
    for name, value in tree.items():
        path = f"{above}{name}"
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{path}.")
        else:
            flat[path] = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return flat


def _cut(value: str, limit: int) -> str:
    return value if len(value) <= limit else value[: limit - 3] + "..."


def _end_orphans(tracking: Tracking, experiment_id: str) -> None:
    client = tracking.client
    for run in client.search_runs([experiment_id], "attributes.status = 'RUNNING'"):
        if has_ended(run.data.tags.get(names.PROCESS, "")):
            _conclude(client, run, "killed", "**Killed**: its process is gone; the same command continues it.")
            client.set_terminated(run.info.run_id, "KILLED")


def _conclude(client: MlflowClient, run: MlflowRun, word: str, sentence: str) -> None:
    description = descriptions.with_outcome(run.data.tags.get(names.NOTE, ""), _cut(sentence, _SENTENCE_CHARS))
    client.set_tag(run.info.run_id, names.NOTE, description)
    client.update_run(run.info.run_id, name=named(run.info.run_name or "", word))


def _now_ms() -> int:
    return int(time.time() * 1000)
