"""The runner itself: lives the life of `specs/runner.toml`."""

import asyncio
import contextlib
from collections.abc import Coroutine
from typing import Any

from loguru import logger

from fsm_runner.coordinator_client.client import CoordinatorClient
from fsm_runner.journal.journal import Journal, JournalUnwritable
from fsm_runner.machine.engine import Machine, Step
from fsm_runner.protocol import wire
from fsm_runner.runtime.actors.actor import Actor, Settings
from fsm_runner.runtime.actors.run_registry import RunRegistry
from fsm_runner.runtime.control.outage import OutageWatch
from fsm_runner.runtime.control.poller import LinkTimes, Poller
from fsm_runner.runtime.control.registration import Registrar
from fsm_runner.runtime.recovery import Recovery
from fsm_runner.scripts.sync import ScriptSync

LAST_POLL_LIMIT_S = 0.7
"""How long a held poll is heard out after the leave: a deployed coordinator looks each 0.5 s who has left."""

LATE_RUN_LIMIT_S = 2.0
"""How long a run may take to be stopped and told that the held poll has brought when nothing was at work any more."""

LAST_ANSWER_LIMIT_S = 0.5
"""How long a registration is heard out that the leave has overtaken."""

LAST_REPORTS_LIMIT_S = 3.0
"""A runner that leaves waits for its last reports; when the coordinator has answered nothing for so long, they are left
to its next process."""

SILENCE_LOOK_S = 0.25
"""How often it is looked whether the coordinator has answered meanwhile."""

LEAVING = "the runner is leaving"

CLAIMING_STATES = frozenset({"online", "cut_off", "saturated"})
"""In `saturated`, `RunRegistry.full` holds back what descriptors do not suffice for."""
TROUBLED_STATES = frozenset({"cut_off", "suspended", "saturated", "refused", "gave_up", "aborted"})
LEAVING_STATES = frozenset({"draining", "stopping_runs", "deregistering"})


