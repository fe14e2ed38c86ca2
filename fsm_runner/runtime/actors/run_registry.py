"""The runs that a runner holds: at work, or with a report that is pending."""

import asyncio
import math
import time
from collections.abc import Callable, Iterable

import msgspec
from loguru import logger

from fsm_runner.config.provider_limits import ProviderLimitPolicy
from fsm_runner.coordinator_client.api import UnreadableRun
from fsm_runner.coordinator_client.errors import RegistrationSuperseded, RunReassigned
from fsm_runner.coordinator_client.policy import POLICIES
from fsm_runner.journal.records import EndedRun, OpenRun
from fsm_runner.protocol import wire
from fsm_runner.reporting import messages
from fsm_runner.reporting.messages import OutboundMessage, RunEnding
from fsm_runner.runtime.actors.actor import took_text
from fsm_runner.runtime.actors.ended_runs import EndedRuns
from fsm_runner.runtime.actors.run import RunActor
from fsm_runner.runtime.actors.run_context import RunContext
from fsm_runner.runtime.actors.session_registry import SessionRegistry
from fsm_runner.runtime.control.descriptors import DescriptorWatch
from fsm_runner.runtime.control.provider_limits import ProviderLimits
from fsm_runner.util.error_text import headline, limited_error
from fsm_runner.util.retry import RetryPolicy
from fsm_runner.util.tasks import OwnedTasks
from fsm_runner.util.text import excerpt

DEFAULT_LIMIT_POLICY = ProviderLimitPolicy()
HELD_LIMIT = 10_000
"""The runs and reports that a runner holds at most, whatever a coordinator assigns to it."""


