"""Polls the coordinator, and hands on what the polls deliver."""

import asyncio
import contextlib
from typing import Protocol

from fsm_runner.coordinator_client.api import Polled, UnreadableRun
from fsm_runner.coordinator_client.client import CoordinatorClient
from fsm_runner.coordinator_client.errors import CoordinatorError
from fsm_runner.coordinator_client.policy import POLL_HOLD_LIMIT_S, RUN_LOOKUP_INTERVAL_S, SHORT_POLL_S
from fsm_runner.protocol import wire
from fsm_runner.runtime.actors.run_registry import RunRegistry
from fsm_runner.runtime.control.cut_polls import CutPolls
from fsm_runner.runtime.control.heartbeat import Heartbeat, Post
from fsm_runner.runtime.control.reconciler import Reconciler
from fsm_runner.scripts.sync import ScriptSync
from fsm_runner.util.retry import Waits

LEAVING = "the runner is leaving"


class Course(Protocol):
    """What the runner wants at the moment. It is read at each decision and not copied."""

    @property
    def claims_runs(self) -> bool:
        """Whether the runner claims further runs."""

    @property
    def is_leaving(self) -> bool:
        """Whether a run that arrives nevertheless is stopped."""


class Poller:
    """Polls while the runner claims runs and has room for one, and never waits for what it has handed on.

    A poll is never given up before its end, because the coordinator would continue it and might lose a run.
    """

    def __init__(
        self,
        client: CoordinatorClient,
        runs: RunRegistry,
        scripts: ScriptSync,
        heartbeat: Heartbeat,
        course: Course,
        post: Post,
        poll_timeout_s: float,
        *,
        has_history: bool,
    ) -> None:
        """`has_history` says whether an earlier process of this runner has written to the journal."""
        self._client = client
        self._runs = runs
        self._scripts = scripts
        self._heartbeat = heartbeat
        self._course = course
        self._post = post
        self._poll_timeout_s = poll_timeout_s
        self._registered: wire.Registered | None = None
        self._reconciler = Reconciler(client.api, runs, self._may_claim, has_history=has_history)
        self._cut_polls = CutPolls()
        self._next_look_up_s = 0.0
        """While no poll is held."""
        self._poll_waits = Waits(client.policies.poll)
        self._short_poll_waits = Waits(client.policies.short_poll)
        self._registered_anew = asyncio.Event()
        self._no_poll_held = asyncio.Event()
        self._no_poll_held.set()

    def set_registration(self, registered: wire.Registered) -> None:
        """Use this registration from now on."""
        self._registered = registered
        # A poll that an earlier process held may still claim a run.
        self._reconciler.expect_loss(self._hold_s(registered))
        self._poll_waits.reset()
        self._registered_anew.set()
        self._runs.changed.set()

    def reconsider(self) -> None:
        """Decide anew, because the course has changed. A held poll continues."""
        self._runs.changed.set()

    async def wait_until_not_polling(self) -> None:
        await self._no_poll_held.wait()

    async def run(self) -> None:
        while True:
            self._runs.changed.clear()
            if self._registered is None:
                await self._runs.changed.wait()
            elif self._may_claim():
                if self._reconciler.is_due:
                    await self._reconciler.reconcile(self._registered.runner_id)  # which may fill the runner
                else:
                    await self._poll(self._registered)
            elif len(self._runs) > 0:
                if _now() >= self._next_look_up_s:
                    self._next_look_up_s = _now() + RUN_LOOKUP_INTERVAL_S
                    await self._reconciler.look_up_stops(self._registered.runner_id)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout_at(self._next_look_up_s):
                        await self._runs.changed.wait()
            else:
                # Descriptors may be freed, or be short for good, without a change among the runs.
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(RUN_LOOKUP_INTERVAL_S if self._course.claims_runs else None):
                        await self._runs.changed.wait()

    async def _poll(self, registered: wire.Registered) -> None:
        """Poll once, and wait if the next poll would come too soon."""
        known_as = self._client.registrations
        began_s = self._client.now_s()
        failure: CoordinatorError | None = None
        self._no_poll_held.clear()
        try:
            polled = await self._client.api.poll(registered.runner_id, self._hold_s(registered))
            has_started = self._hand_on(polled, registered.runner_id)
        except CoordinatorError as fault:
            # The coordinator may still hold the poll, and deliver a run or a stop to a closed connection.
            self._reconciler.expect_loss(self._hold_s(registered) if fault.may_have_arrived else 0.0)
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
        """If a proxy may have cut the poll, a heartbeat shows whether the coordinator is away."""
        if self._cut_polls.may_be_cut(fault, held_s) and await self._heartbeat.send():
            self._cut_polls.note(fault, held_s, self._hold_s(registered))
            if held_s >= SHORT_POLL_S:
                return 0.0
        else:
            self._heartbeat.report_fault("poll", fault, known_as)
        return self._poll_waits.next_s()

    async def _pause(self, wait_s: float) -> None:
        """A registration ends the wait: the coordinator is back."""
        self._registered_anew.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                await self._registered_anew.wait()

    def _wait_after_answer_s(self, was_due: bool) -> float:
        """A coordinator that answers at once and brings nothing is not polled again at once."""
        if was_due:
            self._short_poll_waits.reset()
            return 0.0
        return self._short_poll_waits.next_s()

    def _hold_s(self, registered: wire.Registered) -> float:
        return min(POLL_HOLD_LIMIT_S, max(self._poll_timeout_s, registered.poll_timeout_seconds))

    def _hand_on(self, polled: Polled, runner_id: str) -> bool:
        """Hand on what a poll has delivered. Return whether that is a new run."""
        has_started = False
        if isinstance(polled.run, UnreadableRun):
            self._runs.fail_unreadable(polled.run, runner_id)
        elif polled.run is not None:
            has_started = self._runs.start(polled.run, runner_id)
            if has_started and self._course.is_leaving:
                self._runs.stop_run(polled.run.run_id, LEAVING)
        for session_id in polled.stop_sessions:
            self._reconciler.stop_session(session_id)
        self._scripts.sync(polled.sync_scripts)
        self._scripts.remove(polled.remove_scripts)
        if polled.deregistered:
            self._post("drain_requested", "the coordinator has deregistered this runner")
        return has_started

    def _may_claim(self) -> bool:
        return self._course.claims_runs and not self._runs.full


def _now() -> float:
    return asyncio.get_running_loop().time()
