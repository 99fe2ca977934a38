"""The time window of a data version: when behaviour may have happened."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta

from notellm2.errors import InputError
from notellm2.recipe import QualityConfig

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Window:
    """When behaviour may have happened: from `start` on, before `end`; both microseconds since 1970 (UTC)."""

    start: int
    end: int

    @classmethod
    def of(cls, config: QualityConfig, now: datetime) -> Window:
        """Return the window a recipe names; a plain date as `latest` includes that whole day.

        Raises:
            InputError: a bound is not ISO 8601, or they leave no time between them.
        """
        start = moment("recipe: quality.earliest", config.earliest)
        if config.latest is None:
            end = now
        elif _is_date(config.latest):
            end = moment("recipe: quality.latest", config.latest) + timedelta(days=1)
        else:
            end = moment("recipe: quality.latest", config.latest) + timedelta(microseconds=1)
        if end <= start:
            raise InputError(
                f"recipe: quality.earliest ({config.earliest}) is not before quality.latest "
                f"({config.latest or 'now'}); set an earlier quality.earliest or a later quality.latest"
            )
        return cls((start - _EPOCH) // timedelta(microseconds=1), (end - _EPOCH) // timedelta(microseconds=1))

    def bounds(self) -> tuple[datetime, datetime]:
        """Return the first moment, and the first one after the last, in UTC."""
        return _EPOCH + timedelta(microseconds=self.start), _EPOCH + timedelta(microseconds=self.end)


def moment(name: str, text: str) -> datetime:
    """Return a date or time in ISO 8601, in UTC unless it names an offset.

    Raises:
        InputError: it is neither; the message begins with `name`.
    """
    try:
        instant = datetime.combine(date.fromisoformat(text), time()) if _is_date(text) else datetime.fromisoformat(text)
    except ValueError:
        raise InputError(f"{name} is {text!r}; expected a date or time in ISO 8601, such as 2024-01-31") from None
    return instant.replace(tzinfo=UTC) if instant.tzinfo is None else instant.astimezone(UTC)


def _is_date(text: str) -> bool:
    try:
        date.fromisoformat(text)
    except ValueError:
        return False
    return True
