"""What every section of a recipe is."""

from __future__ import annotations

import typing
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator


class Section(BaseModel):
    """A part of a recipe: immutable, and strict about unknown fields and about booleans where a number belongs."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @field_validator("*", mode="before")
    @classmethod
    def _no_boolean_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse true and false where a number belongs; pydantic takes them for 1 and 0."""
        if isinstance(value, bool) and info.field_name is not None:
            kinds = _plain_types(cls.model_fields[info.field_name].annotation)
            if bool not in kinds and kinds & {int, float}:
                raise ValueError(f"expected a number, found {str(value).lower()}")
        return value


def _plain_types(annotation: Any) -> set[Any]:
    """The types that an annotation names, those of a union and of Annotated one by one."""
    parts = typing.get_args(annotation)
    if not parts:
        return {annotation}
    return set().union(*(_plain_types(part) for part in parts))
