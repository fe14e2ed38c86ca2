"""The classes of demands whose runs wait in the queue, and the runners that may claim them."""

from collections.abc import Iterable, Mapping

import msgspec

from fsm_runner.coordinator_server.matching import meets
from fsm_runner.coordinator_server.registry import Runner
from fsm_runner.coordinator_server.store.interface import DemandClass

REMEMBERED_CLASSES = 1_000
"""How many classes that are not ready a runner remembers at least."""


class _ReadyClass(msgspec.Struct, frozen=True, eq=False):
    demand_class: DemandClass
    since: int
    """The `now` when a run was added."""


class DemandClasses:
    """Knows the *ready* classes, those that may have runs to claim.

    The database decides whether there is one. Between a call of the database and its result, a class may become ready
    again. So the methods that apply such a result take the `now` from before the call, and leave such a class ready.
    """

    def __init__(self) -> None:
        self.now = 0
        """The number of times that any class became ready."""
        self._ready: dict[int, _ReadyClass] = {}

    @property
    def ready(self) -> list[int]:
        return list(self._ready)

    def of_agents(self, names: frozenset[str]) -> list[int]:
        """Return the ready classes of these agents, which have `max_running`."""
        return [class_id for class_id, ready in self._ready.items() if ready.demand_class.limited_agent in names]

    def add(self, class_id: int, demand_class: DemandClass) -> None:
        """Make a class ready: a run of it was added to the queue."""
        self.now += 1
        self._ready[class_id] = _ReadyClass(demand_class, self.now)

    def replace(self, ready: Mapping[int, DemandClass], since: int) -> list[int]:
        """Set the ready classes, and return those that were not. `since`: the `now` before they were read."""
        self.discard([class_id for class_id in self._ready if class_id not in ready], since)
        added = [class_id for class_id in ready if class_id not in self._ready]
        for class_id in added:
            self.add(class_id, ready[class_id])
        return added

    def discard(self, class_ids: Iterable[int], since: int) -> None:
        """Note that these classes had no runs to claim. `since`: the `now` before the database was asked."""
        for class_id in class_ids:
            ready = self._ready.get(class_id)
            if ready is not None and ready.since <= since:
                del self._ready[class_id]

    def claimable(self, runner: Runner) -> dict[int, DemandClass]:
        """Return the ready classes whose runs the runner may claim."""
        return {
            class_id: ready.demand_class
            for class_id, ready in self._ready.items()
            if self.is_claimable(class_id, runner)
        }

    def is_claimable(self, class_id: int, runner: Runner) -> bool:
        """Return whether the class is ready, and the runner may claim its runs."""
        ready = self._ready.get(class_id)
        if ready is None or not runner.accepts_runs:
            return False
        known = runner.may_claim.get(class_id)
        if known is None:
            known = runner.may_claim[class_id] = meets(runner.capabilities, ready.demand_class.demands)
            # This is seldom: at least `REMEMBERED_CLASSES` others have become known since the last time.
            if len(runner.may_claim) > 2 * len(self._ready) + REMEMBERED_CLASSES:
                runner.may_claim = {each: may for each, may in runner.may_claim.items() if each in self._ready}
        return known
