"""Stop requests of clients for runs and sessions."""

import msgspec

from fsm_runner.coordinator_server.errors import InvalidRequest
from fsm_runner.coordinator_server.store.interface import RunRow, StopResult
from fsm_runner.coordinator_server.store.sqlite.database import Database
from fsm_runner.coordinator_server.store.sqlite.reports import Reports
from fsm_runner.coordinator_server.store.sqlite.runs import RunTable
from fsm_runner.coordinator_server.store.sqlite.sessions import SessionTable
from fsm_runner.protocol.statuses import ENDED_SESSION_STATUSES, STOPPABLE_RUN_STATUSES
from fsm_runner.protocol.wire import JsonObject


class Stops:
    def __init__(self, database: Database, runs: RunTable, sessions: SessionTable, reports: Reports) -> None:
        self._database = database
        self._runs = runs
        self._sessions = sessions
        self._reports = reports

    def stop_run(self, run_id: str) -> StopResult:
        """Raises `NotFound`, or `InvalidRequest` if the run is stopping or has ended."""
        run = self._runs.row(run_id)
        if run.status not in STOPPABLE_RUN_STATUSES:
            raise InvalidRequest(f"Run cannot be stopped (status: {run.status})")
        return self._stop(run)

    def stop_session(self, session_id: str) -> StopResult:
        """Stop the session in any status. Raises `NotFound`."""
        status = self._sessions.get(session_id)["status"]
        run = self._runs.latest_of(session_id)
        if run is not None and run.status in STOPPABLE_RUN_STATUSES:
            stopped = self._stop(run)
            # Also the executor that waits for this run, whose session does not end with it.
            latest = self._runs.latest_of(session_id) if status == "idle" else None
            return stopped if latest is None else msgspec.structs.replace(stopped, runner_id=latest.runner_id)
        if run is not None and run.status == "stopping":
            return _nothing_to_stop(session_id, "stopping", "Session is already being stopped")
        if status in ENDED_SESSION_STATUSES:
            return _nothing_to_stop(session_id, status, f"Session already {status}")
        if status == "idle" and run is not None and run.runner_id is not None:
            response = {"ok": True, "session_id": session_id, "status": "stopping"}
            return StopResult(response=response, session_id=session_id, runner_id=run.runner_id)
        self._sessions.update(session_id, status="stopped")
        return _nothing_to_stop(session_id, "stopped", "No active run found - session marked as stopped")

    def end_pending(self, run_id: str, status: str, error: str | None = None) -> None:
        """End a run that no runner has."""
        ended = self._runs.changed(
            "UPDATE runs SET status = ?, completed_at = ?, error = ? WHERE run_id = ? AND status = 'pending'"
            " RETURNING *",
            (status, self._database.utc_now(), error, run_id),
        )
        if ended is not None:
            self._sessions.end_unclaimed(ended.session_id, status)
            self._reports.note_end(ended, **({} if error is None else {"error": error}))

    def _stop(self, run: RunRow) -> StopResult:
        response: JsonObject = {"ok": True, "run_id": run.run_id, "session_id": run.session_id}
        if run.status == "pending":
            self.end_pending(run.run_id, "stopped")
            message = "Run cancelled before execution"
            return StopResult(response={**response, "status": "stopped", "message": message}, session_id=run.session_id)
        self._runs.changed("UPDATE runs SET status = 'stopping' WHERE run_id = ? RETURNING *", (run.run_id,))
        return StopResult(
            response={**response, "status": "stopping"}, session_id=run.session_id, runner_id=run.runner_id
        )


def _nothing_to_stop(session_id: str, status: str, message: str) -> StopResult:
    response = {"ok": True, "session_id": session_id, "status": status, "message": message}
    return StopResult(response=response, session_id=session_id)
