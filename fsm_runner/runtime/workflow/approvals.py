"""The pending approvals of one runner, and the decisions about them.

An approval has one decision: the first one, which may also be that of the deadline. It is on disk before anyone gets
it as an answer, and before the workflow continues.
"""

import asyncio
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable

import msgspec
from loguru import logger

from fsm_runner.diagnostics.logs import RareWarning
from fsm_runner.errors import EXIT_UNRECORDED, FsmRunnerError, UsageError
from fsm_runner.protocol.approvals import (
    BY_LIMIT_CHARS,
    COMMENT_LIMIT_CHARS,
    DEADLINE,
    Decided,
    DecisionRequest,
    ListedApproval,
    RunnerApproval,
)
from fsm_runner.protocol.event_clock import utc_now
from fsm_runner.protocol.json_text import REPLACEMENT, valid_text
from fsm_runner.util.text import excerpt, truncated

RECORD_LIMIT_S = 10.0
"""How long an answer waits until the decision is on disk."""
WARNED_EACH_S = 60.0
"""The shortest interval between warnings about decisions of a coordinator that are not taken."""
UNRECORDED = "not on disk yet: it counts unless the runner is killed before it can write its journal"
"""What a decision is that the runner knows and cannot write."""
REMEMBERED = 1_000
"""The number of runs whose latest decision is kept for those who decide too late."""


class NotPending(UsageError):
    """The run waits for no approval."""


class AlreadyDecided(FsmRunnerError):
    """An earlier decision counts."""

    def __init__(self, run_id: str, decision: Decided, *, is_recorded: bool = True) -> None:
        super().__init__(decision.text(run_id) + ("" if is_recorded else f" (this decision is {UNRECORDED})"))
        self.decision = decision


class NotRecorded(FsmRunnerError):
    """The decision counts, but is not on disk yet, so a kill of the runner would lose it."""

    exit_code = EXIT_UNRECORDED

    def __init__(self, run_id: str, decision: Decided) -> None:
        super().__init__(
            f"{run_id} is {decision.what} by {excerpt(decision.by)}, but the decision is {UNRECORDED}; `fsm-runner "
            "approvals` shows the run until then, and `fsm-runner health` what is wrong with the journal"
        )


class NotTaken(FsmRunnerError):
    """The step has ended before the decision was on disk."""


class PendingApproval:
    """An approval for which a run waits, from its first question to the end of its step."""

    def __init__(self, listed: ListedApproval, due_s: float | None, on_decision: Callable[[Decided], None]) -> None:
        """`on_decision` is called once, must not block, and has the decision written."""
        self.listed = listed
        self.decision: Decided | None = None
        self.decided = asyncio.Event()
        self.ended = asyncio.Event()
        """The decision is on disk, or the step has ended without one."""
        self.is_recorded = False
        """Whether the decision is on disk."""
        self._due_s = due_s
        self._on_decision = on_decision

    def has_expired(self, now_s: float) -> bool:
        return self._due_s is not None and now_s >= self._due_s

    def decide(self, decision: Decided) -> bool:
        """Return whether this decision counts: it is the first one, or the first one again."""
        if self.decision is None:
            self.decision = decision
            self._on_decision(decision)
            self.decided.set()
        return self.decision.id == decision.id

    def restore(self, decision: Decided) -> None:
        """Take over a decision that an earlier process has written."""
        self.decision = decision
        self.is_recorded = True
        self.decided.set()
        self.ended.set()


