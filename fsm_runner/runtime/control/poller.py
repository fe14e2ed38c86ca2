"""Polls the coordinator, and hands on what the polls deliver."""

import asyncio
import math
from collections.abc import Callable
from itertools import compress
from typing import NamedTuple

from loguru import logger

from fsm_runner.coordinator_client.api import Polled, UnreadableRun
from fsm_runner.coordinator_client.client import CoordinatorClient
from fsm_runner.coordinator_client.errors import CoordinatorError, Unreachable
from fsm_runner.coordinator_client.policy import POLL_HOLD_LIMIT_S, POLL_MARGIN_S, RUN_LOOKUP_INTERVAL_S, SHORT_POLL_S
from fsm_runner.machine.engine import Cause, Machine, Step
from fsm_runner.protocol import wire
from fsm_runner.runtime.actors.actor import Actor
from fsm_runner.runtime.actors.run_registry import RunRegistry
from fsm_runner.runtime.control.exit_rule import NEVER, ExitRule
from fsm_runner.runtime.control.heartbeat import Heartbeat, Post
from fsm_runner.runtime.control.reconciler import ReceiveDecisions, Reconciler, ignore_decisions
from fsm_runner.scripts.sync import ScriptSync
from fsm_runner.util.retry import Waits

LEAVING = "the runner is leaving"

PROXY_TIMEOUTS = frozenset({408, 504, 524})
"""The statuses with which a proxy reports that the server behind it has not answered in time."""

WARN_AT = 2
"""The number of consecutive cut polls at which the log warns. A proxy that restarts cuts a single one."""


class _FailedPoll(NamedTuple):
    fault: CoordinatorError
    held_s: float
    hold_s: float
    known_as: int
    """The client's count of registrations when the poll was sent."""

    @property
    def may_be_cut(self) -> bool:
        """True if a proxy may have cut this poll. Otherwise the coordinator is away."""
        status = self.fault.status if isinstance(self.fault, Unreachable) else None
        return self.fault.may_have_arrived and (self.held_s >= SHORT_POLL_S or status in PROXY_TIMEOUTS)


class _NoRecorder:
    """Records nothing: a busy runner polls hundreds of times a second, and no later process resumes a poller."""

    def record_transition(self, *_: object, **__: object) -> None: ...


