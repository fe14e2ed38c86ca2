"""The registered runners, in memory: a restarted coordinator knows none (protocol.md, section 1.1)."""

import asyncio
import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum
from weakref import WeakValueDictionary

import msgspec

from fsm_runner.coordinator_server.matching import Capabilities
from fsm_runner.coordinator_server.timings import Timings
from fsm_runner.protocol.event_clock import utc_now
from fsm_runner.protocol.wire import JsonObject


def runner_id_of(hostname: str, project_dir: str, executor_profile: str, command: str) -> str:
    """Return the id of a runner: the same four texts give the same id, also after a restart."""
    identity = "\0".join((hostname, project_dir, executor_profile, command))
    digest = hashlib.sha256(identity.encode("utf-8", "surrogatepass")).hexdigest()
    return f"rnr_{digest[:12]}"


class Presence(Enum):
    REGISTERED = "registered"
    LEAVING = "leaving"
    """A client has deregistered the runner. Its next poll reports this; it gets no further runs."""
    DEREGISTERED = "deregistered"
    EXPIRED = "expired"


class Runner(msgspec.Struct, eq=False):
    """A registered runner, with everything that its next poll has to report."""

    capabilities: Capabilities
    executor: JsonObject
    claim_lock: asyncio.Lock
    """Held from a claim until its response is certain to be sent; a deregistration waits for it.

    All runners of one identity share it, so that a new one claims after the closing of its predecessor's runs.
    """
    registered_at: str = msgspec.field(default_factory=utc_now)
    last_heartbeat: str = ""
    last_heartbeat_s: float = 0.0
    is_stale: bool = False
    """Whether it missed heartbeats. A heartbeat does not change this; only a registration does."""
    poll_lost_s: float | None = None
    """When the connection of its last poll ended before the response; None: it has called since."""
    presence: Presence = Presence.REGISTERED
    scripts_to_sync: list[str] = []
    held_polls: set[asyncio.Event] = set()

    @property
    def runner_id(self) -> str:
        return self.capabilities.runner_id

    @property
    def accepts_runs(self) -> bool:
        return self.presence is Presence.REGISTERED

    def wake(self) -> None:
        """Make its held polls check again for something to report."""
        for poll in self.held_polls:
            poll.set()

    @contextmanager
    def held_poll(self) -> Iterator[asyncio.Event]:
        """Yield the event that `wake` sets."""
        poll = asyncio.Event()
        self.held_polls.add(poll)
        self.poll_lost_s = None
        try:
            yield poll
        finally:
            self.held_polls.discard(poll)


class Registry:
    """All runners by id. `clock` returns seconds."""

    def __init__(self, timings: Timings, clock: Callable[[], float]) -> None:
        self._timings = timings
        self._clock = clock
        self._runners: dict[str, Runner] = {}
        self._stops: dict[str, dict[str, None]] = {}
        self._claim_locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def __iter__(self) -> Iterator[Runner]:
        return iter(self._runners.values())

    def get(self, runner_id: str) -> Runner | None:
        return self._runners.get(runner_id)

    def add(self, capabilities: Capabilities, executor: JsonObject) -> Runner:
        """Register a runner. A registration over a stale runner is a reconnection."""
        runner_id = capabilities.runner_id
        runner = self._runners.get(runner_id)
        if runner is None:
            claim_lock = self._claim_locks.setdefault(runner_id, asyncio.Lock())
            runner = self._runners[runner_id] = Runner(capabilities, executor, claim_lock)
        runner.capabilities, runner.executor = capabilities, executor
        runner.is_stale, runner.presence = False, Presence.REGISTERED
        self.record_heartbeat(runner)
        return runner

    def record_heartbeat(self, runner: Runner) -> None:
        runner.last_heartbeat_s, runner.last_heartbeat = self._clock(), utc_now()
        runner.poll_lost_s = None

    def record_lost_poll(self, runner: Runner) -> None:
        """Record that a poll's connection ended before the response: the runner's process may have ended."""
        runner.poll_lost_s = self._clock()

    def may_be_replaced(self, runner: Runner) -> bool:
        """Return whether another process may register under its identity: it is stale or appears to have ended."""
        if runner.is_stale:
            return True
        return runner.poll_lost_s is not None and self._clock() - runner.poll_lost_s > self._timings.gone_after_s

    def seconds_since_heartbeat(self, runner: Runner) -> float:
        # After a pause of the process, the event loop's clock may step back.
        return max(0.0, self._clock() - runner.last_heartbeat_s)

    def remove(self, runner: Runner, presence: Presence) -> None:
        """Remove the runner, end its held polls and discard its queued stops."""
        runner.presence = presence
        if self._runners.get(runner.runner_id) is runner:
            del self._runners[runner.runner_id]
            self._stops.pop(runner.runner_id, None)
        runner.wake()

    def expire(self) -> list[Runner]:
        """Mark stale runners, and remove and return those silent for `removed_after_s`."""
        expired = []
        for runner in list(self._runners.values()):
            silent_s = self.seconds_since_heartbeat(runner)
            if silent_s > self._timings.removed_after_s:
                self.remove(runner, Presence.EXPIRED)
                expired.append(runner)
            elif silent_s > self._timings.stale_after_s:
                runner.is_stale = True
        return expired

    def queue_stop(self, runner_id: str, session_id: str) -> None:
        """Queue a stop for the runner's next poll, also if the runner is not registered at present."""
        self._stops.setdefault(runner_id, {})[session_id] = None
        if runner := self._runners.get(runner_id):
            runner.wake()

    def take_stops(self, runner_id: str) -> list[str]:
        """Remove and return the sessions to stop."""
        return list(self._stops.pop(runner_id, ()))

    def wake_all(self) -> None:
        for runner in self._runners.values():
            runner.wake()
