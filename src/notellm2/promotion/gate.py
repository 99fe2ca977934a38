"""May a challenger become champion? Pure rules on plain figures: no MLflow, no files.

Every rule says what it compared, with its numbers. Nothing passes because something could not be looked at: a figure
that is missing or no number, a check that did not run, and an error inside a rule are refusals that name the rule.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict

from notellm2.recipe import GateConfig
from notellm2.registry.decisions import Rule, Verdict

BASELINES = {
    "vision": "the frozen vision encoder alone",
    "tfidf": "TF-IDF on the text the model reads",
    "linear": "a linear map of TF-IDF and frozen image features",
}
_WITHOUT_IMAGES = {"text_only": "the same model without them", "variant_text": "the variant trained on text alone"}
_FIGURE = "recall@10"
# Keeps a difference of exactly the margin allowed in binary fractions.
_PLAY = 1e-9


class Evidence(BaseModel):
    """What is known of a challenger; None is what was not looked at.

    Attributes:
        name: for the sentence: "version 3".
        metrics: the evaluation's metrics.json: row, slice, figure.
        space: the evaluation's space.json: row, figure.
        champion: name of the version in use: "version 2"; None: there is none yet.
        comparison: the comparison's comparison.json, against that champion on the same queries.
        quality: the quality stage's summary; `success` and `critical_failed` are read.
        index: the index stage's summary; `count`, `recall`, `k` and `p99_ms` are read.
        index_bundle: digest of the bundle whose vectors the index holds.
        bundle: digest of the challenger's registered bundle.
        canary: "passed", or what went wrong when the registered bundle was loaded.
        rolled_back: when, by whom and why it was taken out of use before; None: it was not.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    metrics: Mapping[str, Any]
    space: Mapping[str, Any] | None = None
    champion: str | None = None
    comparison: Mapping[str, Any] | None = None
    quality: Mapping[str, Any] | None = None
    index: Mapping[str, Any] | None = None
    index_bundle: str | None = None
    bundle: str | None = None
    canary: str | None = None
    rolled_back: str | None = None


class Missing(LookupError):
    """A figure that a rule needs is not there, or is no number it could be."""


_Outcome = tuple[bool, str]
_Check = Callable[[Evidence, GateConfig], _Outcome]


def judge(evidence: Evidence, config: GateConfig) -> Verdict:
    """Judge a challenger by the recipe's rules.

    Args:
        evidence: what is known of it.
        config: the recipe's section.
    """
    rules = tuple(_judged(name, check, required, evidence, config) for name, check, required in _checks(config))
    refusals = [rule for rule in rules if rule.required and not rule.passed]
    if refusals:
        reasons = "; ".join(f"{rule.name}: {rule.detail}" for rule in refusals)
        sentence = f"{evidence.name} is refused by {len(refusals)} of {len(rules)} rules: {reasons}"
    else:
        over = f"{evidence.champion} as champion" if evidence.champion else "no champion so far"
        recall = _share(evidence.metrics, "both", "all", _FIGURE, of="metrics.json")
        sentence = f"{evidence.name} passes all required rules (R@10 {recall:.4f}; over {over})"
    return Verdict(passed=not refusals, rules=rules, sentence=sentence)