class Poller(Actor):
    """Executes `specs/poller.toml`. It never waits for the runs, stops and scripts that a poll delivers."""

    def __init__(
        self,
        machine: Machine,
        client: CoordinatorClient,
        runs: RunRegistry,
        scripts: ScriptSync,
        heartbeat: Heartbeat,
        runner_has_tag: Callable[[str], bool],
        post: Post,
        poll_timeout_s: float,
        receive: ReceiveDecisions = ignore_decisions,
        exit_rule: ExitRule = NEVER,
        *,
        has_history: bool,
    ) -> None:
        """`has_history` says whether an earlier process of this runner has written to the journal.

        `runner_has_tag` returns whether the runner's state has a tag. It is called at each decision, so that no copy
        of the answer is kept.
        """
        self._limits: dict[str, float | None] = {
            # The calls limit themselves (coordinator_client/policy.py). To give up a poll would lose its run.
            "call_limit_s": None
        }
        """The time limits of the machine's states. Each step sets the others."""
        activities = {
            "await_change": self._await_change,
            "poll": self._poll,
            "probe": self._probe,
            "reconcile": self._reconcile,
            "look_up_stops": self._look_up_stops,
        }
        super().__init__("poller", machine, activities, self._limits, recorder=_NoRecorder())
        self._client = client
        self._runs = runs
        self._scripts = scripts
        self._heartbeat = heartbeat
        self._runner_has_tag = runner_has_tag
        self._post_to_runner = post
        self._poll_timeout_s = poll_timeout_s
        self._receive = receive
        self._registered: wire.Registered
        """Set when the machine leaves its initial state, before the first activity."""
        self._reconciler = Reconciler(client, runs, self._may_begin, receive, has_history=has_history)
        self._exit_rule = exit_rule
        self._registered_at_s = math.inf
        """When the coordinator accepted the runner for the first time, by the client's clock."""
        self._empty_poll_s = -math.inf
        """When a poll was last answered without a new run, by the client's clock."""
        self._may_have_lost_run = False
        """Whether a poll of this process broke, and the runs have not been reconciled since."""
        self._cut_polls = 0
        """The number of consecutive polls that a proxy has cut."""
        self._failed_poll: _FailedPoll | None = None
        """The last poll if a proxy may have cut it: what `polling` hands over to `probing`."""
        self._pause_s = 0.0
        """The pause that the last poll has made necessary; 0 as soon as it begins."""
        self._next_look_up_s = 0.0
        """By the client's clock. It outlasts the visits of a state: a full runner polls after each run that ends, so
        its look-ups would load the coordinator."""
        self._poll_waits = Waits(client.policies.poll)
        self._short_poll_waits = Waits(client.policies.short_poll)
        self.no_poll_held = asyncio.Event()
        """The absence of the tag `holds_poll`, for tasks that wait for it."""
        self.no_poll_held.set()
        self._defect: Exception | None = None

    def set_registration(self, registered: wire.Registered) -> None:
        """Use this registration from now on."""
        self._registered = registered
        self._registered_at_s = min(self._registered_at_s, self._client.now_s())
        # A poll that an earlier process held may still claim a run.
        self._reconciler.expect_loss(self._hold_s)
        self._poll_waits.reset()
        self.post("registered")
        self.reconsider()

    def reconsider(self) -> None:
        """Decide anew, because the runner's state has changed. A held poll continues."""
        self._runs.changed.set()

    async def live(self) -> None:
        """Poll until closed. Raises the exception that an activity raised as a defect."""
        await self.run()
        if self._defect is not None:
            raise self._defect

    def close(self) -> None:
        self.post("close_requested")

    def facts(self) -> frozenset[str]:
        may_begin = self._may_begin()
        facts = {
            "poll_may_be_cut": self._failed_poll is not None,
            "pause_is_due": self._pause_s > 0,
            "reconciliation_is_due": may_begin and self._reconciler.is_due,
            "may_claim": may_begin and not self._exit_reason(),
            "holds_runs": len(self._runs) > 0,
        }
        return frozenset(compress(facts, facts.values()))

    def on_step(self, step: Step, payload: object) -> None:
        holds_poll = self.has_tag("holds_poll")
        if holds_poll:
            self.no_poll_held.clear()
        else:
            self.no_poll_held.set()
        self._runs.set_poll_held(holds_poll)
        self._limits["pause_s"], self._pause_s = self._pause_s, 0.0
        self._limits["recheck_s"] = RUN_LOOKUP_INTERVAL_S if self._runner_has_tag("claims") else None
        self._limits["until_look_up_s"] = max(0.0, self._next_look_up_s - self._client.now_s())
        if not holds_poll and len(self._runs) == 0 and not self._may_have_lost_run and (reason := self._exit_reason()):
            self._post_to_runner("drain_requested", reason)
        if step.cause is Cause.ERROR:
            self._defect = payload if isinstance(payload, Exception) else RuntimeError(repr(payload))

    async def _await_change(self) -> None:
        await self._runs.changed.wait()
        # Cleared before the choice that follows: a change after this ends the next wait at once.
        self._runs.changed.clear()

    async def _reconcile(self) -> None:
        await self._reconciler.reconcile(self._registered.runner_id)
        self._may_have_lost_run = self._may_have_lost_run and self._reconciler.expects_loss

    async def _look_up_stops(self) -> None:
        self._next_look_up_s = self._client.now_s() + RUN_LOOKUP_INTERVAL_S
        await self._reconciler.look_up_stops(self._registered.runner_id)

    async def _poll(self) -> None:
        runner_id, hold_s = self._registered.runner_id, self._hold_s
        known_as, began_s = self._client.registrations, self._client.now_s()
        try:
            polled = await self._client.api.poll(runner_id, hold_s)
        except CoordinatorError as fault:
            # The coordinator may still hold the poll, and deliver a run or a stop to a closed connection.
            self._reconciler.expect_loss(hold_s if fault.may_have_arrived else 0.0)
            self._may_have_lost_run = self._may_have_lost_run or fault.may_have_arrived
            failed = _FailedPoll(fault, self._client.now_s() - began_s, hold_s, known_as)
            if failed.may_be_cut:
                self._failed_poll = failed
            else:
                self._back_off(failed)
            return
        is_new_run = self._hand_on(polled, runner_id)
        if not is_new_run:
            self._empty_poll_s = self._client.now_s()
        self._client.note_response()
        self._post_to_runner("coordinator_answered", "poll")
        self._poll_waits.reset()
        self._cut_polls = 0
        if is_new_run or self._client.now_s() - began_s >= SHORT_POLL_S:
            self._short_poll_waits.reset()
        else:
            # A coordinator that answers at once and delivers nothing new is not polled again at once.
            self._pause_s = self._short_poll_waits.next_s()

    async def _probe(self) -> None:
        failed, self._failed_poll = self._failed_poll, None
        if failed is None:
            return
        if not await self._heartbeat.send():
            self._back_off(failed)
            return
        self._cut_polls += failed.held_s < failed.hold_s
        if self._cut_polls == WARN_AT:
            logger.warning(
                "polls are cut after {:.1f} s, while the coordinator answers heartbeats: a proxy in front of it has a "
                "time-out that is shorter than a poll, which may take {:g} s; raise that time-out above {:g} s. Until "
                "then runs may start late, and a stop of an idle session may be lost ({})",
                failed.held_s,
                failed.hold_s,
                failed.hold_s + POLL_MARGIN_S,
                failed.fault,
            )
        if failed.held_s < SHORT_POLL_S:
            self._pause_s = self._poll_waits.next_s()

    def _back_off(self, failed: _FailedPoll) -> None:
        self._heartbeat.report_fault("poll", failed.fault, failed.known_as)
        self._pause_s = self._poll_waits.next_s()

    @property
    def _hold_s(self) -> float:
        return min(POLL_HOLD_LIMIT_S, max(self._poll_timeout_s, self._registered.poll_timeout_seconds))

    def _hand_on(self, polled: Polled, runner_id: str) -> bool:
        """Hand on what a poll has delivered. Return whether that is a new run."""
        has_started = False
        if isinstance(polled.run, UnreadableRun):
            self._runs.fail_unreadable(polled.run, runner_id)
        elif polled.run is not None:
            has_started = self._runs.start(polled.run, runner_id)
            if has_started and self._runner_has_tag("leaving"):
                self._runs.stop_run(polled.run.run_id, LEAVING)
        for session_id in polled.stop_sessions:
            self._reconciler.stop_session(session_id)
        self._receive(polled.approvals)
        self._scripts.sync(polled.sync_scripts)
        self._scripts.remove(polled.remove_scripts)
        if polled.deregistered:
            self._post_to_runner("drain_requested", "the coordinator has deregistered this runner")
        return has_started

    def _may_begin(self) -> bool:
        """Return whether another run may begin, such as one whose claim no poll has delivered."""
        return self._runner_has_tag("claims") and not self._runs.full

    def _exit_reason(self) -> str:
        """Return why the runner polls no more; empty if it does."""
        idle_s = self._empty_poll_s - max(self._registered_at_s, self._runs.idle_since_s)
        return self._exit_rule.reason(self._runs.begun_count, 0.0 if self._may_have_lost_run else idle_s)
