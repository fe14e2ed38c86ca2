"""The registered runners, in memory: a restarted one waits until they register again (protocol.md, section 1.1)."""

import asyncio
import hashlib
import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from enum import Enum
from weakref import WeakValueDictionary

import msgspec

from fsm_runner.coordinator_server.matching import Capabilities
from fsm_runner.coordinator_server.timings import Timings
from fsm_runner.protocol.event_clock import utc_now
from fsm_runner.protocol.wire import JsonObject

ABSENT_RUNNERS = 1_000
"""For how many runners that are not registered stops are kept: most of them never come back."""


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
    registration: int
    """The number of its latest registration."""
    served_no: int
    """Greater than that of each runner that was given a run, or registered, earlier."""
    claim_lock: asyncio.Lock
    """Held from a claim until its response is certain to be sent; a deregistration waits for it.

    All runners of one identity share it, so that a new one claims after the closing of its predecessor's runs.
    """
    registered_over: int | None = None
    """The number with which its latest registration came: that of an earlier one of the same process."""
    registered_at: str = msgspec.field(default_factory=utc_now)
    last_heartbeat: str = ""
    last_heartbeat_s: float = 0.0
    is_stale: bool = False
    """Whether it missed heartbeats. A heartbeat does not change this; only a registration does."""
    poll_lost_s: float | None = None
    """When the connection of its last poll ended before the response; None: it has called since."""
    presence: Presence = Presence.REGISTERED
    has_untold_claim: bool = True
    """Whether the database may have a claim of the runner whose response was not written."""
    scripts_to_sync: list[str] = []
    held_polls: set["WaitingPoll"] = set()
    may_claim: dict[int, bool] = {}
    """By id of a class of demands. Obsolete after a registration."""

    @property
    def runner_id(self) -> str:
        return self.capabilities.runner_id

    @property
    def accepts_runs(self) -> bool:
        return self.presence is Presence.REGISTERED

    def wake(self) -> None:
        """Make its held polls check again for something to report."""
        for poll in self.held_polls:
            poll.wake()

    @contextmanager
    def held_poll(self, registration: int | None = None) -> Iterator["WaitingPoll"]:
        """Yield a poll that `wake` wakes. `registration`: the number with which it was sent; None: without one."""
        poll = WaitingPoll(self, registration)
        self.held_polls.add(poll)
        self.poll_lost_s = None
        try:
            yield poll
        finally:
            self.held_polls.discard(poll)


class WaitingPoll:
    """A poll that is held."""

    def __init__(self, runner: Runner, registration: int | None) -> None:
        self.runner = runner
        self.registration = registration
        self.woken = asyncio.Event()
        self.woken_for: set[int] = set()
        """The classes of demands for which it was woken, and has not looked yet."""
        self.is_looking = False
        """Whether the database looks for a run for it."""

    def wake(self) -> None:
        """Make it check again for something to report."""
        self.woken.set()

    @property
    def is_awake(self) -> bool:
        return self.is_looking or bool(self.woken_for)

    @property
    def is_superseded(self) -> bool:
        """Whether its runner has registered again since, which another process may have done."""
        return self.registration not in (None, self.runner.registration)


