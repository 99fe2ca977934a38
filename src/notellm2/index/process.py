"""Build the index in a process of its own, from a process that may hold torch. Imports neither torch nor FAISS."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from dataclasses import replace

from notellm2.artifacts import Artifact, Store
from notellm2.errors import InputError
from notellm2.index.index_stage import find_index
from notellm2.index.layout import IndexInvalid
from notellm2.recipe import IndexConfig

logger = logging.getLogger(__name__)

EXIT_INPUT = 2


def build_index_in_subprocess(
    store: Store,
    vectors: Artifact,
    config: IndexConfig,
    *,
    base: Artifact | None = None,
    threads: int | None = None,
    timeout_s: float | None = None,
) -> Artifact:
    """Run `index_stage.build_index` in a child process; no process is started when the index exists already.

    The child never outlives its parent: it is killed when this call is interrupted or times out, and it ends by
    itself when the parent is gone, however that died, because it then reads the end of its standard input.

    Args:
        store: where the artifact goes; the child gets its root and provenance.
        vectors: artifact with vectors, in that store.
        config: the recipe's section.
        base: an earlier index to build on, in that store; see `index_stage.build_index`.
        threads: most threads the child uses.
        timeout_s: seconds until the child is killed; None: no limit.

    Raises:
        IndexInvalid, InputError: as raised in the child.
        TimeoutError: it took longer than `timeout_s`.
        RuntimeError: the child failed otherwise; carries the end of what it said.
    """
    built = find_index(store, vectors, config, base=base)
    if built is not None:
        return built
    command = [sys.executable, "-m", "notellm2.index", "build", "--exit-with-parent"]
    command += ["--store", str(store.root), "--vectors", f"{vectors.stage}/{vectors.key}"]
    command += ["--config", config.model_dump_json(), "--provenance", json.dumps(dict(store.provenance))]
    if base is not None:
        command += ["--base", f"{base.stage}/{base.key}"]
    if threads is not None:
        command += ["--threads", str(threads)]
    code, output, complaint = _run(command, timeout_s)
    try:
        answer = json.loads(output.splitlines()[-1])
    except (IndexError, ValueError):
        answer = {}
    if code == 0 and "key" in answer:
        logger.debug("index process: %s", complaint.strip())
        return replace(Artifact.from_reference(answer), reused=False)  # it was not there when we looked
    if code == EXIT_INPUT and "message" in answer:
        raise (IndexInvalid if answer["error"] == IndexInvalid.__name__ else InputError)(answer["message"])
    raise RuntimeError(f"the index process ended with {code}:\n{complaint.strip()[-4000:] or '(it said nothing)'}")


def _run(command: list[str], timeout_s: float | None) -> tuple[int, str, str]:
    # A pipe of our own as the child's input: `communicate` closes a pipe that Popen made, which means "parent gone".
    reading, writing = os.pipe()
    try:
        with subprocess.Popen(
            command, stdin=reading, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as child:
            try:
                output, complaint = child.communicate(timeout=timeout_s)
            except subprocess.TimeoutExpired:
                raise TimeoutError(f"the index process took longer than {timeout_s} s and was killed") from None
            finally:
                # Does nothing to a child that has ended; in every other case its work is not wanted any more.
                child.kill()
            return child.returncode, output, complaint
    finally:
        os.close(reading)
        os.close(writing)
