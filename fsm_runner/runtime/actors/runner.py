"""The runner itself, which executes `specs/runner.toml`."""

import asyncio
from collections.abc import Coroutine
from http import HTTPStatus
from itertools import compress
from typing import Any

import msgspec
from loguru import logger

from fsm_runner.coordinator_client.client import CoordinatorClient
from fsm_runner.coordinator_client.errors import RegistrationSuperseded
from fsm_runner.errors import FsmRunnerError
from fsm_runner.journal.journal import Journal
from fsm_runner.machine.engine import Cause, Machine, Step
from fsm_runner.protocol import wire
from fsm_runner.runtime.actors.actor import Actor, Inbox, Settings
from fsm_runner.runtime.actors.run_registry import RunRegistry
from fsm_runner.runtime.control.exit_rule import NEVER, ExitRule
from fsm_runner.runtime.control.heartbeat import Heartbeat
from fsm_runner.runtime.control.outage import OutageTimer
from fsm_runner.runtime.control.poller import LEAVING, Poller
from fsm_runner.runtime.control.reconciler import ReceiveDecisions, ignore_decisions
from fsm_runner.runtime.control.registration import Registrar
from fsm_runner.runtime.recovery import Recovery
from fsm_runner.scripts.sync import ScriptSync

REGISTRATION_LIMIT_S = 0.5
"""The time for which a leaving runner waits for a registration in progress, because it has to undo it."""

SILENCE_LIMIT_S = 3.0
"""A runner that leaves waits for its last reports. If the journal keeps them and the coordinator has answered nothing
for this long, the next process of the runner sends them."""

SILENCE_CHECK_INTERVAL_S = 0.25
"""The time between two checks whether the coordinator has been silent for `SILENCE_LIMIT_S`."""


class PollTimes(msgspec.Struct, frozen=True, kw_only=True):
    """The runner's own times. The registration names others: of the two, polls take the longer hold time, and
    heartbeats the shorter interval."""

    poll_timeout_s: float
    heartbeat_interval_s: float


class _NotDeregistered(FsmRunnerError):
    """The runner leaves without deregistering."""