class Registry:
    """All runners by id. `clock` returns seconds."""

    def __init__(self, timings: Timings, clock: Callable[[], float]) -> None:
        self._timings = timings
        self._clock = clock
        self._runners: dict[str, Runner] = {}
        self._awaited: dict[str, float] = {}
        """When runners counted as heard that an earlier process of the coordinator knew, and that have not registered
        since."""
        self._stops: dict[str, dict[str, None]] = {}
        self._claim_locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._served_nos = itertools.count()
        self._next_expiry_s = math.inf
        """No runner becomes stale or is removed before this time."""

    def __iter__(self) -> Iterator[Runner]:
        return iter(self._runners.values())

    def get(self, runner_id: str) -> Runner | None:
        return self._runners.get(runner_id)

    def claim_lock(self, runner_id: str) -> asyncio.Lock:
        """Return `Runner.claim_lock`, also of a runner that is not registered."""
        return self._claim_locks.setdefault(runner_id, asyncio.Lock())

    def wait_for(self, runner_ids: Iterable[str]) -> None:
        """Let these runners expire, unless they register, as if they had been heard now."""
        for runner_id in runner_ids:
            self._awaited[runner_id] = self._clock()
        self._next_expiry_s = self._earliest_expiry_s()

    def add(
        self, capabilities: Capabilities, executor: JsonObject, registration: int, over: int | None = None
    ) -> Runner:
        """Register a runner. A registration over a stale runner is a reconnection.

        `over`: the number that came with the call; None: it came without one.
        """
        runner_id = capabilities.runner_id
        self._awaited.pop(runner_id, None)
        runner = self._runners.get(runner_id)
        if runner is None:
            claim_lock = self.claim_lock(runner_id)
            runner = Runner(capabilities, executor, registration, next(self._served_nos), claim_lock)
            self._runners[runner_id] = runner
        runner.capabilities, runner.executor = capabilities, executor
        runner.registration, runner.registered_over = registration, over
        runner.is_stale, runner.presence, runner.has_untold_claim = False, Presence.REGISTERED, True
        runner.may_claim.clear()
        self.record_heartbeat(runner)
        self._next_expiry_s = min(self._next_expiry_s, self._expiry_s(runner))
        runner.wake()  # its superseded polls end
        return runner

    def record_served(self, runner: Runner) -> None:
        """Record that the runner gets a run, so that others come first."""
        runner.served_no = next(self._served_nos)

    def record_heartbeat(self, runner: Runner) -> None:
        runner.last_heartbeat_s, runner.last_heartbeat = self._clock(), utc_now()
        runner.poll_lost_s = None

    def record_lost_poll(self, runner: Runner) -> None:
        """Record that a poll's connection ended before the response: the runner's process may have ended."""
        runner.poll_lost_s = self._clock()

    def may_be_replaced(self, runner: Runner, over: int | None) -> bool:
        """Return whether a process may register under its identity: it is stale, appears to have ended, or is the same.

        `over`: the number that came with the call. The process may have lost the response to its latest registration.
        """
        if runner.is_stale or (over is not None and over in (runner.registration, runner.registered_over)):
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

    def expire(self) -> list[str]:
        """Mark stale runners, and remove and return those silent for `removed_after_s`, with those waited for."""
        expired: list[str] = []
        if self._clock() <= self._next_expiry_s:
            return expired
        for runner in list(self._runners.values()):
            silent_s = self.seconds_since_heartbeat(runner)
            if silent_s > self._timings.removed_after_s:
                self.remove(runner, Presence.EXPIRED)
                expired.append(runner.runner_id)
            elif silent_s > self._timings.stale_after_s:
                runner.is_stale = True
        for runner_id, heard_s in list(self._awaited.items()):
            if self._clock() - heard_s > self._timings.removed_after_s:
                del self._awaited[runner_id]
                self._stops.pop(runner_id, None)
                expired.append(runner_id)
        self._next_expiry_s = self._earliest_expiry_s()
        return expired

    def _earliest_expiry_s(self) -> float:
        registered = (self._expiry_s(runner) for runner in self._runners.values())
        awaited = (heard_s + self._timings.removed_after_s for heard_s in self._awaited.values())
        return min((*registered, *awaited), default=math.inf)

    def _expiry_s(self, runner: Runner) -> float:
        """Return when the runner becomes stale, or is removed, unless it sends a heartbeat before."""
        limit_s = self._timings.removed_after_s if runner.is_stale else self._timings.stale_after_s
        return runner.last_heartbeat_s + limit_s

    def queue_stop(self, runner_id: str, session_id: str) -> None:
        """Queue a stop for the runner's next poll, also if the runner is not registered at present."""
        self._stops.setdefault(runner_id, {})[session_id] = None
        if runner := self._runners.get(runner_id):
            runner.wake()
        else:
            absent = [each for each in self._stops if each not in self._runners]
            for each in absent[:-ABSENT_RUNNERS]:
                del self._stops[each]

    def take_stops(self, runner_id: str) -> list[str]:
        """Remove and return the sessions to stop."""
        return list(self._stops.pop(runner_id, ()))

    def wake_all(self) -> None:
        for runner in self._runners.values():
            runner.wake()
