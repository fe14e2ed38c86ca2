"""The part of the journal that actors use."""

from typing import Protocol

from fsm_runner.journal.records import Report, Transition, WorkflowPosition, WorkflowRecord


class Recorder(Protocol):
    """Records every transition. Must not block."""

    def record_transition(self, step: Transition) -> None: ...


class Record(Recorder, Protocol):
    """`Journal`, for runs and sessions. The `record_…` methods do not block; `flush` waits until all is on disk."""

    def record_claim(self, run_id: str, session_id: str, agent: str | None, runner_id: str, run: bytes) -> None: ...

    def forget_workflow(self, run_id: str) -> None: ...

    def record_report(self, run_id: str, report: Report | None) -> None: ...

    def record_usage(self, run_id: str, usage: bytes) -> None: ...

    def record_wait(self, run_id: str, wait: bytes | None) -> None: ...

    def record_workspace(self, run_id: str, state: bytes) -> None: ...

    def record_workflow(self, run_id: str, workflow: WorkflowRecord) -> None: ...

    def record_visit(self, run_id: str, number: int, state: str, due_s: float | None) -> None: ...

    def record_visit_progress(self, run_id: str, number: int, progress: bytes) -> None: ...

    def record_visit_interrupted(self, run_id: str, number: int, interruptions: int) -> None: ...

    def record_visit_due(self, run_id: str, number: int, due_s: float | None) -> None: ...

    def record_visit_end(
        self,
        run_id: str,
        number: int,
        ending: str,
        target: str,
        value_name: str | None,
        value: bytes | None,
        usage: bytes | None,
    ) -> None: ...

    def record_workflow_end(self, run_id: str, ending: str) -> None: ...

    def record_run_end(self, run_id: str) -> None: ...

    def record_session_start(self, session_id: str, runner_id: str, run: bytes) -> None: ...

    def record_session_end(self, session_id: str) -> None: ...

    def rerun_plan_of(self, run_id: str) -> WorkflowPosition | None:
        """Return where the workflow of a claimed run begins, if it repeats another run from a state on."""

    async def has_run(self, run_id: str) -> bool:
        """Return whether this runner has claimed the run, also long ago. Raises `JournalUnreadable`."""

    async def flush(self) -> None:
        """Raises `JournalUnwritable`."""