class RunnerActor(Actor):
    """From the registration to the leave."""

    def __init__(
        self,
        machine: Machine,
        client: CoordinatorClient,
        registration: wire.Registration,
        runs: RunRegistry,
        scripts: ScriptSync,
        settings: Settings,
        times: LinkTimes,
        recovery: Recovery,
        journal: Journal,
        exit_after_outage_s: float | None,
    ) -> None:
        super().__init__(
            "runner",
            machine,
            {
                "recover": recovery.carry_out,
                "register": self._register,
                "await_runs": self._await_runs,
                "stop_runs": self._stop_runs,
                "deregister": self._deregister,
            },
            settings,
            recorder=journal,
        )
        self._client = client
        self._runs = runs
        self._scripts = scripts
        self._link = Poller(client, runs, scripts, self.post, times, has_history=bool(journal.earlier_processes))
        self._outage = OutageWatch(
            exit_after_outage_s, lambda reason: self.post("outage_too_long", reason), self._link.is_answered
        )
        self._registrar = Registrar(client, registration, self._link.set_registration)
        self._journal = journal
        self._fault: BaseException | None = None
        client.on_registration_lost = self._report_not_taken
        client.on_away = self._outage.unanswered
        client.on_answer = self._outage.answered
        journal.on_unwritable = self._journal_stuck
        journal.on_writable = self._journal_unstuck
        runs.descriptors.on_short = self._descriptors_short
        runs.descriptors.on_freed = self._descriptors_freed

    async def live(self) -> str:
        """Run to the end; the final state. No task, run or process of the runner is left then.

        Raises what ended the poll or the heartbeat where that was a defect; the runs were ended in order first.
        """
        side_tasks = [self._own(self._link.poll_forever(), "poll"), self._own(self._link.beat_forever(), "heartbeat")]
        try:
            state = await self.run()
        finally:
            for task in side_tasks:
                task.cancel()
            await asyncio.wait(side_tasks)
            await self._outage.aclose()
            await self._registrar.aclose()
            await self._runs.aclose()
            await self._scripts.aclose()
        if self._fault is not None:
            raise self._fault
        return state

    @property
    def is_leaving(self) -> bool:
        """Whether it claims no further run; it may have ended."""
        return self.state in LEAVING_STATES or self._machine.is_final(self.model)

    async def registered(self) -> None:
        """Return when the coordinator has taken the runner in."""
        await self._link.wait_for_registration()

    def on_step(self, step: Step, payload: object) -> None:
        self._link.set_course(claiming=step.target in CLAIMING_STATES, leaving=step.target in LEAVING_STATES)
        if step.target == "online":
            self._client.wake()
        reason = f" ({payload})" if payload is not None and step.target != "online" else ""
        level = "WARNING" if step.target in TROUBLED_STATES or self.model.outcome else "INFO"
        logger.log(level, "runner: {} → {}: {}{}", step.source, step.target, step.event, reason)

    async def _register(self) -> None:
        await self._registrar.register()

    def _report_not_taken(self) -> None:
        # Not while deregistering: that would bring back what has just been taken away.
        if self.state in LEAVING_STATES - {"deregistering"}:
            self._registrar.register_meanwhile()
        self.post("registration_lost", "a report was not taken")

    def _journal_stuck(self, stuck: JournalUnwritable) -> None:
        self.model.facts |= {"journal_is_stuck"}
        self.post("journal_stuck", stuck)

    def _journal_unstuck(self) -> None:
        self.model.facts -= {"journal_is_stuck"}
        self.post("journal_unstuck")

    def _descriptors_short(self, reason: str) -> None:
        self.model.facts |= {"descriptors_are_short"}
        self.post("descriptors_short", reason)

    def _descriptors_freed(self) -> None:
        self.model.facts -= {"descriptors_are_short"}
        self.post("descriptors_freed")

    async def _await_runs(self) -> None:
        self._runs.close_idle_sessions(LEAVING)
        await self._end_of_work()

    async def _stop_runs(self) -> None:
        self._runs.stop_all(LEAVING)
        self._runs.close_idle_sessions(LEAVING)
        await self._end_of_work()

    async def _end_of_work(self) -> None:
        """When nothing is at work any more, what is left to tell is waited for while the coordinator answers; where it
        does not, the next process of this runner tells it."""
        await self._runs.wait_until_idle(LEAVING)
        telling = asyncio.create_task(self._tell_the_rest(), name="last reports")
        try:
            await asyncio.wait([telling], timeout=LAST_REPORTS_LIMIT_S)
            while not telling.done() and not (self._is_kept() and self._client.is_silent_for(LAST_REPORTS_LIMIT_S)):
                await asyncio.wait([telling], timeout=SILENCE_LOOK_S)
        finally:
            telling.cancel()
            await asyncio.wait([telling])

    async def _tell_the_rest(self) -> None:
        await self._runs.wait_until_empty()
        await self._runs.close_sessions(LEAVING)

    def _is_kept(self) -> bool:
        return self._journal.path is not None and self._journal.unwritable is None

    async def _deregister(self) -> None:
        runner_id = await self._registrar.runner_id(LAST_ANSWER_LIMIT_S)
        if runner_id is None:
            return
        if len(self._runs) > 0 and not self._client.is_silent_for(LAST_REPORTS_LIMIT_S):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LATE_RUN_LIMIT_S):
                    await self._end_of_work()
        if self._is_kept() and self._runs.has_only_pending_reports:
            # The coordinator fails what is open when a runner leaves, and these have an end.
            logger.warning("not deregistered: {} ends are left to this runner's next process", len(self._runs))
            return
        given_up = self._runs.names
        await self._client.deregister(runner_id)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LAST_POLL_LIMIT_S):
                await self._link.poll_heard_out()
        if self._runs.names - given_up:
            await self._settle_late_run(runner_id)

    async def _settle_late_run(self, runner_id: str) -> None:
        """The held poll brought a run after all. Its report is taken from a registered runner only."""
        await self._registrar.register()
        await self._runs.wait_until_empty()
        await self._client.deregister(runner_id)

    def _own(self, work: Coroutine[Any, Any, None], name: str) -> "asyncio.Task[None]":
        task = asyncio.create_task(work, name=name)
        task.add_done_callback(self._side_task_ended)
        return task

    def _side_task_ended(self, task: "asyncio.Task[None]") -> None:
        if not task.cancelled() and (fault := task.exception()) is not None:
            self._fault = fault
            self.post("drain_requested", f"the {task.get_name()} broke: {fault!r}")