class RunRegistry:
    """Starts and stops runs, and owns their tasks. `aclose` ends those that are left."""

    def __init__(
        self,
        context: RunContext,
        sessions: SessionRegistry,
        max_runs: int | None = None,
        *,
        repeated_report: RetryPolicy = POLICIES.repeated_report,
        limit_policy: ProviderLimitPolicy = DEFAULT_LIMIT_POLICY,
        on_limit_reached: Callable[[str], None] = lambda _: None,
        on_limit_passed: Callable[[], None] = lambda: None,
        on_descriptors_short: Callable[[str], None] = lambda _: None,
        on_descriptors_freed: Callable[[], None] = lambda: None,
        wall_clock_s: Callable[[], float] = time.time,
    ) -> None:
        self._context = context
        self._sessions = sessions
        self._max_runs = max_runs
        self._actors: dict[str, RunActor] = {}
        self._ended_runs = EndedRuns(repeated_report, self._send_again)
        context.reporting.outbox.on_reassigned = self._abandon
        self._handed_out_again: set[str] = set()
        """The active runs that a poll brought again; each is logged once."""
        self._later_attempts: dict[str, tuple[wire.Run, str]] = {}
        """Claimed attempts that begin when the earlier attempt of the same run has ended here; with the runner's id."""
        self._stop_reason: str | None = None
        """Why runs that begin again are stopped; None: they are not."""
        self._tasks = OwnedTasks("run", self._on_change)
        self.limits = ProviderLimits(
            limit_policy, self._free_slots_beside_poll, self._on_change, on_limit_reached, on_limit_passed, wall_clock_s
        )
        self.descriptors = DescriptorWatch(self, on_descriptors_short, self._note_descriptors_freed)
        self._on_descriptors_freed = on_descriptors_freed
        self._poll_is_held = False
        self._leaves_waiting = False
        self.left_runs: set[str] = set()
        """The waiting runs that were left to the runner's next process."""
        self.begun_count = 0
        """The runs that began here, including resumed ones of an earlier process."""
        self.idle_since_s = -math.inf
        """When the last run ended, by the loop's clock; infinite while one is held."""
        self.changed = asyncio.Event()
        """Set at each start and end; the waiting task clears it."""

    def __len__(self) -> int:
        return len(self._tasks)

    @property
    def full(self) -> bool:
        if self.at_hard_limit or self._free_slots() <= self.limits.queued_count or self.limits.holds_new_runs:
            return True
        return not self._has_descriptors

    @property
    def _has_descriptors(self) -> bool:
        """Whether the file descriptors allow for another run."""
        return self.descriptors.has_room or self._only_executors_lack_room

    def _free_slots(self) -> float:
        """Return how many more runs may execute. A waiting run holds no slot until it may continue."""
        if self._max_runs is None:
            return math.inf
        return self._max_runs - len(self._tasks) + len(self.limits.waiting) - self.limits.admitted_count

    def _free_slots_beside_poll(self) -> float:
        """Return how many more runs may execute if the held poll delivers one; 0 while descriptors are short."""
        return self._free_slots() - self._poll_is_held if self._has_descriptors else 0

    def _note_descriptors_freed(self) -> None:
        self._on_descriptors_freed()
        self.limits.admit()

    def set_poll_held(self, is_held: bool) -> None:
        """Follow the tag `holds_poll` of the poller's state."""
        if is_held != self._poll_is_held:
            self._poll_is_held = is_held
            self.limits.admit()

    @property
    def _only_executors_lack_room(self) -> bool:
        """Whether only persistent executors hold descriptors. Each run is one of their turns, so its end frees none."""
        turns = sum(
            actor.name not in self.limits.waiting and self._sessions.find(actor.wire_run.session_id) is not None
            for actor in self._actors.values()
        )
        return self.descriptors.has_lasting_shortage and turns == len(self._tasks) - len(self.limits.waiting)

    @property
    def at_hard_limit(self) -> bool:
        """Whether nothing more may start, not even a report."""
        return len(self._tasks) >= HELD_LIMIT

    @property
    def unstarted(self) -> int:
        """The number of runs whose executor has not been started."""
        return sum(actor.is_unstarted for actor in self._actors.values()) + self.limits.admitted_count

    @property
    def run_ids(self) -> frozenset[str]:
        return self._tasks.subjects

    def start(self, run: wire.Run, runner_id: str) -> bool:
        """Start a run and return True; False if it is active or has ended here, as it is not executed again."""
        active = self._actors.get(run.run_id)
        if active is not None and run.attempt > active.wire_run.attempt:
            self._later_attempts[run.run_id] = (run, runner_id)
            message = f"the coordinator has taken this runner for lost; attempt {run.attempt} of the run follows"
            self._abandon(run.session_id, run.run_id, RunReassigned(message, run.attempt))
            return False
        if active is not None:
            # Logged once for each run, since a coordinator may hand it out every second.
            if run.run_id not in self._handed_out_again:
                self._handed_out_again.add(run.run_id)
                logger.warning("{}: handed out again while it is active here; it is not started again", run.run_id)
            return False
        if self.resend_final_report(run.run_id):
            return False
        agent = "" if run.agent_name is None else f"agent {run.agent_name}, "
        logger.info("{}: claimed ({}session {})", run.run_id, agent, run.session_id)
        self.limits.claimed(run.run_id)
        self._begin(RunActor(run, runner_id, self._context, self.limits, refusal=self._refusal_of(run)))
        return True

    def _refusal_of(self, run: wire.Run) -> str:
        """Return why the run cannot have a process; empty if it can, or needs none.

        Without idle executors it can: then connections hold the descriptors, and they have their own share.
        """
        count = len(self._sessions)
        needs_room = self._context.executor.starts_process(run) and not self.descriptors.has_room
        if not needs_room or count == 0 or not self._only_executors_lack_room:
            return ""
        alive = "1 persistent executor is alive" if count == 1 else f"{count} persistent executors are alive"
        return (
            f"too few file descriptors for another executor, since {alive}: "
            f"{self.descriptors.summary}. Raise the hard limit (`ulimit -Hn`), let idle executors end sooner "
            "(`--session-idle-timeout`), or stop idle sessions (`fsm-runner stop SESSION`)"
        )

    def is_active(self, run_id: str, attempt: int = 0) -> bool:
        """Return whether the run, in this attempt or a later one, is active or will begin here."""
        later, actor = self._later_attempts.get(run_id), self._actors.get(run_id)
        latest = later[0] if later is not None else None if actor is None else actor.wire_run
        return latest is not None and latest.attempt >= attempt

    async def was_claimed(self, run_id: str) -> bool:
        """Return whether this runner's journal has a claim of the run. Raises `JournalUnreadable`."""
        return await self._context.record.has_run(run_id)

    def resend_final_report(self, run_id: str) -> bool:
        """Send the run's report again, since the coordinator has it as open; False if it did not end here."""
        if run_id not in self._ended_runs:
            return False
        if self._context.reporting.outbox.pending_report(run_id) is None:
            self._ended_runs.resend(run_id)
        return True

    def resume(self, recovered: OpenRun) -> None:
        """Resume a run of an earlier process of this runner."""
        try:
            run = msgspec.json.decode(recovered.run, type=wire.Run)
        except wire.DECODE_FAULTS as defect:
            error = f"interrupted, and its record in the journal cannot be decoded: {defect}"
            self.fail(recovered.run_id, recovered.runner_id, error)
            self._context.record.record_run_end(recovered.run_id)
            return
        logger.warning("{}: resumed; an earlier process ended while it was {}", run.run_id, recovered.state)
        self._begin(RunActor(run, recovered.runner_id, self._context, self.limits, recovered))

    def remember_ended(self, ended: Iterable[EndedRun]) -> None:
        """Remember runs that an earlier process ended, so that they are not executed again."""
        for run in ended:
            status = run.report.path.rpartition("/")[2]
            ending = msgspec.convert({"type": "run", "subject": run.run_id, "status": status}, RunEnding)
            self._ended_runs.add(run.run_id, OutboundMessage(run.report.path, run.report.body, ending=ending))

    def fail_unreadable(self, run: UnreadableRun, runner_id: str) -> None:
        """Report a run as failed that cannot be decoded."""
        if not self.is_active(run.run_id) and not self.resend_final_report(run.run_id):
            self.fail(run.run_id, runner_id, run.defect)

    def fail(self, run_id: str, runner_id: str, error: str) -> None:
        """Report a run as failed that cannot be started."""
        # The text can contain the coordinator's URL, which may contain a password.
        error = self._context.reporting.redactor.text(error)
        logger.error("{}: {}", run_id, excerpt(headline(error)))
        self._end_at_once(run_id, messages.failed(run_id, runner_id, limited_error(error), provisional=True))

    def report_stopped(self, run_id: str, runner_id: str) -> None:
        """Report a run as stopped that is not active here, because the response with its claim was lost."""
        logger.warning("{}: the coordinator stops it, but it is not active here; reported as stopped", run_id)
        self._end_at_once(run_id, messages.stopped(run_id, runner_id, "shutdown", provisional=True))

    def _end_at_once(self, run_id: str, report: OutboundMessage) -> None:
        self._ended_runs.add(run_id, report)
        self._tasks.start(run_id, self._deliver(run_id, report))

    def count_of_session(self, session_id: str) -> int:
        """Return the number of the session's active runs."""
        return sum(actor.wire_run.session_id == session_id for actor in self._actors.values())

    def pending_reports(self, session_id: str) -> list[asyncio.Event]:
        """Return an event for each active run of the session, set when the run has been reported."""
        return [actor.finished for actor in self._actors.values() if actor.wire_run.session_id == session_id]

    def stop_run(self, run_id: str, reason: str) -> None:
        if (actor := self._actors.get(run_id)) is not None:
            actor.post("stop_requested", reason)

    def stop_session(self, session_id: str, reason: str) -> None:
        for actor in self._actors.values():
            if actor.wire_run.session_id == session_id:
                actor.post("stop_requested", reason)
        self._sessions.stop_idle(session_id, reason)

    def stop_all(self, reason: str) -> None:
        self._stop_reason = reason
        for actor in self._actors.values():
            actor.post("stop_requested", reason)

    async def abandon_all(self, refusal: RegistrationSuperseded) -> None:
        """End all executors, send nothing more, and return when they have ended: another process has the runs."""
        self._context.reporting.outbox.withdraw_all(refusal)
        self._ended_runs.close()
        for actor in self._actors.values():
            actor.post("reassigned", refusal)
        await self._sessions.abandon_all(refusal)
        await self.wait_until_empty()

    def _abandon(self, session_id: str, run_id: str, refusal: RunReassigned) -> None:
        """End what was started for a run that is not this runner's any more."""
        if (actor := self._actors.get(run_id)) is not None:
            actor.post("reassigned", refusal)
        else:
            logger.info("{}: {}", run_id, excerpt(str(refusal)))
            self._ended_runs.forget(run_id)
            self._context.reporting.outbox.readmit(run_id)
        self._sessions.abandon(session_id, run_id, refusal)

    def close_idle_sessions(self, reason: str) -> None:
        """End the persistent executors that have no turn."""
        self._sessions.close_idle(reason)

    async def wait_until_empty(self) -> None:
        await self._tasks.wait_until_empty()

    @property
    def pending_report_count(self) -> int:
        """The number of runs and sessions whose reports are pending; 0 while a run or an executor is at work."""
        is_at_work = any(not actor.work_done.is_set() for actor in self._actors.values()) or self._sessions.is_at_work
        return 0 if is_at_work else len(self._tasks) + len(self._sessions)

    async def wait_until_idle(self, reason: str) -> None:
        """Wait until at most reports are pending: for the work of all runs, then for the end of idle executors."""
        for actor in list(self._actors.values()):
            await actor.work_done.wait()
        await self._sessions.wait_until_idle(reason)

    def leave_waiting(self) -> None:
        """Leave the runs that hold no slot, now or later, to the runner's next process."""
        self.limits.close()
        self._leaves_waiting = True
        self._on_change()

    async def close_sessions(self, reason: str) -> None:
        """End the idle executors and wait for the reports of their ends. Call this when no run is held."""
        await self._sessions.close(reason)

    async def aclose(self) -> None:
        """Kill the executors of active runs. Pending reports stay in the journal."""
        self._ended_runs.close()
        await self._tasks.aclose()
        self.descriptors.close()

    def _begin(self, actor: RunActor) -> None:
        self.begun_count += 1
        self._actors[actor.name] = actor
        self._tasks.start(actor.name, self._live(actor))

    def _on_change(self) -> None:
        self.changed.set()
        if len(self._tasks) > 0:
            self.idle_since_s = math.inf
        elif self.idle_since_s == math.inf:
            self.idle_since_s = asyncio.get_running_loop().time()
        self.limits.admit()
        for run_id in self.limits.waiting.keys() - self.left_runs if self._leaves_waiting else ():
            logger.info("{}: left to this runner's next process, since it waits", run_id)
            self.left_runs.add(run_id)
            self._tasks.cancel_soon(run_id)
        self.descriptors.check()

    async def _live(self, actor: RunActor) -> None:
        began_s = time.monotonic()
        try:
            state = await actor.live()
            if actor.reassigned_by is not None:
                await self._sessions.wait_until_abandoned(actor.wire_run.session_id)
        except Exception as defect:
            if actor.terminal_report is None:
                self.fail(actor.name, actor.runner_id, f"a defect of the runner: {defect!r}")
            raise
        finally:
            del self._actors[actor.name]
            self._context.reporting.outbox.readmit(actor.name)
            self.limits.ended(actor.name)
            self._handed_out_again.discard(actor.name)
            later = self._later_attempts.pop(actor.name, None)
            actor.finished.set()
        if actor.terminal_report is not None:
            self._ended_runs.add(actor.name, actor.terminal_report)
        took = took_text(time.monotonic() - began_s, actor)
        used = "" if actor.usage is None else f" ({actor.usage})"
        if reasons := [excerpt(headline(reason)) for reason in (actor.failure, actor.unreported) if reason]:
            logger.warning("{}: {} after {}{}: {}", actor.name, state, took, used, "; ".join(reasons))
        else:
            logger.info("{}: {} after {}{}", actor.name, state, took, used)
        if later is not None:
            self._begin_again(actor, *later)

    def _begin_again(self, ended: RunActor, run: wire.Run, runner_id: str) -> None:
        """Begin a later attempt of a run, unless another runner has an even later one."""
        if isinstance(ended.reassigned_by, RunReassigned) and run.attempt >= ended.reassigned_by.attempt:
            self.start(run, runner_id)
            if self._stop_reason is not None:
                self.stop_run(run.run_id, self._stop_reason)

    def _send_again(self, run_id: str, report: OutboundMessage) -> None:
        logger.warning("{}: still open at the coordinator although it ended here; sending its report again", run_id)
        self._tasks.start(run_id, self._deliver(run_id, report))

    async def _deliver(self, run_id: str, report: OutboundMessage) -> None:
        outbox = self._context.reporting.outbox
        await (outbox.pending_report(run_id) or outbox.put(run_id, report, maybe_delivered=True))
