"""The journal's disk is full: the runner claims nothing, and continues when there is room."""

import asyncio
import resource
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Protocol

import pytest

from fsm_runner.coordinator_server.timings import Timings
from fsm_runner.errors import EXIT_OK, EXIT_USAGE
from tests.support.faults import Answer, Forward, Kind
from tests.support.home import PROFILE, make_home
from tests.support.program import Program, environment, program
from tests.support.proxy import POLL, TERMINAL_REPORT
from tests.support.runner import System, Waiter, open_system, waiter
from tests.support.small_disk import SmallDisk, may_mount, small_disk
from tests.support.watch import PATIENCE_S

pytestmark = pytest.mark.linux(reason="the test sets a limit of another process")

REGISTER = "/runner/register"
QUICK = Timings(heartbeat_interval_s=0.1, poll_timeout_s=0.3, stale_after_s=0.5)
"""A poll that is held when the disk gets full may bring one more run, so it is not held for long."""
LIFE = ["claimed", "preparing_workspace", "executing", "reporting"]


@contextmanager
def opened(state_dir: Path) -> Iterator[sqlite3.Connection]:
    (path,) = state_dir.glob("*/journal.sqlite")
    connection = sqlite3.connect(path)
    try:
        yield connection
    finally:
        connection.close()


class Room(Protocol):
    """The state directory."""

    @property
    def path(self) -> Path: ...

    def take(self, runner: Program) -> None: ...

    def give(self, runner: Program) -> None: ...


class RoomOnDisk:
    def __init__(self, disk: SmallDisk) -> None:
        self.disk = disk
        self.path = disk.path

    def take(self, runner: Program) -> None:
        """Also what SQLite has in reserve: a write-ahead file that it could write to from the beginning again."""
        with opened(self.path) as connection:
            assert connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0
        self.disk.fill()

    def give(self, runner: Program) -> None:
        self.disk.free()


class RoomInFiles:
    """Where nothing can be mounted: no file of the runner's may be written any more (EFBIG in place of ENOSPC)."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir()

    def take(self, runner: Program) -> None:
        resource.prlimit(runner.process.pid, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))

    def give(self, runner: Program) -> None:
        if runner.process.returncode is None:
            resource.prlimit(
                runner.process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
            )


@pytest.fixture(params=["full disk", "limit of file size"] if may_mount() else ["limit of file size"])
def room(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Room]:
    if request.param == "full disk":
        with small_disk(tmp_path / "state") as disk:
            yield RoomOnDisk(disk)
    else:
        yield RoomInFiles(tmp_path / "state")


def held_back(brought: asyncio.Event, released: asyncio.Event) -> Kind:
    """An answer that carries a run."""

    async def respond(forward: Forward) -> Answer | None:
        answer = await forward()
        if answer is not None and b'"run_id"' in answer.body:
            brought.set()
            await released.wait()
        return answer

    return Kind("held back", respond, genuine=True)


class Case:
    """A runner whose journal is in `room`, and a run that it has at work."""

    def __init__(self, folder: Path, system: System, command: Waiter, room: Room) -> None:
        self.system = system
        self.command = command
        self.room = room
        self._folder = folder

    @asynccontextmanager
    async def runner(self) -> AsyncIterator[Program]:
        registrations = len(self.system.proxy.acknowledged("POST", REGISTER))
        async with program(self._folder, environment(self._folder / "home"), *self.arguments) as runner:
            await self.system.proxy.answered("POST", REGISTER, registrations + 1)
            yield runner

    @property
    def arguments(self) -> tuple[str, ...]:
        return ("-x", PROFILE, "-c", self.system.proxy.url, "--state-dir", str(self.room.path))

    async def run_at_work(self) -> str:
        """That it is at work is in the journal already."""
        run = await self.system.submit("wait", **self.command.parameters)
        await self.command.started.pid()
        await self.system.proxy.wait_for(lambda: self._has_noted(run.run_id, "executing"), "what is noted")
        return run.run_id

    def _has_noted(self, run_id: str, state: str) -> bool:
        """Looked at with each heartbeat."""
        with written(self.room.path) as journal:
            return journal.states(run_id)[-1:] == [state]

    async def run_that_finds_no_room(self, runner: Program) -> str:
        """The room is taken while the run is on its way to the runner. The reason that the coordinator was given."""
        brought, released = asyncio.Event(), asyncio.Event()
        proxy = self.system.proxy
        proxy.fault("GET", POLL, held_back(brought, released), times=None)
        await proxy.seen("GET", POLL, len(proxy.calls_for("GET", POLL)) + 1)
        run = await self.system.submit("say", text="never said")
        async with asyncio.timeout(PATIENCE_S):
            await brought.wait()
        self.room.take(runner)
        released.set()
        proxy.heal()
        call = await proxy.answered("POST", f"/runner/runs/{run.run_id}/failed")
        error: str = call.json["error"]
        return error

    async def no_poll_held(self) -> None:
        await self.system.proxy.wait_for(
            lambda: all(call.answered_at is not None for call in self.system.proxy.calls_for("GET", POLL)),
            "the end of the last poll",
        )

    async def completed(self, run_id: str) -> None:
        await self.system.proxy.answered("POST", f"/runner/runs/{run_id}/completed")


@pytest.fixture
async def case(tmp_path: Path, room: Room) -> AsyncIterator[Case]:
    make_home(tmp_path / "home")
    async with open_system(tmp_path, QUICK) as system, waiter(tmp_path) as command:
        yield Case(tmp_path, system, command, room)


class Written:
    """The contents of a journal."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def rows(self, query: str, *values: str) -> list[tuple[object, ...]]:
        return self._connection.execute(query, values).fetchall()

    def states(self, subject: str) -> list[object]:
        return [row[0] for row in self.rows("SELECT target FROM transitions WHERE subject = ? ORDER BY seq", subject)]

    @property
    def is_settled(self) -> bool:
        """Return whether no run is open and no message is stored."""
        return not self.rows("SELECT 1 FROM runs WHERE ended_at IS NULL") and not self.rows("SELECT 1 FROM messages")


