"""May a challenger become champion? Pure rules on plain numbers: no MLflow, no files.

Every rule says what it compared. A number that is missing, is no number or lies outside [0, 1] is a refusal, as is a
check that did not run: nothing passes because something could not be looked at.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict

from notellm2.recipe import GateConfig

BASELINES = {"vision": "the frozen vision encoder alone", "tfidf": "TF-IDF on the text the model reads"}
_FIGURE = "recall@10"


class Rule(BaseModel):
    """One rule's outcome.

    Attributes:
        name: short and stable.
        passed: whether it holds.
        detail: what was compared, with its numbers.
        required: whether a failure refuses the challenger; otherwise it is a warning.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    passed: bool
    detail: str
    required: bool = True


class Verdict(BaseModel):
    """What the gate says of a challenger.

    Attributes:
        passed: whether every required rule holds.
        rules: all of them, in the order they were judged.
        sentence: the verdict for people, with the reasons of a refusal.
    """

    model_config = ConfigDict(frozen=True)

    passed: bool
    rules: tuple[Rule, ...]
    sentence: str

    @property
    def warnings(self) -> tuple[Rule, ...]:
        """Rules that failed without refusing the challenger."""
        return tuple(rule for rule in self.rules if not rule.passed and not rule.required)


class Scored(BaseModel):
    """Figures and what they were measured on.

    Attributes:
        metrics: as in the evaluation's metrics.json: row, slice, figure.
        test_set: digest of the test pairs and their pool; figures compare only where it is equal.
        name: for the sentence: "version 3".
    """

    model_config = ConfigDict(frozen=True)

    metrics: Mapping[str, Any]
    test_set: str
    name: str


def judge(
    challenger: Scored,
    champion: Scored | None,
    config: GateConfig,
    *,
    quality_passed: bool | None,
    index_valid: bool | None,
) -> Verdict:
    """Judge a challenger.

    Args:
        challenger: its figures.
        champion: the champion's figures on the *same* test set, or None when there is no champion yet.
        config: the recipe's rules.
        quality_passed: whether the data passed its critical expectations; None: not checked.
        index_valid: whether the index of its vectors passed its validation; None: not checked.
    """
    rules = [
        _check("data-quality", quality_passed, "the data's critical expectations"),
        _check("index-validation", index_valid, "the index of the challenger's vectors"),
        _minimum(challenger, config),
        *(_beats(challenger, row, what, config) for row, what in BASELINES.items()),
        *(_uses(challenger, row, what) for row, what in (("text_only", "the text"), ("image_only", "the image"))),
        _champion(challenger, champion, config),
    ]
    refusals = [rule for rule in rules if rule.required and not rule.passed]
    if refusals:
        reasons = "; ".join(f"{rule.name}: {rule.detail}" for rule in refusals)
        sentence = f"{challenger.name} is refused by {len(refusals)} of {len(rules)} rules: {reasons}"
    else:
        over = f"{champion.name} as champion" if champion else "no champion so far"
        sentence = f"{challenger.name} passes all required rules (R@10 {_shown(_recall(challenger))}; over {over})"
    return Verdict(passed=not refusals, rules=tuple(rules), sentence=sentence)


def _check(name: str, passed: bool | None, what: str) -> Rule:
    outcome = "not checked" if passed is None else "passed" if passed else "failed"
    return Rule(name=name, passed=passed is True, detail=f"{what}: {outcome}")


def _minimum(challenger: Scored, config: GateConfig) -> Rule:
    ours, least = _recall(challenger), config.min_recall_at_10
    return Rule(
        name="min-recall",
        passed=ours is not None and ours >= least,
        detail=f"R@10 {_shown(ours)} with both inputs, at least {_shown(least)} required",
    )


def _beats(challenger: Scored, row: str, what: str, config: GateConfig) -> Rule:
    ours, theirs = _recall(challenger), _recall(challenger, row)
    return Rule(
        name=f"beats-{row}",
        passed=ours is not None and theirs is not None and ours > theirs,
        detail=f"R@10 {_shown(ours)} with both inputs, {_shown(theirs)} by {what}",
        required=config.beat_baselines,
    )


def _uses(challenger: Scored, row: str, what: str) -> Rule:
    # A warning for now: a model may rightly rest on one input where the other says little.
    ours, alone = _recall(challenger), _recall(challenger, row)
    return Rule(
        name=f"both-inputs-{row.removesuffix('_only')}",
        passed=ours is not None and alone is not None and ours >= alone,
        detail=f"R@10 {_shown(ours)} with both inputs, {_shown(alone)} with {what} alone",
        required=False,
    )


def _champion(challenger: Scored, champion: Scored | None, config: GateConfig) -> Rule:
    name = "not-worse-than-champion"
    if champion is None:
        return Rule(name=name, passed=True, detail="there is no champion yet")
    if champion.test_set != challenger.test_set:
        return Rule(
            name=name,
            passed=False,
            detail=f"not comparable: {champion.name} was measured on test set {champion.test_set}, "
            f"{challenger.name} on {challenger.test_set}; evaluate the champion on the same test set",
        )
    ours, theirs = _recall(challenger), _recall(champion)
    return Rule(
        name=name,
        # The play of 1e-9 keeps a drop of exactly `max_drop` allowed in binary fractions.
        passed=ours is not None and theirs is not None and theirs - ours <= config.max_drop + 1e-9,
        detail=f"R@10 {_shown(ours)}, {champion.name} has {_shown(theirs)}; "
        f"a drop of at most {_shown(config.max_drop)} is allowed",
    )


def _recall(scored: Scored, row: str = "both") -> float | None:
    """R@10 over all pairs; None unless it is a number in [0, 1]."""
    value: Any = scored.metrics
    for level in (row, "all", _FIGURE):
        value = value.get(level) if isinstance(value, Mapping) else None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value) if 0.0 <= value <= 1.0 else None


def _shown(value: float | None) -> str:
    return "missing" if value is None else f"{value:.4f}"
