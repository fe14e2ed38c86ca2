"""A journal in memory, whose flush can fail or take time."""

import asyncio
import itertools

from msgspec.structs import replace

from fsm_runner.journal.records import Report, Transition, VisitRecord, WorkflowPosition, WorkflowRecord, utc_text


class InstantRecord:
    """The `Record` of tests in virtual time: the records in order."""

    def __init__(self) -> None:
        self.steps: list[Transition] = []
        self.claims: list[str] = []
        self.reports: dict[str, Report] = {}
        self.open_sessions: list[str] = []
        self.usages: dict[str, bytes] = {}
        self.waits: dict[str, bytes | None] = {}
        self.workspaces: dict[str, bytes] = {}
        self.workflows: dict[str, WorkflowRecord] = {}
        self.visits: dict[str, dict[int, VisitRecord]] = {}
        """The visits of workflows by run and number."""
        self.rerun_plans: dict[str, WorkflowPosition] = {}
        """What `rerun_plan_of` returns."""
        self.ended_runs: list[str] = []
        self.unwritable: Exception | None = None
        """What `flush` raises."""
        self.unreadable: Exception | None = None
        """What `has_run` raises."""
        self.commit_s = 0.0
        """How long `flush` takes."""

    def record_transition(self, step: Transition) -> None:
        self.steps.append(step)

    def record_claim(self, run_id: str, session_id: str, agent: str | None, runner_id: str, run: bytes) -> None:
        self.claims.append(run_id)

    def forget_workflow(self, run_id: str) -> None:
        self.workflows.pop(run_id, None)
        self.visits.pop(run_id, None)

    def record_report(self, run_id: str, report: Report | None) -> None:
        if report is None:
            self.reports.pop(run_id, None)
        else:
            self.reports[run_id] = report

    def record_usage(self, run_id: str, usage: bytes) -> None:
        self.usages[run_id] = usage

    def record_wait(self, run_id: str, wait: bytes | None) -> None:
        self.waits[run_id] = wait

    def record_workspace(self, run_id: str, state: bytes) -> None:
        self.workspaces[run_id] = state

    def record_workflow(self, run_id: str, workflow: WorkflowRecord) -> None:
        self.workflows[run_id] = workflow

    def record_visit(self, run_id: str, number: int, state: str, due_s: float | None) -> None:
        visit = VisitRecord(number=number, state=state, began_at=utc_text(), due_s=due_s)
        self.visits.setdefault(run_id, {})[number] = visit

    def record_visit_progress(self, run_id: str, number: int, progress: bytes) -> None:
        self._change_visit(run_id, number, progress=progress)

    def record_visit_interrupted(self, run_id: str, number: int, interruptions: int) -> None:
        self._change_visit(run_id, number, interruptions=interruptions)

    def record_visit_due(self, run_id: str, number: int, due_s: float | None) -> None:
        self._change_visit(run_id, number, due_s=due_s)

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
        self._change_visit(
            run_id,
            number,
            ended_at=utc_text(),
            ending=ending,
            target=target,
            value_name=value_name,
            value=value,
            usage=usage,
            progress=None,
        )

    def record_workflow_end(self, run_id: str, ending: str) -> None:
        for number, visit in self.visits.get(run_id, {}).items():
            if visit.ended_at is None:
                self._change_visit(run_id, number, ended_at=utc_text(), ending=ending, progress=None)

    def _change_visit(self, run_id: str, number: int, **changes: object) -> None:
        visit = self.visits[run_id][number]
        assert visit.ended_at is None, visit
        self.visits[run_id][number] = replace(visit, **changes)

    def rerun_plan_of(self, run_id: str) -> WorkflowPosition | None:
        return self.rerun_plans.get(run_id)

    def record_run_end(self, run_id: str) -> None:
        self.ended_runs.append(run_id)

    def record_session_start(self, session_id: str, runner_id: str, run: bytes) -> None:
        self.open_sessions.append(session_id)

    def record_session_end(self, session_id: str) -> None:
        self.open_sessions.remove(session_id)

    async def has_run(self, run_id: str) -> bool:
        if self.unreadable is not None:
            raise self.unreadable
        return run_id in self.claims

    async def flush(self) -> None:
        if self.commit_s > 0:
            await asyncio.sleep(self.commit_s)
        if self.unwritable is not None:
            raise self.unwritable

    def last_position(self, subject: str) -> tuple[str, str | None]:
        """Return the state and outcome after the last step. Assert that each step begins where the one before ended."""
        life = [step for step in self.steps if step.subject == subject]
        for before, after in itertools.pairwise(life):
            assert after.source == before.target, life
        return life[-1].target, life[-1].outcome
