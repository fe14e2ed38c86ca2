"""The runner's line to the coordinator: one held poll, a heartbeat, and what either brings."""

import asyncio
import contextlib
from collections.abc import Callable

import msgspec
from loguru import logger

from fsm_runner.coordinator_client.api import Polled, UnreadableRun
from fsm_runner.coordinator_client.client import CoordinatorClient
from fsm_runner.coordinator_client.errors import CoordinatorError, NotRegistered
from fsm_runner.coordinator_client.policy import (
    HEARTBEAT_MIN_S,
    POLL_HOLD_LIMIT_S,
    RUN_LOOKUP_INTERVAL_S,
    SHORT_POLL_S,
    STALE_AFTER_S,
)
from fsm_runner.protocol import wire
from fsm_runner.runtime.actors.run_registry import RunRegistry
from fsm_runner.runtime.control.cut_polls import CutPolls
from fsm_runner.runtime.control.lost_claims import LostClaims
from fsm_runner.runtime.control.reconciliation import ReconciliationWindow
from fsm_runner.scripts.sync import ScriptSync
from fsm_runner.util.retry import Waits

ASKED_FOR = "the coordinator asks for it"

Post = Callable[[str, object], None]
"""Hands the runner an event and its reason."""


class LinkTimes(msgspec.Struct, frozen=True, kw_only=True):
    """The runner's own wishes. The coordinator's stand as well: it is polled no shorter and beaten no slower."""

    poll_timeout_s: float
    heartbeat_interval_s: float


