"""What the actors write down, as they need it of the journal."""

from typing import Protocol

from fsm_runner.journal.records import Report


class Recorder(Protocol):
    """Writes every step down. Must not block."""

    def record_transition(
        self, machine: str, subject: str, event: str, source: str | None, target: str, outcome: str | None, reason: str
    ) -> None: ...


class Record(Recorder, Protocol):
    """`fsm_runner.journal.journal.Journal`. None of the notes blocks; `written` tells when they are on disk."""

    def record_claim(self, run_id: str, session_id: str, agent: str | None, runner_id: str, run: bytes) -> None: ...

    def record_report(self, run_id: str, report: Report) -> None: ...

    def record_usage(self, run_id: str, usage: bytes) -> None: ...

    def record_run_end(self, run_id: str) -> None: ...

    def record_session_start(self, session_id: str, runner_id: str, run: bytes) -> None: ...

    def record_session_end(self, session_id: str) -> None: ...

    async def has_run(self, run_id: str) -> bool:
        """Whether a run was claimed by this runner, also long ago. Raises `JournalUnreadable`."""

    async def flush(self) -> None:
        """Raises `JournalUnwritable`."""
