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
        children = "1 child" if self.children == 1 else f"{self.children} children"
        is_unknown = self == VisitUsage(children=self.children)
        return children if is_unknown else f"{children}, {super().__str__()}"


def children_of(usages: Iterable[bytes]) -> list[VisitUsage]:
    """Return the usages of the visits that have started children. `usages`: `VisitUsage` as JSON."""
    return [usage for usage in map(_decoded, usages) if usage.children]


def _decoded(usage: bytes) -> VisitUsage:
    try:
        return msgspec.json.decode(usage, type=VisitUsage)
    except DECODE_FAULTS:
        return VisitUsage()
