"""Decides how long a run waits for a limit of its provider, and which run continues first.

A limit of the credential concerns all runs of the runner, because a profile has one credential. While it is reached, no
run starts. After the reset one run, the tester, goes first. The others follow when the provider has answered it.
"""

import asyncio
import random
import time
from collections.abc import Callable
from datetime import UTC, datetime

import msgspec

from fsm_runner.config.provider_limits import ProviderLimitPolicy
from fsm_runner.reporting.provider_limit import ProviderLimit
from fsm_runner.util.wall_clock import sleep_until

UNKNOWN_RESET_BASE_S = 5.0
"""The first wait for a limit whose reset is unknown or has passed. Each further one is twice as long."""
UNKNOWN_RESET_CAP_S = 3_600.0
JITTER_CAP_S = 30.0
"""The longest random delay after a reset, so that the runners of one credential do not all continue at once."""
JITTER_SHARE = 0.1
"""The longest random delay, as a share of the wait."""
LONGEST_HOLD_S = ProviderLimitPolicy().max_wait_s
"""A runner that does not wait for limits tests one after this time at the latest."""
CALENDAR_END_S = 253_402_300_799.0
"""9999-12-31 23:59:59 UTC."""

Admission = asyncio.Future[None]


class LimitWait(msgspec.Struct, frozen=True, kw_only=True):
    """A run's wait for a limit. The journal keeps it as JSON. Times are Unix times in seconds."""

    limit: ProviderLimit
    since_s: float
    due_s: float
    """The time of the reset, or of the next attempt if it is unknown."""
    number: int
    """The number of the run's wait; the first one is 1. 0: the run has not met the limit itself."""
    executed_s: float = 0.0
    """How long the run has executed so far, which counts towards its time limit."""
    has_begun: bool = False
    """Whether the run has executed."""
    continues: bool = False
    """Whether the executor has taken the run's prompt, so that its session continues. Otherwise it begins again."""

    def __str__(self) -> str:
        return f"{self.limit}; next attempt at {_time_text(self.due_s)}"


class NotWaitedFor(msgspec.Struct, frozen=True):
    """The reason for which a run fails instead of waiting."""

    reason: str


