"""What the visits of a workflow have used, as the journal keeps it."""

from collections.abc import Iterable

import msgspec

from fsm_runner.protocol.wire import DECODE_FAULTS
from fsm_runner.reporting.executor_status import Usage


class VisitUsage(Usage, frozen=True, kw_only=True, omit_defaults=True):
    """What one visit has used."""

    children: int | None = None
    """The children that it has started; None if it was no activity `agent`."""

    def __str__(self) -> str:
        if self.children is None:
            return super().__str__()
        return "1 child" if self.children == 1 else f"{self.children} children"


def children_of(usages: Iterable[bytes]) -> int:
    """Return the number of children that visits have started. `usages`: `VisitUsage` as JSON."""
    return sum(_decoded(usage).children or 0 for usage in usages)


def _decoded(usage: bytes) -> VisitUsage:
    try:
        return msgspec.json.decode(usage, type=VisitUsage)
    except DECODE_FAULTS:
        return VisitUsage()
