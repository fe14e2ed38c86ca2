"""The activity `approval`: waits for the decision of a person."""

import asyncio

import msgspec
from loguru import logger

from fsm_runner.errors import FsmRunnerError
from fsm_runner.process.child.child import Child
from fsm_runner.protocol.approvals import DEADLINE, ApprovalRequest, Decided, ListedApproval
from fsm_runner.protocol.event_clock import utc_at, utc_now
from fsm_runner.protocol.statuses import StopSignal
from fsm_runner.runtime.workflow.approvals import PendingApproval
from fsm_runner.runtime.workflow.context import WorkflowContext
from fsm_runner.runtime.workflow.step import Ended, Visit
from fsm_runner.util.wall_clock import is_done_by
from fsm_runner.workflow.definition import Approval

FLUSH_RETRY_S = 1.0
"""The wait before a decision is flushed again if the journal cannot be written."""


class _Progress(msgspec.Struct, frozen=True):
    """What the journal keeps of an approval while its visit lasts."""

    since: str
    decision: Decided | None = None


class ApprovalStep:
    """One approval. It keeps its own deadline, which denies it.

    After an interruption it is open again with its question and deadline, or continues with the decision that is in
    the journal.
    """

    def __init__(self, visit: Visit, context: WorkflowContext) -> None:
        if not isinstance(visit.arguments, Approval):
            raise TypeError(f"not an approval: {visit.arguments}")
        self._visit = visit
        self._context = context
        stored = None if visit.progress is None else msgspec.json.decode(visit.progress, type=_Progress)
        self._since = utc_now() if stored is None else stored.since
        question = context.approvals.cleaned(visit.arguments.question)
        due = None if visit.due_s is None else utc_at(visit.due_s)
        self.request = ApprovalRequest(question=question, due=due, visit=visit.number)
        """For the metadata of the session."""
        listed = ListedApproval(
            run_id=visit.run.run_id,
            session_id=visit.run.session_id,
            workflow=visit.workflow,
            state=visit.state_name,
            question=question,
            since=self._since,
            due=due,
            visit=visit.number,
        )
        self._pending = PendingApproval(listed, visit.due_s, self._save)
        if stored is None:
            self._save(None)
        elif stored.decision is not None:
            self._pending.restore(stored.decision)

    @property
    def process(self) -> Child | None:
        return None

    @property
    def decided(self) -> Decided | None:
        """The decision, when it is on disk: for the metadata of the session."""
        return self._pending.decision if self._pending.is_recorded else None

    @property
    def has_expired(self) -> bool:
        """Whether the deadline has denied the approval."""
        return self.decided is not None and self.decided.by == DEADLINE

    async def perform(self) -> Ended:
        approvals = self._context.approvals
        approvals.open(self._pending)
        await self._wait_for_decision()
        await self._flush()
        approvals.note_recorded(self._pending)
        return _ended(self._pending.decision)

    async def stop(self) -> StopSignal:
        await self.aclose()
        return "shutdown"

    async def aclose(self) -> None:
        self._context.approvals.close(self._pending)

    async def _wait_for_decision(self) -> None:
        approvals, run_id = self._context.approvals, self._visit.run.run_id
        decision = asyncio.create_task(self._pending.decided.wait(), name=f"{run_id} decision")
        try:
            if not await is_done_by(self._visit.due_s, decision, approvals.now_s):
                approvals.expire(self._pending)
        finally:
            decision.cancel()
            await asyncio.wait({decision})

    async def _flush(self) -> None:
        """Return when the decision is on disk."""
        while True:
            try:
                return await self._context.flush()
            except FsmRunnerError as fault:
                logger.debug("{}: the decision is not on disk yet: {}", self._visit.run.run_id, fault)
            await asyncio.sleep(FLUSH_RETRY_S)

    def _save(self, decision: Decided | None) -> None:
        self._visit.save(msgspec.json.encode(_Progress(self._since, decision)))


def _ended(decision: Decided | None) -> Ended:
    if decision is None:
        raise RuntimeError("the approval has no decision")
    value = {"by": decision.by, "comment": decision.comment, "at": decision.at}
    if decision.approved:
        return Ended("done", {"ok": True, "error": "", **value})
    if decision.by == DEADLINE:
        return Ended("denied", {"ok": False, "error": "not approved before the deadline", **value})
    comment = f": {decision.comment}" if decision.comment else ""
    return Ended("denied", {"ok": False, "error": f"denied by {decision.by}{comment}", **value})
