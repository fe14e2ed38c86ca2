"""Types that the whole suite shares: lifecycles, failures and the outcome of a case."""

from typing import Literal

import msgspec

from fsm_runner.protocol.statuses import Lifecycle

Status = Literal["ok", "FAILED", "-", "untried"]
"""`-`: the case does not apply to this lifecycle, or needs an option. `untried`: the case needs a start, and starts
fail."""


class CaseFailed(Exception):
    """The executor violates the protocol. The message says what it did instead."""


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome of one case in one lifecycle."""

    case: str
    lifecycle: Lifecycle
    status: Status
    asks: str
    remark: str | None = None
    message: str | None = None
    """The reason of a failure."""
    transcript: tuple[str, ...] = ()
    """For a failure: the transcript lines of all processes that the case used."""
    duration_s: float = 0.0