class Approvals:
    """Where the approval steps of all runs wait for decisions."""

    def __init__(
        self,
        redacted: Callable[[str], str] = lambda text: text,
        now_s: Callable[[], float] = time.time,
        on_open: Callable[[ListedApproval], None] = lambda _: None,
    ) -> None:
        """`redacted` removes secrets from texts. `now_s` is the wall clock. `on_open` is called for each new approval,
        and must not block."""
        self._redacted = redacted
        self._on_open = on_open
        self._now_s = now_s
        self._refused = RareWarning(WARNED_EACH_S)
        self._pending: dict[str, PendingApproval] = {}
        self._latest: OrderedDict[str, Decided] = OrderedDict()
        """The latest decision on disk, by run id."""

    def now_s(self) -> float:
        return self._now_s()

    def cleaned(self, text: str) -> str:
        """Return a text without secrets, and with U+FFFD for NUL characters and lone surrogates."""
        return self._redacted(valid_text(text.replace("\0", REPLACEMENT)))

    def pending(self) -> list[RunnerApproval]:
        """Return the approvals without a decision on disk, the oldest first."""
        waiting = [each for each in self._pending.values() if not each.is_recorded]
        return [
            RunnerApproval(**msgspec.structs.asdict(each.listed), unrecorded=each.decision)
            for each in sorted(waiting, key=lambda each: each.listed.since)
        ]

    async def decide(self, run_id: str, *, approved: bool, by: str, comment: str) -> Decided:
        """Decide the pending approval of a run, and return the decision when it is on disk.

        Raises `NotPending`, `AlreadyDecided` (also by the deadline), `NotRecorded` or `NotTaken`.
        """
        pending = self._pending.get(run_id)
        if pending is None:
            if (latest := self._latest.get(run_id)) is not None:
                raise AlreadyDecided(run_id, latest)
            raise NotPending(f"{run_id} waits for no approval at this runner")
        decision = self._decision(pending, approved=approved, by=by, comment=comment)
        is_first = self._decide(pending, decision)
        try:
            async with asyncio.timeout(RECORD_LIMIT_S):
                await pending.ended.wait()
        except TimeoutError:
            pass
        counted = pending.decision or decision
        if not pending.is_recorded and pending.ended.is_set():
            raise NotTaken(
                f"the wait for the approval of {run_id} ended before the decision was on disk, for example because the "
                f"run was stopped; see `fsm-runner history {run_id}`"
            )
        if not is_first:
            raise AlreadyDecided(run_id, counted, is_recorded=pending.is_recorded)
        if not pending.is_recorded:
            raise NotRecorded(run_id, counted)
        return counted

    def receive(self, decisions: Iterable[DecisionRequest]) -> None:
        """Take decisions that a coordinator has handed over, perhaps not for the first time. Does not block."""
        for request in decisions:
            pending = self._pending.get(request.run_id)
            if pending is None or pending.listed.visit != request.visit:
                logger.debug("{}: a decision about another approval is ignored", excerpt(request.run_id))
                continue
            if (defect := request.defect()) is not None:
                self._refused.log("{}: a decision of the coordinator does not count: {}", request.run_id, defect)
                continue
            decision = Decided(
                visit=request.visit,
                approved=request.approved,
                by=excerpt(self.cleaned(request.by), BY_LIMIT_CHARS),
                comment=truncated(self.cleaned(request.comment), COMMENT_LIMIT_CHARS),
                at=request.at,
                id=request.id,
            )
            self._decide(pending, decision)

    def open(self, pending: PendingApproval) -> None:
        """Wait for decisions about an approval. May be repeated."""
        run_id = pending.listed.run_id
        if self._pending.get(run_id) is pending:
            return
        self._pending[run_id] = pending
        if pending.decision is None:
            logger.info("{}: waits for an approval: {}", run_id, excerpt(pending.listed.question))
            self._on_open(pending.listed)

    def expire(self, pending: PendingApproval) -> None:
        """Deny an approval whose deadline has passed, unless it has a decision."""
        pending.decide(self._decision(pending, approved=False, by=DEADLINE, comment=""))

    def note_recorded(self, pending: PendingApproval) -> None:
        """The decision is on disk."""
        if (decision := pending.decision) is not None:
            run_id = pending.listed.run_id
            if not pending.is_recorded:  # otherwise an earlier process has written and logged it
                logger.info("{}: {} by {}", run_id, decision.what, excerpt(decision.by))
            self._latest[run_id] = decision
            self._latest.move_to_end(run_id)
            if len(self._latest) > REMEMBERED:
                self._latest.popitem(last=False)
            pending.is_recorded = True
        pending.ended.set()

    def close(self, pending: PendingApproval) -> None:
        """The step has ended. May be repeated."""
        if self._pending.get(pending.listed.run_id) is pending:
            del self._pending[pending.listed.run_id]
        pending.ended.set()

    def _decide(self, pending: PendingApproval, decision: Decided) -> bool:
        if pending.decision is None and pending.has_expired(self._now_s()):
            self.expire(pending)
        return pending.decide(decision)

    def _decision(self, pending: PendingApproval, *, approved: bool, by: str, comment: str) -> Decided:
        return Decided(
            visit=pending.listed.visit,
            approved=approved,
            by=by,
            comment=self.cleaned(comment),
            at=utc_now(),
            id=secrets.token_hex(8),
        )
