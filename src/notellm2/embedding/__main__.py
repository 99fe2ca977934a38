"""`python -m notellm2.embedding`: embed a data set with a bundle, in a process of its own that may import torch.

For callers that must not (the command line, readers). Standard output gets one JSON line: the vectors' reference, or
{"message"}. Progress and messages for people go to standard error. Exit code 2: the input is wrong.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from notellm2.artifacts import Store
from notellm2.embedding.by_bundle import embed_bundle
from notellm2.embedding.refresh import refresh_vectors
from notellm2.errors import InputError
from notellm2.notes.dataset import Dataset
from notellm2.threads import let_idle_threads_sleep

EXIT_INPUT = 2


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m notellm2.embedding", description="Embed notes with a bundle.")
    parser.add_argument("--store", type=Path, required=True, help="the artifact store's folder")
    parser.add_argument("--data", type=Path, required=True, help="the data set's folder")
    parser.add_argument("--data-md5", required=True, help="its version")
    parser.add_argument("--bundle", type=Path, required=True, help="the model bundle's folder")
    parser.add_argument(
        "--bundle-digest", help="as the registry knows it; with it only what --previous lacks is embedded"
    )
    parser.add_argument("--previous", metavar="STAGE/KEY", help="earlier vectors by the same bundle")
    options = parser.parse_args(arguments)
    let_idle_threads_sleep()
    from notellm2.model.bundle.bundle import BundleError

    store, dataset = Store(options.store), Dataset.open(options.data)
    try:
        if options.bundle_digest is None:
            vectors = embed_bundle(store, dataset, options.data_md5, options.bundle)
        else:
            before = None if options.previous is None else store.get(options.previous)
            vectors = refresh_vectors(store, dataset, options.data_md5, options.bundle, options.bundle_digest, before)
    except (InputError, BundleError) as error:
        sys.stdout.write(json.dumps({"message": str(error)}) + "\n")
        return EXIT_INPUT
    sys.stdout.write(json.dumps(vectors.reference()) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
