"""The runner's journal: the record of its runs, its sessions and itself, for its next process.

Records are queued in memory, and one thread writes them, all that are queued in one transaction. So the event loop
never waits for the disk, and runs that flush at the same time share one commit.
"""

import sqlite3
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import msgspec

from fsm_runner.errors import FsmRunnerError
from fsm_runner.journal.batch import RecordKind
from fsm_runner.journal.flusher import Flusher
from fsm_runner.journal.limits import FLUSH_WITHIN_S, RETENTION, RetentionLimits
from fsm_runner.journal.records import (
    Recovered,
    Report,
    Transition,
    TreeSession,
    TreeTotals,
    WorkflowPosition,
    WorkflowRecord,
    utc_text,
)
from fsm_runner.journal.trees import tree_session_of
from fsm_runner.journal.workflows import start_of
from fsm_runner.journal.writer import Writer

Value = TypeVar("Value")


class JournalUnwritable(FsmRunnerError):
    """The journal cannot be written at the moment. Its records stay queued, and the write is retried."""

    def __init__(self, path: Path | None, why: str) -> None:
        super().__init__(f"the journal {path} cannot be written: {why}")


class JournalUnreadable(FsmRunnerError):
    """A record cannot be read back."""


class Journal:
    """The journal of one runner. `aclose` writes the queued records and closes it.

    The `record_…` and `…_message` methods return at once and never fail; `flush` waits until all records are on disk.
    A run is claimed before any other record of it, and reported before it ends.
    """

    def __init__(
        self,
        folder: Path | None,
        *,
        flush_within_s: float = FLUSH_WITHIN_S,
        limits: RetentionLimits = RETENTION,
        redacted: Callable[[str], str] = str,
        on_unwritable: Callable[[JournalUnwritable], None] = lambda _: None,
        on_writable: Callable[[], None] = lambda: None,
    ) -> None:
        """Open `journal.sqlite` in a folder, or create both; None: in memory. `redacted` removes secrets from reasons.

        Raises UsageError, which names the file, if it cannot be created or read, is in use by another process, or was
        written by a newer version.
        """
        thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="journal")
        try:
            self._writer = thread.submit(Writer, folder, limits).result()
        except BaseException:
            thread.shutdown()
            raise
        opened = self._writer.opened
        self._redacted = redacted
        self.path = opened.path
        self.recovered = opened.recovered
        """What an earlier process had left when this one opened the journal."""
        self.unwritable: JournalUnwritable | None = None
        self._on_unwritable = on_unwritable
        self._on_writable = on_writable
        self.process = opened.process
        """The name of this runner process in the journal."""
        self.earlier_processes = opened.earlier_processes
        """The earlier processes of this runner. None of them is alive."""
        self._reruns = opened.reruns
        """The workflows of runs that are to repeat another one and are not claimed yet, by their sessions."""
        self._rerun_plans: dict[str, WorkflowPosition] = {}
        """By run, from its claim to its end."""
        self._last_transition = opened.last_transition
        self._last_message = opened.last_message
        self._flusher = Flusher(self._writer, thread, flush_within_s, self._change)

    def record_transition(self, step: Transition) -> None:
        self._last_transition += 1
        if (reason := self._redacted(step.reason)) != step.reason:
            step = msgspec.structs.replace(step, reason=reason)
        # The fields of `TransitionRow`, which is not built because this runs at each step.
        row = (*msgspec.structs.astuple(step), self._last_transition, utc_text(), time.monotonic(), self.process)
        self._record(RecordKind.TRANSITION, *row)

    def record_claim(self, run_id: str, session_id: str, agent: str | None, runner_id: str, run: bytes) -> None:
        """Record a claimed run; `run` is its JSON. A second claim begins it anew if it has ended unreported."""
        self._record(RecordKind.CLAIM, run_id, session_id, agent, runner_id, utc_text(), run)
        if (workflow := self._reruns.pop(session_id, None)) is not None:
            self._rerun_plans[run_id] = start_of(workflow, utc_text())
            self.record_workflow(run_id, workflow)
            self._record(RecordKind.RERUN_DELETION, session_id)

    def forget_workflow(self, run_id: str) -> None:
        """Forget what the workflow of a run did that is claimed anew. Call `flush` before, and `record_claim` after."""
        self._record(RecordKind.WORKFLOW_DELETION, run_id)
        self._record(RecordKind.VISITS_DELETION, run_id)

    def record_report(self, run_id: str, report: Report | None) -> None:
        """Record the terminal report of an open run before it is sent; None: it has none. The latest one counts."""
        self._record(RecordKind.REPORT, run_id, *((None, None) if report is None else (report.path, report.body)))

    def record_usage(self, run_id: str, usage: bytes) -> None:
        """Record the cost of a run as JSON. The latest one counts."""
        self._record(RecordKind.USAGE, run_id, usage)

    def record_wait(self, run_id: str, wait: bytes | None) -> None:
        """Record what an open run waits for, as JSON; None: it does not wait. The latest one counts."""
        self._record(RecordKind.WAIT, run_id, wait)

    def record_workspace(self, run_id: str, state: bytes) -> None:
        """Record the state of an open run's workspace before its execution, as JSON. The latest one counts."""
        self._record(RecordKind.WORKSPACE, run_id, state)

    def record_workflow(self, run_id: str, workflow: WorkflowRecord) -> None:
        """Record the workflow of a run when it begins. The latest one counts."""
        self._record(RecordKind.WORKFLOW, run_id, utc_text(), *msgspec.structs.astuple(workflow))

    def record_visit(self, run_id: str, number: int, state: str, due_s: float | None) -> None:
        """Record the begin of a visit. `due_s` is its deadline as Unix time; None: it has none."""
        self._record(RecordKind.VISIT, run_id, number, state, utc_text(), due_s)

    def record_visit_progress(self, run_id: str, number: int, progress: bytes) -> None:
        """Record what the step of an open visit saves. The latest one counts."""
        self._record(RecordKind.VISIT_PROGRESS, run_id, number, progress)

    def record_visit_interrupted(self, run_id: str, number: int, interruptions: int) -> None:
        """Record how often an open visit was interrupted. The latest count counts."""
        self._record(RecordKind.VISIT_INTERRUPTED, run_id, number, interruptions)

    def record_visit_due(self, run_id: str, number: int, due_s: float | None) -> None:
        """Record the deadline of an open visit. The latest one counts."""
        self._record(RecordKind.VISIT_DUE, run_id, number, due_s)

    def record_visit_end(
        self,
        run_id: str,
        number: int,
        ending: str,
        target: str,
        value_name: str | None,
        value: bytes | None,
        usage: bytes | None,
    ) -> None:
        """Record the end of a visit: the state after it and all choices, the JSON of its value, and of its usage."""
        self._record(RecordKind.VISIT_END, run_id, number, utc_text(), ending, target, value_name, value, usage)

    def record_workflow_end(self, run_id: str, ending: str) -> None:
        """Record that the visit that is open, if there is one, ended with the run. No state follows it."""
        self._record(RecordKind.WORKFLOW_END, run_id, utc_text(), ending)

    def record_rerun(self, session_id: str, workflow: WorkflowRecord) -> None:
        """Record the workflow of the next run of a session, which repeats another run from a state on."""
        self._reruns[session_id] = workflow
        self._record(RecordKind.RERUN, session_id, utc_text(), msgspec.msgpack.encode(workflow))

    def delete_rerun(self, session_id: str) -> None:
        """Forget the workflow of a run that will not be claimed."""
        if self._reruns.pop(session_id, None) is not None:
            self._record(RecordKind.RERUN_DELETION, session_id)

    def rerun_plan_of(self, run_id: str) -> WorkflowPosition | None:
        """Return where the workflow of a run begins that this process has claimed, if the run repeats another one."""
        return self._rerun_plans.get(run_id)

    def record_tree_session(self, session: TreeSession) -> None:
        """Record a session's place in its tree, and what its runs have used. The latest one counts."""
        used = session.used
        place = (session.session_id, session.root_session_id, session.depth)
        row = (*place, used.cost_usd, used.tokens, used.turns, utc_text())
        self._flusher.pending.tree_sessions[session.session_id] = row
        self._flusher.wake()

    def record_run_end(self, run_id: str) -> None:
        """Record that a run is in a final state."""
        self._rerun_plans.pop(run_id, None)
        self._record(RecordKind.RUN_END, run_id, utc_text())

    def record_session_start(self, session_id: str, runner_id: str, run: bytes) -> None:
        """Record a started session; `run` is the JSON of the run that starts it. An ended session is open again."""
        self._record(RecordKind.SESSION_START, session_id, runner_id, utc_text(), self._last_transition, run)

    def record_session_end(self, session_id: str) -> None:
        self._record(RecordKind.SESSION_END, session_id, utc_text())

    def store_message(self, session_id: str, content: bytes) -> int:
        """Store a message until it is deleted. Its id is greater than that of any earlier message."""
        self._last_message += 1
        self._flusher.pending.messages[self._last_message] = (session_id, content)
        self._flusher.wake()
        return self._last_message

    def delete_message(self, message_id: int) -> None:
        self._flusher.pending.delete_message(message_id)
        self._flusher.wake()

    def take_recovered(self) -> Recovered:
        """Return what an earlier process left, and release it from memory."""
        recovered, self.recovered = self.recovered, Recovered(runs=(), sessions=(), messages=(), ended=())
        return recovered

    async def message(self, message_id: int) -> bytes:
        """Return a message's content. Raises KeyError if it was deleted, JournalUnreadable."""
        return await self._readable(self._flusher.message(message_id))

    async def has_run(self, run_id: str) -> bool:
        """Return whether this runner has claimed the run, also long ago, and has not lost it to another one.

        A claim that is still queued may be missed.

        Raises JournalUnreadable.
        """
        return await self._readable(self._flusher.in_thread(lambda: self._writer.has_run(run_id)))

    async def tree_session(self, session_id: str) -> TreeSession | None:
        """Return the latest record of a session; None if there is none. Raises JournalUnreadable."""
        if (row := self._flusher.unwritten_tree_sessions().get(session_id)) is not None:
            return tree_session_of(row)
        return await self._readable(self._flusher.in_thread(lambda: self._writer.tree_session(session_id)))

    async def tree_totals(self, root_session_id: str) -> TreeTotals:
        """Return the totals of all records of a tree. Raises JournalUnreadable.

        Nothing of the tree may be recorded while this reads.
        """
        unwritten = [
            tree_session_of(row)
            for row in self._flusher.unwritten_tree_sessions().values()
            if row[1] == root_session_id
        ]
        return await self._readable(
            self._flusher.in_thread(lambda: self._writer.tree_totals(root_session_id, unwritten))
        )

    async def flush(self) -> None:
        """Return when all records are on disk. Raises JournalUnwritable if the write fails."""
        if (failure := await self._flusher.flush()) is not None:
            raise JournalUnwritable(self.path, failure)

    async def aclose(self) -> None:
        """Write the queued records, which are lost if that fails, and unlock the journal for another process."""
        await self._flusher.aclose()

    async def _readable(self, value: Awaitable[Value]) -> Value:
        try:
            return await value
        except sqlite3.Error as error:
            raise JournalUnreadable(f"the journal {self.path} cannot be read: {error}") from error

    def _record(self, kind: RecordKind, *row: object) -> None:
        self._flusher.pending.add(kind, *row)
        self._flusher.wake()

    def _change(self, failure: str | None) -> None:
        if failure is None:
            self.unwritable = None
            self._on_writable()
        else:
            self.unwritable = JournalUnwritable(self.path, failure)
            self._on_unwritable(self.unwritable)
