"""The operations of the store, for its own thread (see `worker.py`). Each is part of one transaction."""

from fsm_runner.coordinator_server.store.sqlite.approvals import ApprovalTable
from fsm_runner.coordinator_server.store.sqlite.classes import ClassTable
from fsm_runner.coordinator_server.store.sqlite.database import Database
from fsm_runner.coordinator_server.store.sqlite.departures import Departures
from fsm_runner.coordinator_server.store.sqlite.events import EventTable
from fsm_runner.coordinator_server.store.sqlite.lists import RunLists
from fsm_runner.coordinator_server.store.sqlite.queue import Queue
from fsm_runner.coordinator_server.store.sqlite.reports import Reports
from fsm_runner.coordinator_server.store.sqlite.retention import Retention
from fsm_runner.coordinator_server.store.sqlite.runs import RunTable
from fsm_runner.coordinator_server.store.sqlite.sessions import SessionTable
from fsm_runner.coordinator_server.store.sqlite.stops import Stops

EXPIRED_AT_ONCE = 100
"""The most runs that one transaction fails because their time in the queue is over."""


class Tables:
    def __init__(self, database: Database) -> None:
        self.database = database
        self.classes = ClassTable(database)
        self.sessions = SessionTable(database)
        self.events = EventTable(database, self.sessions)
        self.runs = RunTable(database, self.classes)
        self.lists = RunLists(database, self.classes, self.runs)
        self.queue = Queue(database, self.classes, self.runs, self.sessions)
        self.reports = Reports(database, self.runs, self.sessions, self.events)
        self.stops = Stops(database, self.runs, self.sessions, self.reports)
        self.departures = Departures(database, self.classes, self.runs, self.sessions, self.reports)
        self.retention = Retention(database, self.sessions)
        self.approvals = ApprovalTable(database)

    def new_registration(self, runner_id: str) -> int:
        """Replace the runner's registration by one with a number greater than all before, also in a lost database."""
        row = self.database.row(
            "INSERT OR REPLACE INTO runners (registration, runner_id) VALUES"
            " (max(?, 1 + coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'runners'), 0)), ?)"
            " RETURNING registration",
            (int(self.database.now_s() * 1000), runner_id),
        )
        assert row is not None  # noqa: S101 - INSERT returns a row or raises
        return int(row["registration"])

    def expire_some(self) -> bool:
        """Fail pending runs whose time in the queue is over. Return whether there may be more of them."""
        expired = self.queue.expired(EXPIRED_AT_ONCE)
        for run_id, ttl_s in expired:
            self.stops.end_pending(run_id, "failed", f"expired: no runner claimed the run within {ttl_s:g} s")
        return len(expired) == EXPIRED_AT_ONCE
