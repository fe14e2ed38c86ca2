"""The runner's append-only record: what became of each run, of each session and of the runner itself.

What is noted goes to a list, at once; one thread takes the list to the disk, all of it in one transaction. So the
event loop never waits for the disk, and runs that wait for their records at the same time share one commit.
"""

import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from fsm_runner.errors import FsmRunnerError
from fsm_runner.journal.batch import (
    ClaimRow,
    MessageRow,
    ReportRow,
    RunEndRow,
    SessionEndRow,
    SessionStartRow,
    UsageRow,
)
from fsm_runner.journal.flusher import Flusher
from fsm_runner.journal.limits import FLUSH_WITHIN_S, RETENTION, RetentionLimits
from fsm_runner.journal.records import Recovered, Report, TransitionRow
from fsm_runner.journal.timestamps import utc_text
from fsm_runner.journal.writer import Writer


class JournalUnwritable(FsmRunnerError):
    """The journal cannot be written at the moment. What was noted is kept, in order, and tried again."""

    def __init__(self, path: Path | None, why: str) -> None:
        super().__init__(f"the journal {path} cannot be written: {why}")


class JournalUnreadable(FsmRunnerError):
    """Something that was written cannot be read back."""

    def __init__(self, path: Path | None, why: str) -> None:
        super().__init__(f"the journal {path} cannot be read: {why}")


