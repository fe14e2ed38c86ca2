"""Samples of a running runner, and the check that no resource grows."""

import statistics
from collections.abc import Sequence

import msgspec


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    resident_mb: float
    descriptors: int
    tasks: int
    threads: int
    processes: int
    """Descendants, including the watchdog."""
    zombies: int
    journal_mb: float
    """The size of the journal and its WAL files."""


class Bound(msgspec.Struct, frozen=True):
    """The permitted growth from the first third to the last: a share plus an absolute margin."""

    share: float
    margin: float

    def limit(self, first: float) -> float:
        return first * (1 + self.share) + self.margin


BOUNDS = {
    "resident_mb": Bound(0.1, 3),
    "descriptors": Bound(0.1, 10),
    "tasks": Bound(0.1, 20),
    "threads": Bound(0, 1),
    "processes": Bound(0.1, 10),
    "zombies": Bound(0, 3),
    "journal_mb": Bound(0.1, 1),
}
"""Bounds for the medians. Descriptors, tasks and processes vary with the runs in flight."""


class Figures:
    def __init__(self) -> None:
        self.under_load: list[Sample] = []
        self.at_rest: Sample | None = None

    def show(self) -> bool:
        """Print the table; return whether nothing grows."""
        print(f"{len(self.under_load)} samples, medians")
        print(f"     {'':<14}{'first third':>12}{'last third':>12}{'at most':>12}{'at rest':>12}")
        within_bounds = [self._show(name, bound) for name, bound in BOUNDS.items()]
        return all(within_bounds)

    def _show(self, name: str, bound: Bound) -> bool:
        values = [float(getattr(sample, name)) for sample in self.under_load]
        third = max(1, len(values) // 3)
        first, last = _median(values[:third]), _median(values[-third:])
        flat = last <= bound.limit(first)
        rest = "" if self.at_rest is None else f"{getattr(self.at_rest, name):12.1f}"
        mark = "ok " if flat else "NOT"
        print(f"{mark}  {name.replace('_', ' '):<14}{first:12.1f}{last:12.1f}{bound.limit(first):12.1f}{rest}")
        return flat


def _median(values: Sequence[float]) -> float:
    return statistics.median(values) if values else 0.0
