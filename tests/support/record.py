"""A journal in memory, whose flush can fail or take time."""

import asyncio
import itertools

from fsm_runner.journal.records import Report, Transition


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

    def record_report(self, run_id: str, report: Report) -> None:
        self.reports[run_id] = report

    def record_usage(self, run_id: str, usage: bytes) -> None:
        self.usages[run_id] = usage

    def record_wait(self, run_id: str, wait: bytes | None) -> None:
        self.waits[run_id] = wait

    def record_workspace(self, run_id: str, state: bytes) -> None:
        self.workspaces[run_id] = state

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
