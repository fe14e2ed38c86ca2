"""What of a runner's life is on disk, and what of it is still running."""

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
from fsm_runner.process.tree.process_tags import RUNNER_TAG_VARIABLE, runner_tag

PROC = Path("/proc")


class Step(NamedTuple):
    """As the journal has it; `source` is empty where a life begins."""

    process: str
    machine: str
    subject: str
    event: str
    source: str
    target: str
    outcome: str | None

    @property
    def triple(self) -> tuple[str, str, str]:
        return self.source, self.event, self.target

    def __str__(self) -> str:
        return f"{self.process} {self.machine} {self.subject}: {self.source} -{self.event}-> {self.target}"


class Durable(NamedTuple):
    """A journal as it is found."""

    steps: list[Step]
    runs: dict[str, bool]
    """By id: whether it has ended."""
    open_sessions: list[str]
    messages: int
    """How many are not delivered."""
    integrity: str

    def of_run(self, run_id: str) -> list[Step]:
        return [step for step in self.steps if step.machine == "run" and step.subject == run_id]

    @property
    def defects(self) -> Iterator[str]:
        """Of a journal whose runner has left."""
        if self.integrity != "ok":
            yield f"the journal is broken: {self.integrity}"
        if still_open := [run_id for run_id, has_ended in self.runs.items() if not has_ended]:
            yield f"open in the journal: {still_open}"
        if self.open_sessions:
            yield f"sessions that are open in the journal: {self.open_sessions}"
        if self.messages:
            yield f"{self.messages} messages are not delivered"


def durable(state_dir: Path) -> Durable:
    """Of the only runner that has this folder. A copy is read, so that what is looked at stays as it was left."""
    files = list(state_dir.glob(f"*/{JOURNAL_FILE}*"))
    with TemporaryDirectory(dir=state_dir.parent) as folder:
        for file in files:
            shutil.copy(file, folder)
        with closing(sqlite3.connect(Path(folder, JOURNAL_FILE))) as connection:
            integrity = connection.execute("PRAGMA integrity_check").fetchone()[0]
            if connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0:
                return Durable([], {}, [], 0, integrity)
            return _read(connection, integrity)


def _read(connection: sqlite3.Connection, integrity: str) -> Durable:
    columns = "process, machine, subject, event, coalesce(source, ''), target, outcome"
    return Durable(
        steps=[Step(*row) for row in connection.execute(f"SELECT {columns} FROM transitions ORDER BY seq")],
        runs=dict(connection.execute("SELECT run_id, ended_at IS NOT NULL FROM runs")),
        open_sessions=[row[0] for row in connection.execute("SELECT session_id FROM sessions WHERE ended_at IS NULL")],
        messages=connection.execute("SELECT count(*) FROM messages").fetchone()[0],
        integrity=integrity,
    )


def left_running(state_dir: Path) -> list[str]:
    """Processes that this folder's runners have started and that are there. Only on Linux can they be found."""
    return [f"process {pid}" for pid in _marked(state_dir)]


def end_left_running(state_dir: Path) -> None:
    """So that a test that fails leaves nothing behind."""
    for pid in _marked(state_dir):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _marked(state_dir: Path) -> list[int]:
    marks = [f"{RUNNER_TAG_VARIABLE}={runner_tag(folder.name, '')}".encode() for folder in state_dir.iterdir()]
    found = []
    for place in PROC.glob("[0-9]*"):
        try:
            environment = place.joinpath("environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if any(entry.startswith(mark) for entry in environment for mark in marks):
            found.append(int(place.name))
    return found
