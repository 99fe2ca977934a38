"""Checks of volumes: shards against dataset.json, what the import set aside, and the version before this one."""

from __future__ import annotations

from notellm2.notes.dataset import DatasetInfo
from notellm2.quality.checks import Check, Expected
from notellm2.recipe import QualityConfig


def volume_checks(config: QualityConfig, info: DatasetInfo, previous: DatasetInfo | None) -> list[Check]:
    """List the checks of volumes; without a version before this one, nothing is compared with it."""
    counted = (
        ("notes", "notes", "count(*)", info.notes, previous.notes if previous else 0),
        (
            "images",
            "images",
            "count(*) FILTER (has_image)",
            info.notes_with_image,
            previous.notes_with_image if previous else 0,
        ),
        ("interactions", "interactions", "count(*)", info.interactions, previous.interactions if previous else 0),
    )
    checks = [
        Check(
            Expected(
                f"volume.described_{what}", "*", f"The shards hold as many {what} as dataset.json says ({said:,})."
            ),
            relation=relation,
            value=f"abs({count} - {said})",
            upper=0,
            failed=f"abs({count} - {said})",
        )
        for what, relation, count, said, _ in counted
    ]
    checks += _quarantined(config, info)
    least = 1 - config.max_volume_drop
    for what, relation, count, _, before in counted:
        if before:
            checks.append(
                Check(
                    Expected(
                        f"volume.{what}_against_previous",
                        "*",
                        f"At least {percent(least)} as many {what} as in the previous version ({before:,}).",
                    ),
                    relation=relation,
                    value=f"{count} / {before}",
                    lower=least,
                    failed=f"greatest({before} - {count}, 0)",
                )
            )
    return checks


def _quarantined(config: QualityConfig, info: DatasetInfo) -> list[Check]:
    # An archive's spare members are no loss of data: nothing asked for them.
    judged = (
        ("share_quarantined", "kind <> 'archive'", "rows and images", info.notes + info.interactions),
        ("share_notes_quarantined", "kind = 'note'", "notes", info.notes),
        ("share_interactions_quarantined", "kind = 'interaction'", "interactions", info.interactions),
        ("share_images_quarantined", "kind = 'image'", "images", info.notes_with_image),
    )
    checks = []
    for name, which, what, kept in judged:
        aside = f"coalesce(sum(rows) FILTER ({which}), 0)"
        checks.append(
            Check(
                Expected(
                    f"volume.{name}",
                    "*",
                    f"The import set aside at most {percent(config.max_share_quarantined)} of the {what} it met.",
                ),
                relation="quarantine",
                value=f"coalesce({aside} / nullif({aside} + {kept}, 0), 0)",
                upper=config.max_share_quarantined,
                failed=aside,
                bad=which,
                show=("kind", "reason", "rows", "first_location", "first_detail"),
            )
        )
    return checks


def percent(share: float) -> str:
    """A share as people read it: ``12.5 %``."""
    return f"{100 * share:g} %"