class ProviderLimits:
    """The limit of the runner's credential, and the runs that wait for any limit.

    `free_slots` returns how many more runs may execute. `on_change` is called when runs may start or continue that
    could not before; it calls `admit`. `on_reached` and `on_passed` report the limit of the credential.
    """

    def __init__(
        self,
        policy: ProviderLimitPolicy,
        free_slots: Callable[[], float],
        on_change: Callable[[], None],
        on_reached: Callable[[str], None],
        on_passed: Callable[[], None],
        now_s: Callable[[], float] = time.time,
    ) -> None:
        """`now_s` is the wall clock."""
        self.policy = policy
        self.limit: ProviderLimit | None = None
        """The limit of the credential; None if it is not reached."""
        self.waiting: dict[str, str] = {}
        """The runs that hold no slot, with their sessions."""
        self._free_slots = free_slots
        self._on_change = on_change
        self._on_reached = on_reached
        self._on_passed = on_passed
        self._now_s = now_s
        self._due_s = 0.0
        self._failed_tests = 0
        self._is_testing = False
        """A copy of the tag `tests_limit` of the runner's state."""
        self._tester: str | None = None
        self._queue: dict[str, Admission] = {}
        """The runs that wait for the credential or for a slot, the longest wait first."""
        self._admitted: set[str] = set()
        """The runs of `waiting` that may continue, and have not yet."""
        self._is_closed = False

    @property
    def admitted_count(self) -> int:
        return len(self._admitted)

    @property
    def queued_count(self) -> int:
        """The number of runs that wait for the credential or for a slot."""
        return len(self._queue)

    @property
    def holds_new_runs(self) -> bool:
        """Whether no run may be claimed now."""
        return self.limit is not None and not (self._is_testing and self._tester is None)

    @property
    def due_text(self) -> str | None:
        """The time of the reset for people; None if the credential has no limit now, or the time has passed."""
        is_ahead = self.limit is not None and self._due_s > self._now_s()
        return _time_text(self._due_s) if is_ahead else None

    def holds_back(self, run_id: str) -> bool:
        """Return whether a run may not start now."""
        return self.limit is not None and self._tester != run_id

    def waiting_run_of(self, session_id: str) -> str | None:
        """Return the run of the session that waits; None if there is none."""
        return next((run_id for run_id, its_session in self.waiting.items() if its_session == session_id), None)

    def claimed(self, run_id: str) -> None:
        """A new run was claimed. It is the tester, if one is needed."""
        if self._is_testing and self._tester is None and self.limit is not None:
            self._tester = run_id

    def reached(self, limit: ProviderLimit, run_id: str) -> None:
        """A run has met a limit."""
        if not limit.is_of_credential:
            return
        if self._tester == run_id:
            self._failed_tests += 1
            self._due_s = 0.0  # The clock may have been set back since then.
        # An answer to the tester would be older than this limit. The runner's state changes only later, and until then
        # no other run may become the tester.
        self._tester, self._is_testing = None, False
        longest_s = self.policy.max_wait_s or LONGEST_HOLD_S
        self._hold(limit, self._now_s() + _with_jitter(min(self._wait_s(limit, self._failed_tests), longest_s)))

    def restore(self, wait: LimitWait) -> None:
        """Take over the wait of a run of an earlier runner process."""
        if wait.limit.is_of_credential:
            self._hold(wait.limit, wait.due_s)

    def end_test(self) -> None:
        """Assume that the limit is over, because the tester has met none for long, if there is a tester."""
        if self._tester is not None:
            self.passed(self._tester)

    def passed(self, run_id: str) -> None:
        """The provider has answered a run."""
        if self._tester != run_id:
            return
        self.limit, self._tester, self._is_testing, self._failed_tests = None, None, False, 0
        self._on_passed()
        self._on_change()

    def parked(self, run_id: str, session_id: str) -> None:
        """A run begins to wait, and holds no slot."""
        self.waiting[run_id] = session_id
        self._admitted.discard(run_id)  # Its state was entered again, so the admission comes too late.
        if self._tester == run_id:
            self._tester = None  # It has met a limit of its session, which says nothing about the credential.
        self._on_change()

    def unparked(self, run_id: str) -> None:
        """A run waits no longer."""
        self.waiting.pop(run_id, None)
        self._admitted.discard(run_id)

    def ended(self, run_id: str) -> None:
        """A run uses the credential no longer."""
        self.unparked(run_id)
        if self._tester == run_id:
            self._tester = None
            self._on_change()

    def set_testing(self, is_testing: bool) -> None:
        """Follow the tag `tests_limit` of the runner's state."""
        if is_testing != self._is_testing:
            self._is_testing = is_testing
            self._on_change()

    def close(self) -> None:
        """Let no further run continue, because the runner leaves."""
        self._is_closed = True

    def plan(self, limit: ProviderLimit, number: int) -> LimitWait | NotWaitedFor:
        """Return how long a run waits. `number` is that of its wait; the first one is 1."""
        wait_s, policy = self._wait_s(limit, number - 1), self.policy
        if policy.max_wait_s == 0:
            return NotWaitedFor("the runner does not wait for limits (--limit-wait 0, LIMIT_WAIT=0)")
        if number > policy.max_waits:
            times = "1 time" if policy.max_waits == 1 else f"{policy.max_waits} times"
            return NotWaitedFor(f"a run waits {times} at most (max_waits)")
        if wait_s > policy.max_wait_s:
            return NotWaitedFor(f"the runner waits {policy.max_wait_s:g} s at most (--limit-wait, LIMIT_WAIT)")
        now_s = self._now_s()
        is_held = limit.is_of_credential and self.limit is not None
        due_s = self._due_s if is_held else now_s + _with_jitter(wait_s)
        return LimitWait(limit=limit, since_s=now_s, due_s=due_s, number=number)

    def hold_back(self, number: int) -> LimitWait:
        """Return the wait of a run that may not start now. `number`: how often it has waited itself."""
        limit = self.limit or ProviderLimit(kind="unknown")
        return LimitWait(limit=limit, since_s=self._now_s(), due_s=self._due_s, number=number)

    def is_over(self, wait: LimitWait) -> bool:
        """Return whether the limit of a wait has reset, so that its run waits only for a slot."""
        return self.limit is None and (wait.limit.is_of_credential or wait.due_s <= self._now_s())

    def left_s(self, wait: LimitWait) -> float | None:
        """Return how much longer a run may wait for its limit, in seconds; None if the limit has reset."""
        if self.policy.max_wait_s == 0:
            return 0.0
        if self.is_over(wait):
            return None
        # A runner that was down for longer than the wait continues the run nevertheless.
        return max(0.0, wait.since_s + self.policy.max_wait_s - self._now_s()) + JITTER_CAP_S

    async def wait_for_reset(self) -> None:
        """Return when the limit of the credential should have reset."""
        await sleep_until(lambda: self._due_s, self._now_s)

    async def wait_for_admission(self, run_id: str, wait: LimitWait) -> None:
        """Return when a waiting run may continue: its limit has reset, and it has a slot."""
        if not wait.limit.is_of_credential:
            await sleep_until(lambda: wait.due_s, self._now_s)
        await self.wait_for_slot(run_id)

    async def wait_for_slot(self, run_id: str) -> None:
        """Return when a parked run may continue: it has a slot, and the credential has no limit."""
        self._admitted.discard(run_id)
        admission = self._queue[run_id] = asyncio.get_running_loop().create_future()
        try:
            self._on_change()
            await admission
        finally:
            self._queue.pop(run_id, None)

    def admit(self) -> None:
        """Let the runs continue that may, in the order of their waits."""
        while self._queue and not (self._is_closed or self.holds_new_runs) and self._free_slots() > 0:
            run_id = next(iter(self._queue))
            admission = self._queue.pop(run_id)
            if admission.done():
                continue  # The run no longer waits.
            admission.set_result(None)
            self._admitted.add(run_id)
            if self.limit is not None:
                self._tester = run_id

    def _hold(self, limit: ProviderLimit, due_s: float) -> None:
        if self.limit is None or due_s > self._due_s:
            self.limit, self._due_s = limit, due_s
        self._on_reached(f"{self.limit}; next attempt at {_time_text(self._due_s)}")

    def _wait_s(self, limit: ProviderLimit, attempts: int) -> float:
        now_s, reset_s = self._now_s(), limit.resets_at_s
        if reset_s is not None and reset_s > now_s:
            return reset_s - now_s
        return min(UNKNOWN_RESET_CAP_S, UNKNOWN_RESET_BASE_S * 2.0 ** min(attempts, 20))


def _with_jitter(wait_s: float) -> float:
    return wait_s + random.uniform(0, min(JITTER_CAP_S, wait_s * JITTER_SHARE))  # noqa: S311 - no secret


def _time_text(unix_s: float) -> str:
    return f"{datetime.fromtimestamp(min(unix_s, CALENDAR_END_S), UTC):%Y-%m-%d %H:%M:%S} UTC"
