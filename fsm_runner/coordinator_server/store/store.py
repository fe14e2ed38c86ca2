"""The operations on sessions, runs and events that have to be consistent. Each is part of one transaction.

The methods are synchronous, for the store's own thread (see `worker.py`).
"""

import msgspec

from fsm_runner.coordinator_server.errors import InvalidRequest
from fsm_runner.coordinator_server.store.approvals import ApprovalTable
from fsm_runner.coordinator_server.store.database import Database
from fsm_runner.coordinator_server.store.runs import RunRow, RunTable
from fsm_runner.coordinator_server.store.sessions import LIMIT_COLUMN, WORKFLOW_COLUMN, EventHead, SessionTable
from fsm_runner.protocol.statuses import BUSY_RUN_STATUSES, ENDED_SESSION_STATUSES, STOPPABLE_RUN_STATUSES
from fsm_runner.protocol.wire import JsonObject


class StopResult(msgspec.Struct, frozen=True):
    """The response to a stop request, and the runner that has to stop the session, if any."""

    response: JsonObject
    session_id: str
    runner_id: str | None = None


class Store:
    def __init__(self, database: Database) -> None:
        self.database = database
        self.sessions = SessionTable(database)
        self.runs = RunTable(database)
        self.approvals = ApprovalTable(database)

    def report_started(self, run_id: str) -> None:
        """Raises `NotFound`, as all reports do."""
        run = self.runs.start(run_id)
        # A run that failed because of a limit has left it in the session.
        self.sessions.update(run.session_id, status="running", **{LIMIT_COLUMN: None})
        self.sessions.add_own_event(run.session_id, "run_start", run_id=run_id)

    def report_completed(self, run_id: str, session_status: str) -> None:
        run = self.runs.end(run_id, "completed")
        self._end_turn(run, session_status)

    def report_failed(self, run_id: str, error: str) -> None:
        run = self.runs.end(run_id, "failed", error)
        self._end_turn(run, "failed", error=error)

    def report_stopped(self, run_id: str, signal: str) -> None:
        run = self.runs.end(run_id, "stopped")
        self._end_turn(run, "stopped", signal=signal)

    def report_session_end(self, session_id: str, status: str) -> None:
        """Record that a persistent executor ended between turns. Raises `InvalidRequest`, `NotFound`."""
        if status not in ENDED_SESSION_STATUSES:
            known = ", ".join(ENDED_SESSION_STATUSES)
            raise InvalidRequest(f"Invalid session status '{status}'; it is one of: {known}")
        self.sessions.update(session_id, status=status)

    def close_runner(self, runner_id: str, reason: str) -> None:
        """Fail the open runs of a runner that has left, and finish its idle sessions."""
        for run in self.runs.fail_held_by(runner_id, reason):
            self._end_turn(run, "failed", error=reason)
        self.sessions.finish_idle_of(runner_id)

    def stop_run(self, run_id: str) -> StopResult:
        """Raises `NotFound`, or `InvalidRequest` if the run is stopping or has ended."""
        run = self.runs.row(run_id)
        if run.status not in STOPPABLE_RUN_STATUSES:
            raise InvalidRequest(f"Run cannot be stopped (status: {run.status})")
        return self._stop(run)

    def stop_session(self, session_id: str) -> StopResult:
        """Stop the session in any status. Raises `NotFound`."""
        session = self.sessions.get(session_id)
        run = self.runs.latest_of(session_id)
        if run is not None and run.status in STOPPABLE_RUN_STATUSES:
            return self._stop(run)
        if run is not None and run.status == "stopping":
            return _nothing_to_stop(session_id, "stopping", "Session is already being stopped")
        if session["status"] in ENDED_SESSION_STATUSES:
            return _nothing_to_stop(session_id, session["status"], f"Session already {session['status']}")
        if session["status"] == "idle" and run is not None and run.runner_id is not None:
            response = {"ok": True, "session_id": session_id, "status": "stopping"}
            return StopResult(response, session_id, run.runner_id)
        self.sessions.update(session_id, status="stopped")
        return _nothing_to_stop(session_id, "stopped", "No active run found - session marked as stopped")

    def add_event(self, session_id: str, event: EventHead, body: bytes) -> None:
        """Raises `NotFound`, or `InvalidRequest` if the event names another session."""
        self.sessions.get(session_id)
        if event.session_id != session_id:
            raise InvalidRequest("Event session_id must match URL session_id")
        self.sessions.add_event(event, body)

    def _stop(self, run: RunRow) -> StopResult:
        response: JsonObject = {"ok": True, "run_id": run.run_id, "session_id": run.session_id}
        if run.status == "pending":
            self._end_turn(self.runs.end(run.run_id, "stopped"), "stopped")
            message = "Run cancelled before execution"
            return StopResult({**response, "status": "stopped", "message": message}, run.session_id)
        self.runs.request_stop(run.run_id)
        return StopResult({**response, "status": "stopping"}, run.session_id, run.runner_id)

    def _end_turn(self, run: RunRow, session_status: str, **fields: str) -> None:
        latest = self.runs.latest_of(run.session_id)
        changes: dict[str, str | None] = {"status": session_status, WORKFLOW_COLUMN: None}
        if latest is not None and latest.status in BUSY_RUN_STATUSES:
            # A run that was refused as busy ends no turn of the session.
            changes = {"status": "running"}
        self.sessions.update(run.session_id, **changes)
        self.sessions.add_own_event(run.session_id, "run_completed", run_id=run.run_id, status=run.status, **fields)


def _nothing_to_stop(session_id: str, status: str, message: str) -> StopResult:
    return StopResult({"ok": True, "session_id": session_id, "status": status, "message": message}, session_id)
