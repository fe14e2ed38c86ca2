"""What was measured of a runner while it worked: whether it grows."""

import statistics
from collections.abc import Sequence

import msgspec


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    resident_mb: float
    descriptors: int
    tasks: int
    threads: int
    processes: int
    """Below it, with its warden."""
    zombies: int
    journal_mb: float
    """Its file and what SQLite has beside it."""


class Bound(msgspec.Struct, frozen=True):
    """The last third may be so much above the first."""

    share: float
    more: float

    def of(self, first: float) -> float:
        return first * (1 + self.share) + self.more


BOUNDS = {
    "resident_mb": Bound(0.1, 3),
    "descriptors": Bound(0.1, 10),
    "tasks": Bound(0.1, 20),
    "threads": Bound(0, 1),
    "processes": Bound(0.1, 10),
    "zombies": Bound(0, 3),
    "journal_mb": Bound(0.1, 1),
}
"""Of the medians. Runs come and go, and with them descriptors, tasks and processes."""


class Figures:
    def __init__(self) -> None:
        self.under_load: list[Sample] = []
        self.at_rest: Sample | None = None

    def show(self) -> bool:
        """Print the table; whether nothing grows."""
        print(f"{len(self.under_load)} samples, medians")
        print(f"     {'':<14}{'first third':>12}{'last third':>12}{'at most':>12}{'at rest':>12}")
        are_flat = [self._show(name, bound) for name, bound in BOUNDS.items()]
        return all(are_flat)

    def _show(self, name: str, bound: Bound) -> bool:
        values = [float(getattr(sample, name)) for sample in self.under_load]
        third = max(1, len(values) // 3)
        first, last = _median(values[:third]), _median(values[-third:])
        flat = last <= bound.of(first)
        rest = "" if self.at_rest is None else f"{getattr(self.at_rest, name):12.1f}"
        mark = "ok " if flat else "NOT"
        print(f"{mark}  {name.replace('_', ' '):<14}{first:12.1f}{last:12.1f}{bound.of(first):12.1f}{rest}")
        return flat


def _median(values: Sequence[float]) -> float:
    return statistics.median(values) if values else 0.0