class RunnerActor(Actor):
    """One runner, from its start to its departure.

    It owns the poll, the heartbeat, the outage timer and the registration while it lives. `runs` and `scripts` are
    its caller's to close.
    """

    def __init__(
        self,
        machine: Machine,
        poller_machine: Machine,
        client: CoordinatorClient,
        registration: wire.Registration,
        runs: RunRegistry,
        scripts: ScriptSync,
        settings: Settings,
        times: PollTimes,
        recovery: Recovery,
        journal: Journal,
        outage: OutageTimer,
        inbox: Inbox,
        receive_decisions: ReceiveDecisions = ignore_decisions,
        exit_rule: ExitRule = NEVER,
    ) -> None:
        """`inbox` receives what `client`, `runs`, `journal` and `outage` report: see `app/build.py`."""
        self._heartbeat = Heartbeat(client, self.post, times.heartbeat_interval_s)
        self._poller = Poller(
            poller_machine,
            client,
            runs,
            scripts,
            self._heartbeat,
            self.has_tag,
            self.post,
            times.poll_timeout_s,
            receive_decisions,
            exit_rule,
            has_history=bool(journal.earlier_processes),
        )
        self._registrar = Registrar(client, registration, self._use_registration)
        super().__init__(
            "runner",
            machine,
            {
                "recover": recovery.carry_out,
                "register": self._registrar.register,
                "await_reset": runs.limits.wait_for_reset,
                "await_runs": self._await_runs,
                "stop_runs": self._stop_runs,
                "flush_reports": self._flush_reports,
                "deregister": self._deregister,
                "await_last_poll": self._poller.no_poll_held.wait,
                "settle_late_run": self._settle_late_run,
                "abandon_runs": self._abandon_runs,
            },
            settings,
            recorder=journal,
            inbox=inbox,
        )
        self._client = client
        self._runs = runs
        self._journal = journal
        self._outage = outage
        self._abandoned_runs: frozenset[str] = frozenset()
        """The runs that were held when the last reports were flushed. Any other one came with the last poll."""
        self._registration = registration
        self._defect: BaseException | None = None

    async def live(self) -> str:
        """Run to the end and return the outcome of the final state. No task of the actor is left then.

        Raises the exception that ended the poll, the heartbeat or the outage timer if one had a defect. The runner
        drains before.
        """
        side_tasks = [
            self._own(self._poller.live(), "poller"),
            self._own(self._heartbeat.run(), "heartbeat"),
            self._own(self._outage.run(self._heartbeat.send), "outage timer"),
        ]
        try:
            await self.run()
        finally:
            self._poller.close()
            for task in side_tasks[1:]:
                task.cancel()
            try:
                await asyncio.wait(side_tasks)
            finally:
                await self._registrar.aclose()
        if self._defect is not None:
            raise self._defect
        return self._machine.spec.states[self.state].outcome or ""

    @property
    def is_ending(self) -> bool:
        """True if the runner leaves or has left, so that its agents may be gone from the coordinator."""
        return self.has_tag("leaving") or self._machine.is_final(self.model)

    async def wait_for_registration(self) -> None:
        """Wait until the coordinator has accepted the runner for the first time."""
        await self._registrar.wait_for_registration()

    def facts(self) -> frozenset[str]:
        facts = {
            "journal_is_unwritable": self._journal.unwritable is not None,
            "descriptors_are_short": self._runs.descriptors.is_short,
            "credential_is_limited": self._runs.limits.limit is not None,
            "late_run_arrived": self.has_tag("leaving") and not self._runs.run_ids <= self._abandoned_runs,
        }
        return frozenset(compress(facts, facts.values()))

    def on_step(self, step: Step, payload: object) -> None:
        if step.cause == "registration_superseded":
            logger.error(
                "another process has registered under this runner's identity. Two runners must not have the same host "
                "name, project directory, profile and executor command: give each a host name of its own (--hostname, "
                "RUNNER_HOSTNAME). This process has the host name {!r}; it ends its runs, reports nothing and exits "
                "({})",
                self._registration.hostname,
                payload,
            )
        if step.cause is Cause.TIMEOUT and self._machine.has_tag(step.source, "tests_limit"):
            self._runs.limits.end_test()
        self._runs.limits.set_testing(self.has_tag("tests_limit"))
        self._poller.reconsider()
        is_reachable = self.has_tag("reachable")
        if is_reachable:
            self._client.wake()
        reason = f" ({payload})" if isinstance(payload, str | BaseException) and not is_reachable else ""
        level = "WARNING" if self.has_tag("needs_attention") or self.model.outcome else "INFO"
        logger.log(level, "runner: {} → {}: {}{}", step.source, step.target, step.event, reason)

    def on_ignored(self, step: Step) -> None:
        if step.cause == "report_not_accepted" and self.has_tag("renews_registration"):
            self._registrar.register_in_background()

    def _use_registration(self, registered: wire.Registered) -> None:
        self._heartbeat.set_registration(registered)
        self._poller.set_registration(registered)

    async def _await_runs(self) -> None:
        self._runs.close_idle_sessions(LEAVING)
        if self._keeps_journal:
            self._runs.leave_waiting()
        await self._wait_until_reported()

    async def _stop_runs(self) -> None:
        self._runs.limits.close()
        self._runs.stop_all(LEAVING)
        self._runs.close_idle_sessions(LEAVING)
        await self._wait_until_reported()

    async def _wait_until_reported(self) -> None:
        """Wait until runs and executors have ended and are reported, or their reports are left to the next process."""
        await self._runs.wait_until_idle(LEAVING)
        reporting = asyncio.create_task(self._wait_for_reports(), name="last reports")
        try:
            await asyncio.wait([reporting], timeout=SILENCE_LIMIT_S)
            while not reporting.done() and not (self._keeps_journal and self._client.is_silent_for(SILENCE_LIMIT_S)):
                await asyncio.wait([reporting], timeout=SILENCE_CHECK_INTERVAL_S)
        finally:
            reporting.cancel()
            await asyncio.wait([reporting])

    async def _wait_for_reports(self) -> None:
        await self._runs.wait_until_empty()
        await self._runs.close_sessions(LEAVING)

    @property
    def _keeps_journal(self) -> bool:
        """True if a later process of this runner finds the pending reports and the waiting runs."""
        return self._journal.path is not None and self._journal.unwritable is None

    async def _flush_reports(self) -> None:
        try:
            await self._registrar.wait_for_attempt(REGISTRATION_LIMIT_S)
            if len(self._runs) > 0 and not self._client.is_silent_for(SILENCE_LIMIT_S):
                await self._wait_until_reported()
        finally:
            # Not in `_deregister`: the poll may deliver a run before that begins.
            self._abandoned_runs = self._runs.run_ids

    async def _deregister(self) -> None:
        runner_id = self._registrar.runner_id
        if runner_id is None:
            raise _NotDeregistered("not registered")
        if self._keeps_journal and (left := self._left_to_next_process()):
            reason = f"not deregistered, because this is left to the runner's next process: {left}"
            logger.warning(reason)
            raise _NotDeregistered(reason)
        await self._client.deregister(runner_id)

    def _left_to_next_process(self) -> str:
        """Return the reports and the runs that the next process of this runner finds in the journal."""
        counts = {"report": self._runs.pending_report_count, "waiting run": len(self._runs.left_runs)}
        return ", ".join(f"{count} {name}{'' if count == 1 else 's'}" for name, count in counts.items() if count > 0)

    async def _settle_late_run(self) -> None:
        await self._registrar.register()
        await self._runs.wait_until_empty()
        self._abandoned_runs = frozenset()

    async def _abandon_runs(self) -> None:
        reason = "another process has registered under the identity of this runner"
        await self._runs.abandon_all(RegistrationSuperseded(reason, HTTPStatus.CONFLICT))

    def _own(self, work: Coroutine[Any, Any, None], name: str) -> "asyncio.Task[None]":
        task = asyncio.create_task(work, name=name)
        task.add_done_callback(lambda ended: self._end_side_task(ended, name))
        return task

    def _end_side_task(self, task: "asyncio.Task[None]", name: str) -> None:
        if not task.cancelled() and (defect := task.exception()) is not None:
            logger.opt(exception=defect).error("runner: the {} has a defect; the runner drains", name)
            self._defect = defect
            self.post("drain_requested", f"the {name} has a defect: {defect!r}")
