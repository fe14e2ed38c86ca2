"""The messages about workflows and their approvals: protocol.md, sections 1.1, 1.3 and 1.4. Times are ISO 8601 text."""

from datetime import datetime
from typing import Annotated, Literal

import msgspec

from fsm_runner.util.text import excerpt

COMMENT_LIMIT_CHARS = 16_384
"""The longest comment about an approval."""
BY_LIMIT_CHARS = 255
"""The longest name of the person who has decided. OpenID Connect allows a subject as many."""
ID_LIMIT_CHARS = 100
"""The longest id of a decision."""
DEADLINE = "deadline"
"""Who denies an approval when its time limit passes."""

NOT_PENDING = "no_pending_approval"
"""The `detail.error` of a coordinator about a run that waits for no approval."""

Comment = Annotated[str, msgspec.Meta(max_length=COMMENT_LIMIT_CHARS)]


class _Message(msgspec.Struct, frozen=True, kw_only=True):
    pass


class ApprovalRequest(_Message, frozen=True, kw_only=True):
    """An approval for which a workflow waits (section 1.4)."""

    question: str
    due: str | None = None
    """The deadline; None: there is none."""
    visit: int
    """The number of the visit in the workflow, which identifies the approval within its run."""


class Decided(_Message, frozen=True, kw_only=True):
    """A decision about an approval, which its runner has recorded."""

    visit: int
    approved: bool
    by: str
    """Who has decided: a user, the subject of a token, or `DEADLINE`."""
    comment: str = ""
    at: str
    id: str
    """Chosen by the program that receives the decision: a coordinator or a runner."""

    @property
    def what(self) -> str:
        return "approved" if self.approved else "denied"

    def text(self, run_id: str) -> str:
        """Return the message for those who decide after this decision."""
        if self.by == DEADLINE:
            return f"the approval of {run_id} expired at {self.at}, which counts as a denial"
        comment = f": {excerpt(self.comment)}" if self.comment else ""
        return f"{run_id} was already {self.what} by {excerpt(self.by)} at {self.at}{comment}"


class DecisionRequest(Decided, frozen=True, kw_only=True):
    """A decision that a coordinator has received and hands to the runner (section 1.1)."""

    run_id: str
    runner_id: str | None = None
    """The runner of the run, where a list has the decisions for all runners."""

    def defect(self) -> str | None:
        """Return why a runner does not take the decision; None if it does."""
        limits = {"comment": COMMENT_LIMIT_CHARS, "by": BY_LIMIT_CHARS, "id": ID_LIMIT_CHARS}
        for field, limit_chars in limits.items():
            if len(text := getattr(self, field)) > limit_chars:
                return f"`{field}` has {len(text):,} characters, of at most {limit_chars:,}"
        if self.by in ("", DEADLINE):
            return f"`by` is {self.by!r}, which names no person"
        try:
            has_offset = datetime.fromisoformat(self.at).tzinfo is not None
        except ValueError:
            has_offset = False
        return None if has_offset else f"`at` is no time with an offset: {excerpt(self.at, 40)}"


class WorkflowState(_Message, frozen=True, kw_only=True):
    """The field `workflow` of a session (section 1.4): where the workflow of its run is."""

    name: str
    state: str
    since: str
    visit: int
    approval: ApprovalRequest | None = None
    decided: Decided | None = None
    """The latest decision of the run."""


class ListedApproval(_Message, frozen=True, kw_only=True):
    """A pending approval in `GET /approvals`."""

    run_id: str
    session_id: str
    workflow: str
    state: str
    question: str
    since: str
    due: str | None = None
    visit: int


class ApprovalList(msgspec.Struct, frozen=True):
    """Response to `GET /approvals`."""

    approvals: list[ListedApproval]


class RunnerApproval(ListedApproval, frozen=True, kw_only=True):
    """A pending approval in the answer of a runner."""

    unrecorded: Decided | None = None
    """A decision that is not on disk yet. It counts unless the runner is killed before that."""


class RunnerApprovals(msgspec.Struct, frozen=True):
    """The answer of a runner about its pending approvals."""

    approvals: list[RunnerApproval]


class ApprovalAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """Body of `POST /runs/{id}/approval`."""

    approved: bool
    comment: Comment = ""


class DecisionResponse(_Message, frozen=True, kw_only=True):
    """Response to `POST /runs/{id}/approval`."""

    ok: Literal[True] = True
    confirmed: bool
    """Whether the runner has confirmed the decision."""
    decision: Decided
