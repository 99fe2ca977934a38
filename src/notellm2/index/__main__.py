"""`python -m notellm2.index build`: the index stage as a process of its own, which never imports torch.

Standard output gets one JSON line: the artifact's reference, or {"error", "message"}. Messages for people go to
standard error. Exit code 2: the input is wrong; 1: anything else.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import threading
from pathlib import Path

from pydantic import ValidationError

from notellm2.artifacts import Artifact, Store
from notellm2.errors import InputError
from notellm2.index.index_stage import build_index
from notellm2.recipe import IndexConfig

EXIT_INPUT = 2
EXIT_ORPHANED = 3


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m notellm2.index", description="Build indexes without torch.")
    commands = parser.add_subparsers(dest="command", required=True)
    build = commands.add_parser("build", help="build and validate the index of a vectors artifact")
    build.add_argument("--store", type=Path, required=True, help="the artifact store's folder")
    build.add_argument("--vectors", required=True, metavar="STAGE/KEY", help="the vectors artifact")
    build.add_argument("--base", metavar="STAGE/KEY", help="an earlier index whose training is kept")
    build.add_argument("--config", default="{}", metavar="JSON", help="the recipe's section `index`")
    build.add_argument("--provenance", default="{}", metavar="JSON", help="facts for the manifest")
    build.add_argument("--threads", type=int, default=None, help="most threads used")
    build.add_argument("--exit-with-parent", action="store_true", help="end when standard input does")
    options = parser.parse_args(arguments)
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    logging.getLogger("faiss").setLevel(logging.WARNING)
    if options.exit_with_parent:
        threading.Thread(target=_exit_with_parent, daemon=True).start()
    try:
        answer = _build(options).reference()
    except InputError as error:
        sys.stderr.write(f"{error}\n")
        _answer({"error": type(error).__name__, "message": str(error)})
        return EXIT_INPUT
    _answer(answer)
    return 0


def _build(options: argparse.Namespace) -> Artifact:
    try:
        config = IndexConfig.model_validate_json(options.config)
        provenance = json.loads(options.provenance)
    except ValidationError as error:
        raise InputError(f"--config {options.config}: {error}") from None
    except ValueError as error:
        raise InputError(f"--provenance {options.provenance}: not JSON: {error}") from None
    store = Store(options.store, provenance)
    vectors = _sound(store, options.vectors)
    base = None if options.base is None else _sound(store, options.base)
    return build_index(store, vectors, config, base=base, threads=options.threads)


def _sound(store: Store, address: str) -> Artifact:
    artifact = store.get(address)
    problems = store.problems(artifact)
    if problems:
        raise InputError(f"{address} is damaged, make it again: " + "; ".join(problems))
    return artifact


def _answer(value: dict[str, str]) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


def _exit_with_parent() -> None:
    # Nobody writes to this pipe: reading returns when its last writer, the parent, is gone. What the build leaves
    # is a temporary directory, as after any kill. Not by sys.stdin: a thread that holds its buffer's lock makes the
    # interpreter abort at shutdown.
    while os.read(0, 4096):
        pass
    os._exit(EXIT_ORPHANED)


if __name__ == "__main__":
    sys.exit(main())
