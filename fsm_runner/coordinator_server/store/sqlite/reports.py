"""Reports of runners about their runs, with the checks of fencing (protocol.md, section 1.1)."""

from fsm_runner.coordinator_server.errors import InvalidRequest, RegistrationSuperseded, RunReassigned
from fsm_runner.coordinator_server.store.interface import Author, EventHead, Reporter, RunRow
from fsm_runner.coordinator_server.store.sqlite.database import Database
from fsm_runner.coordinator_server.store.sqlite.events import EventTable
from fsm_runner.coordinator_server.store.sqlite.runs import RunTable
from fsm_runner.coordinator_server.store.sqlite.sessions import SessionTable
from fsm_runner.coordinator_server.store.sqlite.sql import HELD
from fsm_runner.protocol.statuses import ENDED_SESSION_STATUSES, HELD_RUN_STATUSES
from fsm_runner.protocol.wire import JsonObject

_IS_CURRENT = "? = (SELECT registration FROM runners WHERE runner_id = runs.runner_id)"


class Reports:
    def __init__(self, database: Database, runs: RunTable, sessions: SessionTable, events: EventTable) -> None:
        self._database = database
        self._runs = runs
        self._sessions = sessions
        self._events = events

    def started(self, run_id: str, reporter: Reporter) -> None:
        """Raises `NotFound`, `RunReassigned` and `RegistrationSuperseded`, as the other reports do."""
        if reporter.registration is None:
            status, condition = "'running'", "TRUE"
        else:
            # The run may have been stopped meanwhile, and the report may be repeated.
            status = "CASE status WHEN 'claimed' THEN 'running' ELSE status END"
            condition = f"{HELD} AND started_at IS NULL"
        # A run that no runner has gets this one, which took no part in fencing when it began the run.
        holder = "is_fenced = is_fenced AND runner_id IS NOT NULL, runner_id = coalesce(runner_id, ?)"
        settings = f"status = {status}, {holder}, started_at = ?, completed_at = NULL, error = NULL"
        values = (reporter.runner_id, self._database.utc_now())
        run = self._accepted(run_id, reporter, settings, values, condition)
        if run is not None:
            # A run that failed because of a limit has left it in the session.
            self._sessions.update(run.session_id, status="running", limit=None)
            self._events.add_own(run.session_id, "run_start", run_id=run_id)

    def completed(self, run_id: str, reporter: Reporter, session_status: str) -> RunRow:
        return self._end(run_id, reporter, "completed", session_status)

    def failed(self, run_id: str, reporter: Reporter, error: str) -> RunRow:
        return self._end(run_id, reporter, "failed", "failed", error=error)

    def stopped(self, run_id: str, reporter: Reporter, signal: str) -> RunRow:
        return self._end(run_id, reporter, "stopped", "stopped", signal=signal)

    def session_ended(self, session_id: str, reporter: Reporter, status: str) -> None:
        """Record that a persistent executor ended between turns. Raises `InvalidRequest`, `NotFound`."""
        if status not in ENDED_SESSION_STATUSES:
            known = ", ".join(ENDED_SESSION_STATUSES)
            raise InvalidRequest(f"Invalid session status '{status}'; it is one of: {known}")
        if not self._is_taken(session_id, reporter):
            self._sessions.update(session_id, status=status)

    def end_turn(self, run: RunRow, session_status: str, **fields: str) -> None:
        """Record in the session that the run has ended."""
        self._sessions.end_turn(run.session_id, session_status)
        self.note_end(run, **fields)

    def note_end(self, run: RunRow, **fields: str) -> None:
        """Add the event that the run has ended."""
        self._events.add_own(run.session_id, "run_completed", run_id=run.run_id, status=run.status, **fields)

    def add_event(self, session_id: str, event: EventHead, body: bytes, author: Author) -> None:
        if event.session_id != session_id:
            self._sessions.get(session_id)
            raise InvalidRequest("Event session_id must match URL session_id")
        self._check(author, session_id)
        self._events.add(event, body)

    def update_session(self, session_id: str, author: Author, **fields: str | bytes | None) -> JsonObject:
        self._check(author, session_id)
        return self._sessions.update(session_id, **fields)

    def _end(self, run_id: str, reporter: Reporter, status: str, session_status: str, **fields: str) -> RunRow:
        settings = "status = ?, completed_at = ?, error = ?, is_lost = 0"
        values = (status, self._database.utc_now(), fields.get("error"))
        condition = "TRUE" if reporter.registration is None else f"({HELD} OR is_lost)"
        run = self._accepted(run_id, reporter, settings, values, condition)
        if run is None:
            return self._runs.row(run_id)
        self.end_turn(run, session_status, **fields)
        return run

    def _accepted(
        self, run_id: str, reporter: Reporter, settings: str, values: tuple[object, ...], condition: str
    ) -> RunRow | None:
        """Change the run in one statement if the report is acceptable. None: it is, but changes nothing."""
        if reporter.registration is None:
            # A runner that takes no part in fencing may report at any time, unless another runner has the run.
            checks = f"(runner_id IS NULL OR runner_id = ? OR NOT {HELD})"
            checked: tuple[object, ...] = (reporter.runner_id,)
        else:
            checks = f"runner_id = ? AND {_IS_CURRENT} AND attempt = coalesce(?, attempt)"
            checked = (reporter.runner_id, reporter.registration, reporter.attempt)
        run = self._runs.changed(
            f"UPDATE runs SET {settings} WHERE run_id = ? AND {condition} AND {checks} RETURNING *",  # noqa: S608 - fixed text
            (*values, run_id, *checked),
        )
        if run is None:
            self._explain(run_id, reporter)
        return run

    def _explain(self, run_id: str, reporter: Reporter) -> None:
        """Raise the reason why a report has changed nothing, unless that is an end of the run."""
        row = self._runs.found(run_id)
        if reporter.registration is not None and not self._is_registered(reporter.runner_id, reporter.registration):
            raise RegistrationSuperseded(reporter.runner_id)
        if row["runner_id"] != reporter.runner_id or reporter.attempt not in (None, row["attempt"]):
            raise RunReassigned(run_id, row["attempt"])

    def _check(self, author: Author, session_id: str) -> None:
        """Raise the reason why this author may not write to the session, if there is one."""
        if author.registration is None:
            return
        writer = self._database.row("SELECT runner_id FROM runners WHERE registration = ?", (author.registration,))
        if author.run_id is None:
            if writer is None:
                raise RegistrationSuperseded(None)
            return
        row = self._runs.found(author.run_id)
        if writer is None:
            raise RegistrationSuperseded(row["runner_id"])
        is_holder = row["runner_id"] == writer["runner_id"] and row["session_id"] == session_id
        if not is_holder or author.attempt not in (None, row["attempt"]):
            raise RunReassigned(author.run_id, row["attempt"])

    def _is_taken(self, session_id: str, reporter: Reporter) -> bool:
        """Return whether another runner has the session.

        With a registration: also whether another one had it since, or its run was queued again.
        """
        holding = self._runs.holding(session_id)
        if holding is not None and holding.runner_id != reporter.runner_id:
            return reporter.registration is not None or holding.status in HELD_RUN_STATUSES
        return reporter.registration is not None and self._sessions.status(session_id) == "pending"

    def _is_registered(self, runner_id: str, registration: int) -> bool:
        row = self._database.row("SELECT registration FROM runners WHERE runner_id = ?", (runner_id,))
        return row is not None and row["registration"] == registration
