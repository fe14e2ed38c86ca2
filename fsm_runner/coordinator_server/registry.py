"""The runners that are registered, in memory: a restarted coordinator knows none (protocol.md, section 1.1)."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum
from weakref import WeakValueDictionary

from fsm_runner.coordinator_server.store.ids import utc_now
from fsm_runner.coordinator_server.store.matching import Capabilities
from fsm_runner.coordinator_server.timings import Timings
from fsm_runner.protocol.wire import JsonObject


class Presence(Enum):
    REGISTERED = "registered"
    LEAVING = "leaving"
    """Somebody else has deregistered it: its next poll tells it so, and it gets no run any more."""
    DEREGISTERED = "deregistered"
    EXPIRED = "expired"


class Runner:
    """One registered runner: what it offers, and what its next poll has to tell it."""

    def __init__(self, capabilities: Capabilities, executor: JsonObject, claiming: asyncio.Lock) -> None:
        self.capabilities = capabilities
        self.executor = executor
        self.registered_at = utc_now()
        self.heard_at = self.registered_at
        self.heard_s = 0.0
        self.stale = False
        self.hung_up_s: float | None = None
        """When the connection of its last poll ended before the answer; None: it has called since."""
        self.presence = Presence.REGISTERED
        self.scripts_to_sync: list[str] = []
        self.claiming = claiming
        """Held from a claim until it is certain that its answer goes out; a leave waits for it.

        One for each identity: who registers anew claims after what the leave before had to close.
        """
        self._held_polls: set[asyncio.Event] = set()

    @property
    def runner_id(self) -> str:
        return self.capabilities.runner_id

    @property
    def takes_runs(self) -> bool:
        return self.presence is Presence.REGISTERED

    def wake(self) -> None:
        """Its held polls look again for something to answer."""
        for poll in self._held_polls:
            poll.set()

    @contextmanager
    def held_poll(self) -> Iterator[asyncio.Event]:
        """The event that is set whenever the poll has to look again."""
        poll = asyncio.Event()
        self._held_polls.add(poll)
        self.hung_up_s = None
        try:
            yield poll
        finally:
            self._held_polls.discard(poll)


class Registry:
    """All runners by id. `clock` gives seconds."""

    def __init__(self, timings: Timings, clock: Callable[[], float]) -> None:
        self._timings = timings
        self._clock = clock
        self._runners: dict[str, Runner] = {}
        self._stops: dict[str, dict[str, None]] = {}
        self._claiming: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def __iter__(self) -> Iterator[Runner]:
        return iter(self._runners.values())

    def get(self, runner_id: str) -> Runner | None:
        return self._runners.get(runner_id)

    def add(self, capabilities: Capabilities, executor: JsonObject) -> Runner:
        """Register, or register again over a stale runner: that is a reconnection."""
        runner_id = capabilities.runner_id
        known = self._runners.get(runner_id)
        if known is None:
            claiming = self._claiming.setdefault(runner_id, asyncio.Lock())
            known = self._runners[runner_id] = Runner(capabilities, executor, claiming)
        known.capabilities, known.executor = capabilities, executor
        known.stale, known.presence = False, Presence.REGISTERED
        self.heard(known)
        return known

    def heard(self, runner: Runner) -> None:
        """A heartbeat. A stale runner stays stale until it registers again."""
        runner.heard_s, runner.heard_at = self._clock(), utc_now()
        runner.hung_up_s = None

    def hung_up(self, runner: Runner) -> None:
        """The connection of its poll has ended before the answer: its process may be gone."""
        runner.hung_up_s = self._clock()

    def may_be_replaced(self, runner: Runner) -> bool:
        """Whether another process may register under its identity: it is stale, or its process seems to be gone."""
        if runner.stale:
            return True
        return runner.hung_up_s is not None and self._clock() - runner.hung_up_s > self._timings.gone_after_s

    def silent_s(self, runner: Runner) -> float:
        # After a stop of the process the event loop's clock may step back.
        return max(0.0, self._clock() - runner.heard_s)

    def remove(self, runner: Runner, presence: Presence) -> None:
        """Its held polls end; what it had still to be told is forgotten."""
        runner.presence = presence
        if self._runners.get(runner.runner_id) is runner:
            del self._runners[runner.runner_id]
            self._stops.pop(runner.runner_id, None)
        runner.wake()

    def expire(self) -> list[Runner]:
        """Mark the stale, remove those silent for too long, and return the latter."""
        expired = []
        for runner in list(self._runners.values()):
            silent_s = self.silent_s(runner)
            if silent_s > self._timings.removed_after_s:
                self.remove(runner, Presence.EXPIRED)
                expired.append(runner)
            elif silent_s > self._timings.stale_after_s:
                runner.stale = True
        return expired

    def queue_stop(self, runner_id: str, session_id: str) -> None:
        """Also for a runner that is not registered at the moment: it is told when it is."""
        self._stops.setdefault(runner_id, {})[session_id] = None
        if runner := self._runners.get(runner_id):
            runner.wake()

    def take_stops(self, runner_id: str) -> list[str]:
        """The sessions to stop, each told once."""
        return list(self._stops.pop(runner_id, ()))

    def wake_all(self) -> None:
        for runner in self._runners.values():
            runner.wake()
