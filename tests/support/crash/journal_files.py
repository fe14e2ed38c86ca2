"""Reads the journal of a runner that has ended, and finds the processes that it has left."""

import os
import shutil
import signal
import sqlite3
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from fsm_runner.journal.opening import JOURNAL_FILE
from fsm_runner.process.tree.process_tree import RUNNER_TAG_VARIABLE, runner_tag

PROC = Path("/proc")


class Step(NamedTuple):
    """A step in the journal; `source` is empty for the first step of a life."""

    process: str
    machine: str
    subject: str
    event: str
    source: str
    target: str
    outcome: str | None

    @property
    def key(self) -> tuple[str, str, str]:
        return self.source, self.event, self.target

    def __str__(self) -> str:
        return f"{self.process} {self.machine} {self.subject}: {self.source} -{self.event}-> {self.target}"


class JournalContent(NamedTuple):
    """What a journal holds."""

    steps: list[Step]
    runs: dict[str, bool]
    """Whether a run has ended, by id."""
    waiting: set[str]
    """The ids of the runs that wait for a limit."""
    open_sessions: list[str]
    messages: int
    """The number of undelivered messages."""
    integrity: str

    def steps_of_run(self, run_id: str) -> list[Step]:
        return [step for step in self.steps if step.machine == "run" and step.subject == run_id]

    @property
    def defects(self) -> Iterator[str]:
        """Describe what is wrong if the runner has drained."""
        if self.integrity != "ok":
            yield f"the journal is broken: {self.integrity}"
        if still_open := [run_id for run_id, has_ended in self.runs.items() if not has_ended]:
            yield f"open runs in the journal: {still_open}"
        if self.open_sessions:
            yield f"open sessions in the journal: {self.open_sessions}"
        if self.messages:
            yield f"{self.messages} messages are not delivered"


def read_journal(state_dir: Path) -> JournalContent:
    """Read a copy of the only journal below this folder, and leave the original as it is."""
    files = list(state_dir.glob(f"*/{JOURNAL_FILE}*"))
    with TemporaryDirectory(dir=state_dir.parent) as folder:
        for file in files:
            shutil.copy(file, folder)
        with closing(sqlite3.connect(Path(folder, JOURNAL_FILE))) as connection:
            integrity = connection.execute("PRAGMA integrity_check").fetchone()[0]
            if connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0:
                return JournalContent([], {}, set(), [], 0, integrity)
            return _read(connection, integrity)


def _read(connection: sqlite3.Connection, integrity: str) -> JournalContent:
    columns = "process, machine, subject, event, coalesce(source, ''), target, outcome"
    return JournalContent(
        steps=[Step(*row) for row in connection.execute(f"SELECT {columns} FROM transitions ORDER BY seq")],
        runs=dict(connection.execute("SELECT run_id, ended_at IS NOT NULL FROM runs")),
        waiting={row[0] for row in connection.execute("SELECT run_id FROM runs WHERE wait IS NOT NULL")},
        open_sessions=[row[0] for row in connection.execute("SELECT session_id FROM sessions WHERE ended_at IS NULL")],
        messages=connection.execute("SELECT count(*) FROM messages").fetchone()[0],
        integrity=integrity,
    )


def processes_left(state_dir: Path) -> list[str]:
    """Describe the processes of this folder's runners that still run. Only Linux can find them."""
    return [f"process {pid}" for pid in _tagged_pids(state_dir)]


def kill_processes_left(state_dir: Path) -> None:
    """Clean up after a failed test."""
    for pid in _tagged_pids(state_dir):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _tagged_pids(state_dir: Path) -> list[int]:
    tags = [f"{RUNNER_TAG_VARIABLE}={runner_tag(folder.name, '')}".encode() for folder in state_dir.iterdir()]
    found = []
    for place in PROC.glob("[0-9]*"):
        try:
            environment = place.joinpath("environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if any(entry.startswith(mark) for entry in environment for mark in tags):
            found.append(int(place.name))
    return found
