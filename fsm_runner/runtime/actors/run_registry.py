"""The runs that a runner holds."""

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

import msgspec
from loguru import logger

from fsm_runner.coordinator_client.api import UnreadableRun
from fsm_runner.coordinator_client.policy import POLICIES
from fsm_runner.journal.records import EndedRun, OpenRun
from fsm_runner.protocol import wire
from fsm_runner.reporting import messages
from fsm_runner.reporting.messages import OutboundMessage, RunEnding
from fsm_runner.runtime.actors.ended_runs import EndedRuns
from fsm_runner.runtime.actors.run import RunActor, RunContext
from fsm_runner.runtime.actors.session_registry import SessionRegistry
from fsm_runner.runtime.control.descriptors import DescriptorWatch
from fsm_runner.util.error_text import headline, limited_error
from fsm_runner.util.retry import RetryPolicy
from fsm_runner.util.text import excerpt

HELD_LIMIT = 10_000
"""So many runs and reports of runs are under way at once, whatever a coordinator says that this runner holds."""

"""As much of a failure's headline is logged; the coordinator has the rest."""


class RunRegistry:
    """Starts runs, finds them for a stop, and owns their tasks. `aclose` ends whatever is left."""

    def __init__(
        self,
        context: RunContext,
        sessions: SessionRegistry,
        max_runs: int | None = None,
        *,
        repeated_report: RetryPolicy = POLICIES.repeated_report,
        on_descriptors_short: Callable[[str], None] = lambda _: None,
        on_descriptors_freed: Callable[[], None] = lambda: None,
    ) -> None:
        self._context = context
        self._sessions = sessions
        self._max_runs = max_runs
        self._actors: dict[str, RunActor] = {}
        self._ended_runs = EndedRuns(repeated_report, self._send_again)
        self._handed_out_again: set[str] = set()
        """Runs at work that were handed out again; the log mentions each once."""
        self._tasks: set[asyncio.Task[None]] = set()
        self.descriptors = DescriptorWatch(self, on_descriptors_short, on_descriptors_freed)
        self.changed = asyncio.Event()
        """Set at each start and end; whoever waits on it clears it."""
        self._none_left = asyncio.Event()
        self._none_left.set()

    def __len__(self) -> int:
        return len(self._tasks)

    @property
    def full(self) -> bool:
        is_at_max = self._max_runs is not None and len(self._tasks) >= self._max_runs
        return self.at_hard_limit or is_at_max or not (self.descriptors.has_room or self._only_executors_lack_room)

    @property
    def _holds_only_turns(self) -> bool:
        """Whether no run that is held frees descriptors when it ends, as all are turns of executors that live on."""
        turns = sum(self._sessions.find(actor.wire_run.session_id) is not None for actor in self._actors.values())
        return turns == len(self._tasks)

    @property
    def _only_executors_lack_room(self) -> bool:
        """Whether executors that live on hold the descriptors, and nothing else would free any."""
        return self.descriptors.has_lasting_shortage and self._holds_only_turns

    @property
    def at_hard_limit(self) -> bool:
        """Whether nothing more may be begun, not even a report."""
        return len(self._tasks) >= HELD_LIMIT

    @property
    def unstarted(self) -> int:
        """Runs whose executor is still to be started."""
        return sum(actor.is_unstarted for actor in self._actors.values())

    @property
    def names(self) -> frozenset[str]:
        """One for each run that is held."""
        return frozenset(task.get_name() for task in self._tasks)

    def start(self, run: wire.Run, runner_id: str) -> bool:
        """Whether the run is new. One that is at work here, or has ended here, is not carried out again."""
        if run.run_id in self._actors:
            # Logged once for each run: a coordinator may repeat it in every second.
            if run.run_id not in self._handed_out_again:
                self._handed_out_again.add(run.run_id)
                logger.warning("{}: handed out again while it is at work here; it is not started again", run.run_id)
            return False
        if self.resend_final_report(run.run_id):
            return False
        logger.info("{}: claimed (agent {}, session {})", run.run_id, run.agent_name or "-", run.session_id)
        self._begin(RunActor(run, runner_id, self._context, refusal=self._refusal_of(run)))
        return True

    def _refusal_of(self, run: wire.Run) -> str:
        """Why the run cannot have a process; empty where it can, or needs none.

        Without idle executors it may have one: then connections hold the descriptors, and these have their own share.
        """
        if self.descriptors.has_room or not self._context.executor.starts_process(run):
            return ""
        if len(self._sessions) == 0 or not self._only_executors_lack_room:
            return ""
        living = "1 executor lives on" if len(self._sessions) == 1 else f"{len(self._sessions)} executors live on"
        return (
            f"too few file descriptors for another executor, since {living}: "
            f"{self.descriptors.summary}. Raise the hard limit (`ulimit -Hn`), let idle executors end sooner "
            "(`--session-idle-timeout`), or stop idle sessions (`fsm-runner stop SESSION`)"
        )

    def is_active(self, run_id: str) -> bool:
        return run_id in self._actors

    async def was_claimed(self, run_id: str) -> bool:
        """Whether this runner has ever claimed it, as far as its journal goes back. Raises `JournalUnreadable`."""
        return await self._context.record.has_run(run_id)

    def resend_final_report(self, run_id: str) -> bool:
        """Report again how the run ended here, since the coordinator has it as open; False: it did not end here."""
        if run_id not in self._ended_runs:
            return False
        if self._context.channels.outbox.pending_report(run_id) is None:
            self._ended_runs.repeat(run_id)
        return True

    def resume(self, recovered: OpenRun) -> None:
        """Go on with a run that an earlier process of this runner had."""
        try:
            run = msgspec.json.decode(recovered.run, type=wire.Run)
        except wire.DECODE_FAULTS as defect:
            said = f"interrupted, and what was written down of the run cannot be read: {defect}"
            self.fail(recovered.run_id, recovered.runner_id, said)
            self._context.record.record_run_end(recovered.run_id)
            return
        logger.warning("{}: taken up, an earlier process ended while it was {}", run.run_id, recovered.state)
        self._begin(RunActor(run, recovered.runner_id, self._context, recovered))

    def remember(self, ended: Iterable[EndedRun]) -> None:
        """Runs that an earlier process has ended."""
        for run in ended:
            status = run.report.path.rpartition("/")[2]
            ending = msgspec.convert({"type": "run", "subject": run.run_id, "status": status}, RunEnding)
            self._ended_runs.add(run.run_id, OutboundMessage(run.report.path, run.report.body, ending=ending))

    def fail_unreadable(self, run: UnreadableRun, runner_id: str) -> None:
        """Report a run as failed that cannot be read, let alone be started."""
        if not self.is_active(run.run_id) and not self.resend_final_report(run.run_id):
            self.fail(run.run_id, runner_id, run.defect)

    def fail(self, run_id: str, runner_id: str, error: str) -> None:
        """Report a run as failed that cannot be started."""
        # The text can name the coordinator's URL, which may hold a password.
        error = self._context.channels.redactor.text(error)
        logger.error("{}: {}", run_id, excerpt(headline(error)))
        self._end_at_once(run_id, messages.failed(run_id, runner_id, limited_error(error), authoritative=False))

    def report_stopped(self, run_id: str, runner_id: str) -> None:
        """Report a run as stopped that was claimed, and whose answer was lost."""
        logger.warning("{}: to be stopped, and not at work here: it is reported as stopped", run_id)
        self._end_at_once(run_id, messages.stopped(run_id, runner_id, "shutdown", authoritative=False))

    def _end_at_once(self, run_id: str, report: OutboundMessage) -> None:
        self._ended_runs.add(run_id, report)
        self._own(self._deliver(run_id, report), run_id)

    def count_of_session(self, session_id: str) -> int:
        """How many runs of this session are held."""
        return sum(actor.wire_run.session_id == session_id for actor in self._actors.values())

    def unfinished_runs_of(self, session_id: str) -> list[asyncio.Event]:
        """Set when the runs of this session that are held now have ended."""
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
        for actor in self._actors.values():
            actor.post("stop_requested", reason)

    def close_idle_sessions(self, reason: str) -> None:
        """End the executors that no run has at this moment."""
        self._sessions.close_idle(reason)

    async def wait_until_empty(self) -> None:
        """Return when no run is held."""
        await self._none_left.wait()

    @property
    def has_only_pending_reports(self) -> bool:
        """Whether runs are held, and nothing of any of them is at work."""
        return bool(self._actors) and all(actor.work_done.is_set() for actor in self._actors.values())

    async def wait_until_idle(self, reason: str) -> None:
        """End the executors that live on when no run is at work, and return when all that is left is to be told."""
        for actor in list(self._actors.values()):
            await actor.work_done.wait()
        await self._sessions.wait_until_idle(reason)

    async def close_sessions(self, reason: str) -> None:
        """End the executors that live on when no run is held, and return when they and their reports are done."""
        await self._sessions.close(reason)

    async def aclose(self) -> None:
        """Kill what still works. What is not reported stays in the journal."""
        self._ended_runs.close()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        self.descriptors.close()

    def _begin(self, actor: RunActor) -> None:
        self._actors[actor.name] = actor
        self._own(self._live(actor), actor.name)

    def _own(self, work: Coroutine[Any, Any, None], run_id: str) -> None:
        task = asyncio.create_task(work, name=f"run {run_id}")
        self._tasks.add(task)
        self._none_left.clear()
        self.changed.set()
        self.descriptors.check()
        task.add_done_callback(self._ended)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if not self._tasks:
            self._none_left.set()
        self.changed.set()
        self.descriptors.check()
        if not task.cancelled() and (fault := task.exception()) is not None:
            logger.opt(exception=fault).error("{} broke; the other runs go on", task.get_name())

    async def _live(self, actor: RunActor) -> None:
        began_s = time.monotonic()
        try:
            state = await actor.live()
        except Exception as defect:
            if actor.terminal_report is None:
                self.fail(actor.name, actor.runner_id, f"the runner's own fault: {defect!r}")
            raise
        finally:
            del self._actors[actor.name]
            self._handed_out_again.discard(actor.name)
            actor.finished.set()
        if actor.terminal_report is not None:
            self._ended_runs.add(actor.name, actor.terminal_report)
        took = f"{time.monotonic() - began_s:.2f} s"
        if actor.was_resumed:
            took += " since it was taken up"
        used = "" if actor.usage is None else f" ({actor.usage})"
        if reasons := [excerpt(headline(reason)) for reason in (actor.failure, actor.unreported) if reason]:
            logger.warning("{}: {} after {}{}: {}", actor.name, state, took, used, "; ".join(reasons))
        else:
            logger.info("{}: {} after {}{}", actor.name, state, took, used)

    def _send_again(self, run_id: str, report: OutboundMessage) -> None:
        logger.warning("{}: still open at the coordinator although it ended here; its report is sent again", run_id)
        self._own(self._deliver(run_id, report), run_id)

    async def _deliver(self, run_id: str, report: OutboundMessage) -> None:
        outbox = self._context.channels.outbox
        await (outbox.pending_report(run_id) or outbox.put(run_id, report, maybe_delivered=True))