class Journal:
    """The journal of one runner. `aclose` ends it.

    What notes something returns at once and never fails; `flush` says when it is on disk. A run is claimed before
    anything else is noted of it, and settled before it is ended.
    """

    def __init__(
        self,
        writer: Writer,
        thread: ThreadPoolExecutor,
        flush_within_s: float,
        redacted: Callable[[str], str],
        on_unwritable: Callable[[JournalUnwritable], None],
        on_writable: Callable[[], None],
    ) -> None:
        self._redacted = redacted
        self.path = writer.path
        self.recovered = writer.recovered
        """What an earlier process left, as it was when this one opened the journal."""
        self.unwritable: JournalUnwritable | None = None
        """Why nothing can be written at the moment."""
        self._on_unwritable = on_unwritable
        self._on_writable = on_writable
        self.process = writer.process
        """The monotonic times of one process can be compared."""
        self.earlier_processes = writer.earlier_processes
        """Of this runner; none of them is alive."""
        self._last_transition = writer.last_transition
        self._last_message = writer.last_message
        self._flusher = Flusher(writer, thread, flush_within_s, self._change)

    @classmethod
    def open(
        cls,
        folder: Path | None,
        *,
        flush_within_s: float = FLUSH_WITHIN_S,
        limits: RetentionLimits = RETENTION,
        redacted: Callable[[str], str] = str,
        on_unwritable: Callable[[JournalUnwritable], None] = lambda _: None,
        on_writable: Callable[[], None] = lambda: None,
    ) -> "Journal":
        """Open `journal.sqlite` in a folder, or create both; None: in memory, nothing outlives the process.

        `redacted` gives the reason of a step without secrets.

        Raises UsageError, which names the file, where it cannot be created or read, is another process's, or was
        written by a newer version.
        """
        thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="journal")
        try:
            writer = thread.submit(Writer, folder, limits).result()
        except BaseException:
            thread.shutdown()
            raise
        return cls(writer, thread, flush_within_s, redacted, on_unwritable, on_writable)

    def record_transition(
        self,
        machine: str,
        subject: str,
        event: str,
        source: str | None,
        target: str,
        outcome: str | None,
        reason: str,
        *,
        provisional: bool = False,
    ) -> None:
        """Record a step of `subject`: see `Transition` for the parameters."""
        self._last_transition += 1
        row = TransitionRow(
            seq=self._last_transition,
            at=utc_text(),
            monotonic_s=time.monotonic(),
            process=self.process,
            machine=_storable(machine),
            subject=_storable(subject),
            event=_storable(event),
            source=_storable_or_none(source),
            target=_storable(target),
            outcome=_storable_or_none(outcome),
            reason=_storable(self._redacted(reason)),
            provisional=provisional,
        )
        self._flusher.pending.transitions.append(row)
        self._flusher.noted()

    def record_claim(self, run_id: str, session_id: str, agent: str | None, runner_id: str, run: bytes) -> None:
        """`run`: its JSON. Of a run that is known nothing changes, also where it has ended."""
        row = ClaimRow(
            run_id=_storable(run_id),
            session_id=_storable(session_id),
            agent=_storable_or_none(agent),
            runner_id=_storable(runner_id),
            claimed_at=utc_text(),
            run=run,
        )
        self._flusher.pending.claims.append(row)
        self._flusher.noted()

    def record_report(self, run_id: str, report: Report) -> None:
        """How an open run ended, before the coordinator is told. The latest stands."""
        key = _storable(run_id)
        self._flusher.pending.reports[key] = ReportRow(key, _storable(report.path), report.body)
        self._flusher.noted()

    def record_usage(self, run_id: str, usage: bytes) -> None:
        """`usage`: JSON. The latest stands."""
        key = _storable(run_id)
        self._flusher.pending.usages[key] = UsageRow(key, usage)
        self._flusher.noted()

    def record_run_end(self, run_id: str) -> None:
        """The run is in a final state: nothing more is to be done for it."""
        key = _storable(run_id)
        self._flusher.pending.run_ends.setdefault(key, RunEndRow(key, utc_text()))
        self._flusher.noted()

    def record_session_start(self, session_id: str, runner_id: str, run: bytes) -> None:
        """`run`: JSON of the run that begins it. A session that has ended is open again, and begins anew."""
        row = SessionStartRow(
            session_id=_storable(session_id),
            runner_id=_storable(runner_id),
            began_at=utc_text(),
            after_seq=self._last_transition,
            run=run,
        )
        self._flusher.pending.sessions.append(row)
        self._flusher.noted()

    def record_session_end(self, session_id: str) -> None:
        self._flusher.pending.sessions.append(SessionEndRow(_storable(session_id), utc_text()))
        self._flusher.noted()

    def store_message(self, session_id: str, content: bytes) -> int:
        """Keep a message until it is gone. Its id: greater than that of any before that reached the disk."""
        self._last_message += 1
        row = MessageRow(self._last_message, _storable(session_id), content)
        self._flusher.pending.messages[row.id] = row
        self._flusher.noted()
        return row.id

    def delete_message(self, message_id: int) -> None:
        self._flusher.pending.delete_message(message_id)
        self._flusher.noted()

    def take_recovered(self) -> Recovered:
        """What an earlier process left, once: whoever takes it up needs no second copy in memory."""
        recovered, self.recovered = self.recovered, Recovered(runs=(), sessions=(), messages=(), ended=())
        return recovered

    async def message(self, message_id: int) -> bytes:
        """The content of a message that is kept. Raises KeyError where it is gone, JournalUnreadable."""
        try:
            return await self._flusher.message(message_id)
        except sqlite3.Error as error:
            raise JournalUnreadable(self.path, str(error)) from error

    async def has_run(self, run_id: str) -> bool:
        """Whether a run was claimed by this runner, also long ago. One that was noted a moment ago may be missed.

        Raises JournalUnreadable.
        """
        try:
            return await self._flusher.has_run(_storable(run_id))
        except sqlite3.Error as error:
            raise JournalUnreadable(self.path, str(error)) from error

    async def flush(self) -> None:
        """Return when all that was noted before is on disk. Raises JournalUnwritable when the attempt failed."""
        why_not = await self._flusher.flush()
        if why_not is not None:
            raise JournalUnwritable(self.path, why_not)

    async def aclose(self) -> None:
        """Write what is left (where that fails it is lost), close the file, and let another process have it."""
        await self._flusher.aclose()

    def _change(self, why: str | None) -> None:
        if why is None:
            self.unwritable = None
            self._on_writable()
        else:
            self.unwritable = JournalUnwritable(self.path, why)
            self._on_unwritable(self.unwritable)


def _storable(text: str) -> str:
    """As SQLite takes it: half a surrogate pair, from a file's name perhaps, is shown as its escape."""
    if text.isascii():
        return text
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _storable_or_none(text: str | None) -> str | None:
    return None if text is None else _storable(text)