class Poller:
    """Polls while runs are wanted and there is room, and never waits for what it has handed on."""

    def __init__(
        self,
        client: CoordinatorClient,
        runs: RunRegistry,
        scripts: ScriptSync,
        post: Post,
        times: LinkTimes,
        *,
        has_history: bool,
    ) -> None:
        """`has_history`: the journal is one that an earlier process of this runner has written to."""
        self._client = client
        self._times = times
        self._runs = runs
        self._scripts = scripts
        self._post = post
        self._registered: wire.Registered | None = None
        self._claiming = False
        self._leaving = False
        self._doubt = ReconciliationWindow()
        self._lost_claims = LostClaims(client.api, runs, has_history=has_history)
        self._unclear_stops: set[str] = set()
        """Sessions to stop of which several runs are held."""
        self._last_beat = 0.0
        """By the client's clock: the coordinator's time goes on while this process is stopped."""
        self._cut_polls = CutPolls()
        self._next_look_up_s = 0.0
        """While no poll is held."""
        self._poll_waits = Waits(client.policies.poll)
        self._short_poll_waits = Waits(client.policies.short_poll)
        self._beat_waits = Waits(client.policies.heartbeat)
        self._has_registration = asyncio.Event()
        self._registered_anew = asyncio.Event()
        self._no_poll_held = asyncio.Event()
        self._no_poll_held.set()

    def set_registration(self, registered: wire.Registered) -> None:
        """The runner's id and the coordinator's wishes, from now on."""
        self._registered = registered
        # A poll that an earlier process held may still claim a run.
        self._doubt.begin(_now(), self._hold_s(registered))
        self._last_beat = self._client.now_s()
        self._poll_waits.reset()
        self._has_registration.set()
        self._registered_anew.set()
        self._runs.changed.set()

    def set_course(self, *, claiming: bool, leaving: bool) -> None:
        """Whether runs are wanted, and whether one that comes all the same is stopped.

        A poll that is held already is heard out in any case.
        """
        self._claiming = claiming
        self._leaving = leaving
        self._runs.changed.set()

    async def wait_for_registration(self) -> None:
        await self._has_registration.wait()

    async def poll_heard_out(self) -> None:
        """Return when no poll is held any more."""
        await self._no_poll_held.wait()

    async def poll_forever(self) -> None:
        while True:
            self._runs.changed.clear()
            if self._registered is None:
                await self._runs.changed.wait()
            elif self._claiming and not self._runs.full:
                if self._doubt.is_due(_now()):
                    await self._look_up(self._registered.runner_id)  # which may fill the runner
                else:
                    await self._poll(self._registered)
            elif len(self._runs) > 0:
                if _now() >= self._next_look_up_s:
                    self._next_look_up_s = _now() + RUN_LOOKUP_INTERVAL_S
                    await self._look_up(self._registered.runner_id)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout_at(self._next_look_up_s):
                        await self._runs.changed.wait()
            else:
                # Descriptors may be freed, or be short for good, without a change among the runs.
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(RUN_LOOKUP_INTERVAL_S if self._claiming else None):
                        await self._runs.changed.wait()

    async def beat_forever(self) -> None:
        while True:
            await self._has_registration.wait()
            if self._registered is not None:
                await asyncio.sleep(self._heartbeat_interval_s(self._registered))
                if not await self._beat(self._registered.runner_id):
                    await asyncio.sleep(self._beat_waits.next_s())

    async def is_answered(self) -> bool:
        """Send a heartbeat now. False where the coordinator does not answer, or has never registered this runner."""
        return self._registered is not None and await self._beat(self._registered.runner_id)

    async def _poll(self, registered: wire.Registered) -> None:
        """One poll, and a wait where the next one would come too soon."""
        known_as = self._client.registrations
        began_s = self._client.now_s()
        failure: CoordinatorError | None = None
        self._no_poll_held.clear()
        try:
            polled = await self._client.api.poll(registered.runner_id, self._hold_s(registered))
            has_started = self._take(polled, registered.runner_id)
        except CoordinatorError as fault:
            # The coordinator may hold it on, and give away a run or a stop to nobody.
            self._doubt.begin(_now(), self._hold_s(registered) if fault.may_have_arrived else 0.0)
            failure = fault
        else:
            self._client.note_response()
            self._post("coordinator_answered", "poll")
            self._poll_waits.reset()
            self._cut_polls.reset()
            wait_s = self._wait_after_answer_s(has_started or self._client.now_s() - began_s >= SHORT_POLL_S)
        finally:
            self._no_poll_held.set()
        if failure is not None:
            wait_s = await self._wait_after_failure_s(registered, failure, self._client.now_s() - began_s, known_as)
        if wait_s > 0:
            await self._pause(wait_s)

    async def _wait_after_failure_s(
        self, registered: wire.Registered, fault: CoordinatorError, held_s: float, known_as: int
    ) -> float:
        """Where a proxy may have cut the poll, a heartbeat shows whether the coordinator is away."""
        if self._cut_polls.may_be(fault, held_s) and await self._beat(registered.runner_id):
            self._cut_polls.note(fault, held_s, self._hold_s(registered))
            if held_s >= SHORT_POLL_S:
                return 0.0
        else:
            self._post_fault("poll", fault, known_as)
        return self._poll_waits.next_s()

    async def _pause(self, wait_s: float) -> None:
        """Cut short by a registration: the coordinator is back."""
        self._registered_anew.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                await self._registered_anew.wait()

    def _wait_after_answer_s(self, was_due: bool) -> float:
        """A coordinator that repeats itself at once is not asked again at once."""
        if was_due:
            self._short_poll_waits.reset()
            return 0.0
        return self._short_poll_waits.next_s()

    def _hold_s(self, registered: wire.Registered) -> float:
        return min(POLL_HOLD_LIMIT_S, max(self._times.poll_timeout_s, registered.poll_timeout_seconds))

    def _heartbeat_interval_s(self, registered: wire.Registered) -> float:
        return max(HEARTBEAT_MIN_S, min(self._times.heartbeat_interval_s, registered.heartbeat_interval_seconds))

    def _take(self, polled: Polled, runner_id: str) -> bool:
        """Hand on what a poll has brought; whether that was a run that is new."""
        has_started = False
        if isinstance(polled.run, UnreadableRun):
            self._runs.fail_unreadable(polled.run, runner_id)
        elif polled.run is not None:
            has_started = self._runs.start(polled.run, runner_id)
            if has_started and self._leaving:
                self._runs.stop_run(polled.run.run_id, "the runner is leaving")
        for session_id in polled.stop_sessions:
            self._stop_session(session_id)
        self._scripts.sync(polled.sync_scripts)
        self._scripts.remove(polled.remove_scripts)
        if polled.deregistered:
            self._post("drain_requested", "the coordinator has deregistered this runner")
        return has_started

    def _stop_session(self, session_id: str) -> None:
        """A stop names a session. Which of several runs it is about, such as one that was refused while another is at
        work, is in the coordinator's list of runs."""
        if self._runs.count_of_session(session_id) > 1:
            self._unclear_stops.add(session_id)
            self._doubt.begin(_now())
        else:
            self._runs.stop_session(session_id, ASKED_FOR)

    async def _look_up(self, runner_id: str) -> None:
        """What a lost answer has carried is in the coordinator's list of runs: runs and stops, each told once by a poll
        (section 1.1)."""
        began = _now()
        is_complete, has_room = False, self._has_room()
        try:
            if self._doubt.exists and has_room:
                await self._lost_claims.fail_forgotten(runner_id)
                is_complete = await self._lost_claims.take_up(runner_id, self._has_room)
                has_room = is_complete or self._has_room()
            await self._look_up_stops(runner_id)
        except CoordinatorError as fault:
            logger.debug("runs could not be looked up: {}", fault)
            self._doubt.put_off(_now())
            return
        if has_room and not self._runs.at_hard_limit:
            if is_complete:
                self._doubt.settle(began)
            # From its end: however long a look-up takes, a poll has its turn before the next one.
            self._doubt.put_off(_now())

    def _has_room(self) -> bool:
        return self._claiming and not self._runs.full

    async def _look_up_stops(self, runner_id: str) -> None:
        requests = [each for each in await self._client.api.stop_requests() if each.runner_id == runner_id]
        for request in requests:
            try:
                run_id = msgspec.convert(request.run_id, wire.Identifier)
            except (msgspec.ValidationError, RecursionError):
                continue  # what has no name cannot be told
            if self._runs.is_active(run_id):
                self._runs.stop_run(run_id, ASKED_FOR)
            elif not self._runs.at_hard_limit and not self._runs.resend_final_report(run_id):
                self._runs.report_stopped(run_id, runner_id)
        for session_id in self._unclear_stops.difference(request.session_id for request in requests):
            self._runs.stop_session(session_id, ASKED_FOR)
        self._unclear_stops.clear()

    async def _beat(self, runner_id: str) -> bool:
        """Whether the coordinator has answered, be it that it does not know this runner."""
        known_as = self._client.registrations
        try:
            await self._client.api.heartbeat(runner_id)
        except CoordinatorError as fault:
            self._post_fault("heartbeat", fault, known_as)
            return isinstance(fault, NotRegistered)
        self._client.note_response()
        self._beat_waits.reset()
        silent_s = self._client.now_s() - self._last_beat
        self._last_beat = self._client.now_s()
        if silent_s > STALE_AFTER_S:
            self._post("registration_lost", f"no heartbeat for {silent_s:.0f} s, so the runner counts as stale")
        else:
            self._post("coordinator_answered", "heartbeat")
        return True

    def _post_fault(self, call: str, fault: CoordinatorError, known_as: int) -> None:
        """`known_as`: the registration under which the call was sent."""
        logger.debug("{}: {}", call, fault)
        if not isinstance(fault, NotRegistered):
            self._client.on_away()
            self._post("coordinator_lost", fault)
        elif known_as == self._client.registrations:
            self._post("registration_lost", fault)


def _now() -> float:
    return asyncio.get_running_loop().time()
