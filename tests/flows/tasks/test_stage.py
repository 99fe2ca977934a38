from __future__ import annotations

from typing import Any

import pytest
from prefect.states import Failed

from flows.tasks import stage
from notellm2.errors import InputError
from notellm2.promotion.journal import LeaseTaken
from notellm2.promotion.transaction import ChampionMoved


@pytest.mark.parametrize(
    ("error", "again"),
    [
        (OSError("the server does not answer"), True),
        (LeaseTaken("another promotion is under way"), True),
        (InputError("no such version"), False),
        (ChampionMoved("there is another champion by now"), False),
    ],
    ids=lambda value: type(value).__name__,
)
def test_only_what_may_end_otherwise_is_tried_again(error: Exception, again: bool) -> None:
    nothing: Any = None
    assert stage._worth_retrying(nothing, nothing, Failed(data=error)) is again