@contextmanager
def written(state_dir: Path) -> Iterator[Written]:
    with opened(state_dir) as connection:
        journal = Written(connection)
        assert journal.rows("PRAGMA integrity_check") == [("ok",)]
        yield journal


async def test_it_claims_nothing_while_runs_continue_and_then_writes_all_records(case: Case) -> None:
    async with case.runner() as runner:
        at_work = await case.run_at_work()
        assert "cannot be written" in await case.run_that_finds_no_room(runner)
        assert "cannot be written" in await runner.said("→ suspended")
        await case.no_poll_held()
        polls = len(case.system.proxy.calls_for("GET", POLL))
        waiting = await case.system.submit("say", text="at last")
        case.command.gate.write_line("on a full disk")
        await case.completed(at_work)
        assert (await case.system.api.run(waiting.run_id)).status == "pending"
        assert len(case.system.proxy.calls_for("GET", POLL)) == polls
        case.room.give(runner)
        await runner.said("suspended → online")
        await case.completed(waiting.run_id)
        runner.terminate()
        assert await runner.exit_code() == EXIT_OK
        assert not [line for line in runner.lines if "Traceback" in line]
    with written(case.room.path) as journal:
        assert journal.states(at_work) == journal.states(waiting.run_id) == [*LIFE, "completed"]
        assert journal.states("runner")[-7:] == [
            "suspended",
            "online",
            "draining",
            "flushing_reports",
            "deregistering",
            "awaiting_last_poll",
            "stopped",
        ]
        assert journal.is_settled


async def test_a_runner_that_is_killed_meanwhile_leaves_a_usable_journal(case: Case) -> None:
    async with case.runner() as runner:
        at_work = await case.run_at_work()
        refused = await case.run_that_finds_no_room(runner)
        await runner.said("→ suspended")
        runner.process.kill()
        await runner.exit_code()
    case.room.give(runner)
    with written(case.room.path) as journal:
        assert journal.states(at_work) == ["claimed", "preparing_workspace", "executing"]
    async with case.runner() as runner:
        call = await case.system.proxy.answered("POST", f"/runner/runs/{at_work}/failed")
        assert call.json["error"] == "interrupted: the runner's process ended while the run was executing"
        run = await case.system.submit("say", text="still here")
        await case.completed(run.run_id)
        runner.terminate()
        assert await runner.exit_code() == EXIT_OK
    reports = [call.path for call in case.system.proxy.acknowledged("POST", TERMINAL_REPORT)]
    assert len(set(reports)) == len(reports) == len([at_work, refused, run])
    with written(case.room.path) as journal:
        assert journal.is_settled


def test_a_start_without_room_names_the_file(room: Room, tmp_path: Path) -> None:
    make_home(tmp_path / "home")
    limit = "ulimit -f 0" if isinstance(room, RoomInFiles) else ":"
    if isinstance(room, RoomOnDisk):
        room.disk.fill()
    command = ["sh", "-c", f'{limit}; exec "$@"', "sh", sys.executable, "-m", "fsm_runner"]
    arguments = ["-x", PROFILE, "-c", "http://127.0.0.1:9", "--state-dir", str(room.path)]
    ended = subprocess.run(
        [*command, *arguments],
        cwd=tmp_path,
        env=environment(tmp_path / "home"),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.returncode == EXIT_USAGE
    assert str(room.path) in ended.stderr
    assert len(ended.stderr.splitlines()) == 1
