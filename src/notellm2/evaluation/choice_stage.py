"""Stage "choice": which of several variants of a model finds most of the validation pairs' targets.

The variants are compared query by query on the same pairs, so that their difference has an interval of its own: it is
far narrower than what lies between two splits. Successive halving (Jamieson and Talwalkar 2016) keeps it cheap: a round
trains every variant that is left for a share of the steps, then the worse half goes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from notellm2.artifacts import Artifact, Store
from notellm2.evaluation.bootstrap import resample
from notellm2.evaluation.cases import Cases, MinedData, read_cases
from notellm2.evaluation.ranks import F32, F64, I64, Cosine, count_ranks

STAGE, VERSION = "choice", 1
KS = (10, 100)
"""A variant's score is the mean of recall at these cut-offs: of a first page, and of what is found at all."""
_RESAMPLES = 1000


def survivors(count: int) -> int:
    """Count the variants that go into the next round: the better half of `count`, rounded up."""
    return -(-count // 2)


def compare_variants(store: Store, data: MinedData, trials: Mapping[str, Artifact], share: float) -> Artifact:
    """Rank the validation pairs with every variant of one round, and say which are ahead by how much.

    Args:
        store: where the artifact goes.
        data: the notes and their mined pairs, with validation pairs.
        trials: vectors of the validation notes (stage "trial-vectors"), by variant, simplest first: of two that find
            equally many the first wins.
        share: of a whole training that each got.

    Returns:
        Stage "choice": choice.json, {"share", "queries", "pool", "variants": [{"name", "score", "recall@10",
        "recall@100", "behind", "low", "high"}, ...]}, best first. `behind` is how far the score lies below the best
        one's, with its 95 % interval over queries. The same is the summary.

    Raises:
        InputError: there are no validation pairs.
    """

    def write(into: Path) -> Mapping[str, Any]:
        cases = read_cases(data, 1, "validation")
        hits = {name: _hits(cases, trial) for name, trial in trials.items()}
        scores = {name: of.mean(axis=1) for name, of in hits.items()}
        ordered = sorted(scores, key=lambda name: -float(scores[name].mean()))
        best = scores[ordered[0]]
        behind = resample(np.stack([best - scores[name] for name in ordered], axis=1), _RESAMPLES)
        variants = [
            {
                "name": name,
                "score": round(float(scores[name].mean()), 4),
                **{f"recall@{k}": round(float(mean), 4) for k, mean in zip(KS, hits[name].mean(axis=0), strict=True)},
                "behind": round(float((best - scores[name]).mean()), 4),
                "low": round(float(low), 4),
                "high": round(float(high), 4),
            }
            for name, low, high in zip(ordered, behind.low, behind.high, strict=True)
        ]
        found = {
            "share": share,
            "queries": len(cases.query_rows),
            "pool": len(cases.pool_rows),
            "variants": variants,
        }
        (into / "choice.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
        return found

    inputs: dict[str, Artifact | str] = {"data": data.md5, "pairs": data.pairs, **trials}
    return store.build(STAGE, VERSION, {"share": share, "order": list(trials)}, inputs, write)


def choice_sentence(summary: Mapping[str, Any]) -> str:
    """Say of the last round's outcome which variant was chosen, by what margin, and how sure that is."""
    best, *others = summary["variants"]
    sentence = (
        f"{best['name']} was chosen on {summary['queries']} validation queries: recall@10 {best['recall@10']:.1%}, "
        f"recall@100 {best['recall@100']:.1%}"
    )
    if not others:
        return sentence
    next_best = others[0]
    margin = (
        f"{100 * next_best['behind']:.1f} points of their mean over {next_best['name']} "
        f"(95 % interval {100 * next_best['low']:+.1f} to {100 * next_best['high']:+.1f})"
    )
    sure = "" if next_best["low"] > 0 else ", which may be chance"
    return f"{sentence}, {margin}{sure}"


def _hits(cases: Cases, trial: Artifact) -> F64:
    """f64[Q, K]: the chance that each target is among the first k."""
    rows: I64 = np.load(trial.file("rows.npy"), allow_pickle=False)
    vectors: F32 = np.load(trial.file("both.npy"), allow_pickle=False)
    queries, pool = (vectors[np.searchsorted(rows, wanted)] for wanted in (cases.query_rows, cases.pool_rows))
    ranks = count_ranks(Cosine(queries, pool), cases.columns(cases.target_rows), cases.columns(cases.query_rows))
    return np.stack([ranks.recall(k) for k in KS], axis=1)
