"""The requests that the control socket of a runner handles. A further one is a Struct and an entry in `handlers`."""

import msgspec

from fsm_runner.app.control_socket import Handlers
from fsm_runner.process.tree.peer import Peer
from fsm_runner.protocol.approvals import DEADLINE, Comment, Decided, RunnerApprovals
from fsm_runner.protocol.wire import RunCreated
from fsm_runner.runtime.workflow.approvals import Approvals
from fsm_runner.runtime.workflow.rerun_plan import Replacement
from fsm_runner.runtime.workflow.reruns import Reruns


class ListApprovals(msgspec.Struct, frozen=True, tag_field="request", tag="approvals"):
    """Answered with `RunnerApprovals`."""


class Decide(msgspec.Struct, frozen=True, kw_only=True, tag_field="request", tag="approve"):
    """Decides the pending approval of a run. Answered with `Decided`."""

    run_id: str
    approved: bool
    comment: Comment = ""


class Rerun(msgspec.Struct, frozen=True, kw_only=True, tag_field="request", tag="rerun"):
    """Starts a run that repeats an ended one from a state on. Answered with `RunCreated`."""

    run_id: str
    state: str
    workflow: Replacement | None = None
    """The workflow to follow; None: that of the ended run."""


def rerun_handlers(reruns: Reruns) -> Handlers:
    async def rerun(request: Rerun, _: Peer) -> RunCreated:
        return await reruns.start(request.run_id, request.state, request.workflow)

    return {Rerun: rerun}


def handlers(approvals: Approvals) -> Handlers:
    async def list_approvals(_: ListApprovals, __: Peer) -> RunnerApprovals:
        return RunnerApprovals(approvals.pending())

    async def decide(request: Decide, peer: Peer) -> Decided:
        by = peer.user_name if peer.user_name != DEADLINE else f"uid {peer.uid}"
        return await approvals.decide(request.run_id, approved=request.approved, by=by, comment=request.comment)

    return {ListApprovals: list_approvals, Decide: decide}