def _checks(config: GateConfig) -> Iterator[tuple[str, _Check, bool]]:
    """The rules, in order: name, check, whether a failure refuses."""
    yield "data-quality", _data_quality, True
    yield "index-validation", _index_validation, True
    yield "index-of-this-model", _index_of_this_model, True
    yield "canary", _canary, True
    yield "min-recall", _min_recall, True
    for baseline in config.baselines:
        yield f"beats-{baseline}", _beats(baseline, BASELINES[baseline]), config.beat_baselines
    for row, what in (("text_only", "the text"), ("image_only", "the image")):
        # Warnings: a model may rightly rest on one input where the other says little.
        yield f"both-inputs-{row.removesuffix('_only')}", _at_least(row, what), False
    if config.min_visual_reliance is not None:
        yield "visual-reliance", _visual_reliance, True
    for part, margin in {"all": config.max_drop, **config.max_drop_by_slice}.items():
        suffix = "" if part == "all" else f"-{part}"
        yield f"not-worse-than-champion{suffix}", _not_worse(part, margin), True
    yield "space-reach", _space("never_in_top_100_share", "notes no list of 100 holds", most="max_unreachable"), True
    yield "space-duplicates", _space("duplicate_share", "notes whose nearest is equal", most="max_duplicates"), True
    yield "space-rank", _space("effective_rank", "effective dimensions", least="min_effective_rank"), True
    # A warning to a person; the flow itself never brings back what a person took out of use.
    yield "not-rolled-back", _not_rolled_back, False


def _judged(name: str, check: _Check, required: bool, evidence: Evidence, config: GateConfig) -> Rule:
    try:
        passed, detail = check(evidence, config)
    except Missing as missing:
        passed, detail = False, str(missing)
    except Exception as error:
        passed, detail = False, f"the rule itself failed: {type(error).__name__}: {error}"
    return Rule(name=name, passed=passed is True, detail=detail, required=required)


def _data_quality(evidence: Evidence, _config: GateConfig) -> _Outcome:
    if evidence.quality is None:
        return False, "the data's critical expectations: not checked"
    failed = ", ".join(str(name) for name in evidence.quality.get("critical_failed", []))
    passed = evidence.quality.get("success") is True and not failed
    return passed, f"the data's critical expectations: {'passed' if passed else 'failed'}{failed and f' ({failed})'}"


def _index_validation(evidence: Evidence, _config: GateConfig) -> _Outcome:
    if evidence.index is None:
        return False, "the index of the challenger's vectors: not checked"
    count = _number(evidence.index, "count", of="the index's validation", least=0)
    recall = _share(evidence.index, "recall", of="the index's validation")
    k, slowest = (_number(evidence.index, name, of="the index's validation", least=0) for name in ("k", "p99_ms"))
    # The stage has held the figures against its own bounds: an index that failed them does not exist.
    return count > 0, (
        f"the index of {count:,.0f} notes is valid: recall@{k:.0f} {recall:.4f} against exact search, 99 % of queries "
        f"within {slowest:.2f} ms"
    )


def _index_of_this_model(evidence: Evidence, _config: GateConfig) -> _Outcome:
    ours, theirs = evidence.bundle or None, evidence.index_bundle or None
    detail = f"the index holds vectors of bundle {theirs or 'unknown'}, the challenger is bundle {ours or 'unknown'}"
    return ours is not None and ours == theirs, detail


def _canary(evidence: Evidence, _config: GateConfig) -> _Outcome:
    outcome = "not checked" if evidence.canary is None else evidence.canary
    return evidence.canary == "passed", f"the registered bundle's canary embeddings: {outcome}"


def _not_rolled_back(evidence: Evidence, _config: GateConfig) -> _Outcome:
    if evidence.rolled_back is None:
        return True, "it was not taken out of use before"
    return False, f"it was rolled back {evidence.rolled_back}"


def _min_recall(evidence: Evidence, config: GateConfig) -> _Outcome:
    ours, least = _recall(evidence), config.min_recall_at_10
    return ours >= least, f"R@10 {ours:.4f} with both inputs, at least {least:.4f} required"


def _beats(row: str, what: str) -> _Check:
    def check(evidence: Evidence, _config: GateConfig) -> _Outcome:
        ours, theirs = _recall(evidence), _recall(evidence, row)
        return ours > theirs, f"R@10 {ours:.4f} with both inputs, {theirs:.4f} by {what}"

    return check


def _at_least(row: str, what: str) -> _Check:
    def check(evidence: Evidence, _config: GateConfig) -> _Outcome:
        ours, alone = _recall(evidence), _recall(evidence, row)
        return ours >= alone, f"R@10 {ours:.4f} with both inputs, {alone:.4f} with {what} alone"

    return check


