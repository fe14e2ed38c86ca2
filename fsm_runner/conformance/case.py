"""One thing that the protocol asks of an executor."""

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Literal

import msgspec

from fsm_runner.protocol.statuses import LIFECYCLES, Lifecycle

if TYPE_CHECKING:
    from fsm_runner.conformance.case_context import CaseContext


class CaseFailed(Exception):
    """The executor does not do what is asked. The text says what it did instead."""


class Case(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    asks: str
    """What the protocol asks, in one sentence."""
    check: "Callable[[CaseContext], Awaitable[str | None]]"
    """Raises `CaseFailed`. A text is a remark on how the executor does it."""
    lifecycles: tuple[Lifecycle, ...] = LIFECYCLES
    needs_start: bool = False
    """Of no use with an executor that cannot carry out a plain start."""


Status = Literal["ok", "FAILED", "-", "untried"]
"""`-`: not asked of this lifecycle. `untried`: needs a start, and that fails."""


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """How one case went."""

    case: str
    lifecycle: Lifecycle
    status: Status
    asks: str
    remark: str | None = None
    message: str | None = None
    """Why it failed."""
    transcript: tuple[str, ...] = ()
    """Of a failure: the lines of all processes that were started for it."""
    duration_s: float = 0.0
