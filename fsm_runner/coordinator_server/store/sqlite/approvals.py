"""The approvals for which workflows wait, and the decisions about them, in the database.

A run has at most one pending approval: that of the `workflow` of its session. Its decision is stored until the runner
shows in the `workflow` that it has a decision about the same visit, or that the approval has ended otherwise.
"""

import sqlite3

import msgspec

from fsm_runner.coordinator_server.errors import AlreadyDecided, Conflict, NotFound
from fsm_runner.coordinator_server.store.sqlite.database import Database
from fsm_runner.coordinator_server.store.sqlite.runs import RUN_NOT_FOUND
from fsm_runner.coordinator_server.store.sqlite.sql import HELD, OPEN
from fsm_runner.protocol.approvals import NOT_PENDING, Decided, DecisionRequest, ListedApproval, WorkflowState

_ROWS = (
    "SELECT runs.run_id, runs.session_id, runs.runner_id, runs.decision, runs.decided, sessions.workflow,"  # noqa: S608 - fixed text
    f" runs.{HELD} AS is_held FROM runs JOIN sessions USING (session_id)"
)
_HELD_ROWS = _ROWS.replace("FROM runs", "FROM runs INDEXED BY runs_by_status") + f" WHERE runs.{HELD}"

_decode_workflow = msgspec.json.Decoder(WorkflowState).decode
_decode_request = msgspec.json.Decoder(DecisionRequest).decode
_decode_decided = msgspec.json.Decoder(Decided).decode


class ApprovalTable:
    def __init__(self, database: Database) -> None:
        self._database = database

    def pending(self) -> list[ListedApproval]:
        """Return the pending approvals without a decision, the oldest run first."""
        rows = self._database.execute(
            f"{_HELD_ROWS} AND sessions.workflow IS NOT NULL AND runs.decision IS NULL ORDER BY runs.seq"
        )
        return [listed for row in rows if (listed := _listed(row)) is not None]

    def add_decision(self, decision: DecisionRequest) -> DecisionRequest:
        """Store the decision, unless there is one, and return the one that is stored.

        Its visit is that of the pending approval. Raises `NotFound`, `AlreadyDecided`, or `Conflict` if the run waits
        for no approval.
        """
        row = self._row(decision.run_id)
        decided = _decided(row)
        listed = _listed(row)
        if listed is None:
            if decided is not None:
                raise AlreadyDecided(decision.run_id, decided)
            raise Conflict({"error": NOT_PENDING, "message": f"{decision.run_id} waits for no approval"})
        if decided is not None and decided.visit == listed.visit:
            raise AlreadyDecided(decision.run_id, decided)
        if row["decision"] is not None and (stored := _decode_request(row["decision"])).visit == listed.visit:
            return stored
        added = msgspec.structs.replace(decision, visit=listed.visit, runner_id=row["runner_id"])
        self._database.execute(
            "UPDATE runs SET decision = ? WHERE run_id = ?", (msgspec.json.encode(added), decision.run_id)
        )
        return added

    def note_workflow(self, session_id: str) -> None:
        """Take over the decision that the session's workflow shows, and forget one that it makes obsolete."""
        rows = self._database.execute(
            f"{_ROWS} WHERE runs.session_id = ? AND runs.{OPEN} AND is_held", (session_id,)
        ).fetchall()
        for row in rows:
            workflow = None if row["workflow"] is None else _decode_workflow(row["workflow"])
            if workflow is not None and workflow.decided is not None:
                self._database.execute(
                    "UPDATE runs SET decided = ? WHERE run_id = ?",
                    (msgspec.json.encode(workflow.decided), row["run_id"]),
                )
            if row["decision"] is not None and not _is_awaited(_decode_request(row["decision"]), workflow):
                self._database.execute("UPDATE runs SET decision = NULL WHERE run_id = ?", (row["run_id"],))

    def undelivered(self) -> list[DecisionRequest]:
        """Return the decisions that runners have not confirmed."""
        rows = self._database.execute(f"{_HELD_ROWS} AND runs.decision IS NOT NULL ORDER BY runs.seq")
        return [_decode_request(row["decision"]) for row in rows]

    def outcome(self, request: DecisionRequest) -> Decided | None:
        """Return the confirmed decision about the same visit; None if there is none."""
        decided = _decided(self._row(request.run_id))
        return decided if decided is not None and decided.visit == request.visit else None

    def _row(self, run_id: str) -> sqlite3.Row:
        row = self._database.row(f"{_ROWS} WHERE runs.run_id = ?", (run_id,))
        if row is None:
            raise NotFound(RUN_NOT_FOUND)
        return row


def _decided(row: sqlite3.Row) -> Decided | None:
    return None if row["decided"] is None else _decode_decided(row["decided"])


def _is_awaited(request: DecisionRequest, workflow: WorkflowState | None) -> bool:
    if workflow is None or workflow.approval is None or workflow.approval.visit != request.visit:
        return False
    return workflow.decided is None or workflow.decided.visit != request.visit


def _listed(row: sqlite3.Row) -> ListedApproval | None:
    """Return the approval for which the run waits; None if it waits for none."""
    workflow = None if row["workflow"] is None or not row["is_held"] else _decode_workflow(row["workflow"])
    if workflow is None or workflow.approval is None:
        return None
    approval, decided = workflow.approval, workflow.decided
    if decided is not None and decided.visit == approval.visit:
        return None
    return ListedApproval(
        run_id=row["run_id"],
        session_id=row["session_id"],
        workflow=workflow.name,
        state=workflow.state,
        question=approval.question,
        since=workflow.since,
        due=approval.due,
        visit=approval.visit,
    )