def _visual_reliance(evidence: Evidence, config: GateConfig) -> _Outcome:
    floor = config.min_visual_reliance
    if floor is None:
        raise ValueError("switched off by the recipe")
    ours = _recall(evidence)
    # What a model loses without its images shows that it depends on them, not that they are worth their cost: where the
    # text variant was trained, they must be worth more than that as well.
    rows = [row for row in _WITHOUT_IMAGES if row == "text_only" or row in evidence.metrics]
    gains = {row: ours - _recall(evidence, row) for row in rows}
    compared = " and ".join(f"{gain:+.4f} over {_WITHOUT_IMAGES[row]}" for row, gain in gains.items())
    # More than the floor, not as much: a model that does not look at images gains exactly 0.
    passed = all(gain > floor + _PLAY for gain in gains.values())
    return passed, f"R@10 {ours:.4f} with images, {compared}; more than {floor:+.4f} required"


def _not_worse(part: str, margin: float) -> _Check:
    def check(evidence: Evidence, config: GateConfig) -> _Outcome:
        if evidence.champion is None:
            return True, "there is no champion yet"
        if evidence.comparison is None:
            return False, (
                f"{evidence.champion} could not be compared on the same queries: what it was made of is gone or damaged"
            )
        of = "comparison.json"
        n = _number(evidence.comparison, "slices", part, "n", of=of, least=0)
        if n < 1:
            raise Missing(f"slice {part} has no test queries: take it out of gate.max_drop_by_slice, or test on more")
        path = ("slices", part, _FIGURE)
        ours, theirs = (_share(evidence.comparison, *path, side, of=of) for side in ("candidate", "champion"))
        difference, low, high = (
            _number(evidence.comparison, *path, name, of=of, least=-1, most=1) for name in ("difference", "low", "high")
        )
        judged, called = (low, "its low end") if config.drop_judged_by == "low" else (difference, "the difference")
        return judged >= -margin - _PLAY, (
            f"R@10 {ours:.4f}, {evidence.champion} has {theirs:.4f} on the same {n:.0f} queries ({part}): difference "
            f"{difference:+.4f}, 95 % interval {low:+.4f} to {high:+.4f}; {called} must not be below {-margin:+.4f}"
        )

    return check


def _space(figure: str, what: str, *, most: str | None = None, least: str | None = None) -> _Check:
    def check(evidence: Evidence, config: GateConfig) -> _Outcome:
        if evidence.space is None:
            return False, "the embedding space was not looked at"
        value = _number(evidence.space, "both", figure, of="space.json", least=0)
        if most is not None:
            bound: float = getattr(config, most)
            return value <= bound, f"{what}: {value:.4f} of all, at most {bound:.4f} allowed"
        bound = getattr(config, str(least))
        return value >= bound, f"{what}: {value:.2f}, at least {bound:.2f} required"

    return check


def _recall(evidence: Evidence, row: str = "both") -> float:
    return _share(evidence.metrics, row, "all", _FIGURE, of="metrics.json")


def _share(tree: Mapping[str, Any], *path: str, of: str) -> float:
    return _number(tree, *path, of=of, least=0, most=1)


def _number(tree: Mapping[str, Any], *path: str, of: str, least: float = -math.inf, most: float = math.inf) -> float:
    """A finite number within bounds.

    Raises:
        Missing: it is not there or none; says where it was looked for.
    """
    value: Any = tree
    for level in path:
        value = value.get(level) if isinstance(value, Mapping) else None
    if value is None:
        raise Missing(f"{of}: {'.'.join(path)} is missing")
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise Missing(f"{of}: {'.'.join(path)} is {value!r}, no number")
    if not least <= value <= most:
        raise Missing(f"{of}: {'.'.join(path)} is {value!r}, not between {least:g} and {most:g}")
    return float(value)
