"""The part of the journal that actors use."""

from typing import Protocol

from fsm_runner.journal.records import Report, Transition


class Recorder(Protocol):
    """Records every transition. Must not block."""

    def record_transition(self, step: Transition) -> None: ...


class Record(Recorder, Protocol):
    """`Journal`, for runs and sessions. The `record_…` methods do not block; `flush` waits until all is on disk."""

    def record_claim(self, run_id: str, session_id: str, agent: str | None, runner_id: str, run: bytes) -> None: ...

    def record_report(self, run_id: str, report: Report) -> None: ...

    def record_usage(self, run_id: str, usage: bytes) -> None: ...

    def record_wait(self, run_id: str, wait: bytes | None) -> None: ...

    def record_workspace(self, run_id: str, state: bytes) -> None: ...

    def record_run_end(self, run_id: str) -> None: ...

    def record_session_start(self, session_id: str, runner_id: str, run: bytes) -> None: ...

    def record_session_end(self, session_id: str) -> None: ...

    async def has_run(self, run_id: str) -> bool:
        """Return whether this runner has claimed the run, also long ago. Raises `JournalUnreadable`."""

    async def flush(self) -> None:
        """Raises `JournalUnwritable`."""
