"""What the coordinator writes down: sessions, runs and events, changed together.

Plain and synchronous; every method is for the store's own thread (see `worker.py`).
"""

from collections.abc import Collection
from pathlib import Path

import msgspec

from fsm_runner.coordinator_server.errors import Refusal, session_not_found
from fsm_runner.coordinator_server.http.schemas import EventHead
from fsm_runner.coordinator_server.store.change_events import ChangeEvents
from fsm_runner.coordinator_server.store.database import Database
from fsm_runner.coordinator_server.store.matching import Capabilities
from fsm_runner.coordinator_server.store.runs import RunRow, RunTable
from fsm_runner.coordinator_server.store.sessions import SessionTable
from fsm_runner.protocol.statuses import ENDED_SESSION_STATUSES, STOPPABLE_RUN_STATUSES
from fsm_runner.protocol.wire import JsonObject


class StopOrder(msgspec.Struct, frozen=True):
    """What a stop request came to: the answer to it, and the runner that has to be told, if any."""

    answer: JsonObject
    session_id: str
    runner_id: str | None = None


class Store:
    def __init__(self, file: Path | None) -> None:
        """Raises UsageError that names the file."""
        self.database = Database(file)
        self.notices = ChangeEvents()
        self.sessions = SessionTable(self.database, self.notices)
        self.runs = RunTable(self.database, self.notices)

    def close(self) -> None:
        self.database.close()

    def claim(self, runner: Capabilities) -> JsonObject | None:
        return self.runs.claim(runner)

    def hand_over(self, runner_id: str, agents: Collection[str]) -> None:
        self.runs.hand_over(runner_id, agents)

    def report_started(self, run_id: str) -> None:
        """Raises a 404 Refusal, as all reports do."""
        run = self.runs.start(run_id)
        self.sessions.update(run.session_id, status="running")
        self.sessions.note(run.session_id, "run_start", run_id=run_id)

    def report_completed(self, run_id: str, session_status: str) -> None:
        run = self.runs.end(run_id, "completed")
        self._close(run, session_status)

    def report_failed(self, run_id: str, error: str) -> None:
        run = self.runs.end(run_id, "failed", error)
        self._close(run, "failed", error=error)

    def report_stopped(self, run_id: str, signal: str) -> None:
        run = self.runs.end(run_id, "stopped")
        self._close(run, "stopped", signal=signal)

    def report_session_end(self, session_id: str, status: str) -> None:
        """A persistent executor ended between turns. Raises a 400 or 404 Refusal."""
        if status not in ENDED_SESSION_STATUSES:
            raise Refusal(400, f"Invalid session status '{status}'; it is one of: {', '.join(ENDED_SESSION_STATUSES)}")
        if self.sessions.update(session_id, status=status) is None:
            raise session_not_found()

    def close_runner(self, runner_id: str, reason: str) -> None:
        """A runner has left: its open runs have failed, its idle sessions are finished."""
        for run in self.runs.fail_open_of(runner_id, reason):
            self._close(run, "failed", error=reason)
        self.sessions.finish_idle_of(runner_id)

    def stop_run(self, run_id: str) -> StopOrder:
        """Raises a 404 Refusal, and a 400 one where there is nothing to stop."""
        run = self.runs.find(run_id)
        if run.status not in STOPPABLE_RUN_STATUSES:
            raise Refusal(400, f"Run cannot be stopped (status: {run.status})")
        return self._stop(run)

    def stop_session(self, session_id: str) -> StopOrder:
        """Whatever the session's state is. Raises a 404 Refusal."""
        session = self.sessions.get(session_id)
        run = self.runs.last_of(session_id)
        if run is not None and run.status in STOPPABLE_RUN_STATUSES:
            return self._stop(run)
        if run is not None and run.status == "stopping":
            return _nothing_to_do(session_id, "stopping", "Session is already being stopped")
        if session["status"] in ENDED_SESSION_STATUSES:
            return _nothing_to_do(session_id, session["status"], f"Session already {session['status']}")
        if session["status"] == "idle" and run is not None and run.runner_id is not None:
            answer = {"ok": True, "session_id": session_id, "status": "stopping"}
            return StopOrder(answer, session_id, run.runner_id)
        self.sessions.update(session_id, status="stopped")
        return _nothing_to_do(session_id, "stopped", "No active run found - session marked as stopped")

    def delete_session(self, session_id: str) -> JsonObject:
        """Raises a 404 or 409 Refusal."""
        return {"ok": True, "session_id": session_id, "deleted": self.sessions.delete(session_id)}

    def add_event(self, session_id: str, event: EventHead, body: bytes) -> None:
        """Raises a 404 Refusal, and a 400 one where the event names another session."""
        self.sessions.get(session_id)
        if event.session_id != session_id:
            raise Refusal(400, "Event session_id must match URL session_id")
        self.sessions.add_event(event, body)

    def _stop(self, run: RunRow) -> StopOrder:
        answer: JsonObject = {"ok": True, "run_id": run.run_id, "session_id": run.session_id}
        if run.status == "pending":
            self._close(self.runs.end(run.run_id, "stopped"), "stopped")
            message = "Run cancelled before execution"
            return StopOrder({**answer, "status": "stopped", "message": message}, run.session_id)
        self.runs.ask_to_stop(run.run_id)
        return StopOrder({**answer, "status": "stopping"}, run.session_id, run.runner_id)

    def _close(self, run: RunRow, session_status: str, **fields: str) -> None:
        self.sessions.update(run.session_id, status=session_status)
        self.sessions.note(run.session_id, "run_completed", run_id=run.run_id, status=run.status, **fields)


def _nothing_to_do(session_id: str, status: str, message: str) -> StopOrder:
    return StopOrder({"ok": True, "session_id": session_id, "status": status, "message": message}, session_id)
