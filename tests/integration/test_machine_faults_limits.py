"""A runner that reaches its limit of processes."""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from fsm_runner.errors import EXIT_OK
from fsm_runner.protocol.wire import Run, RunCreated
from tests.support.program import Program
from tests.support.proxy import REPORT, TERMINAL_REPORT
from tests.support.rights import open_place, runner_uid, runner_without_rights
from tests.support.runner import System, open_system

pytestmark = pytest.mark.linux(reason="the limits of Linux")

AT_ONCE = 40
PROCESSES = 24
"""Threads count too."""
WAITS = """#!/bin/sh
: < "$2"
echo '{"waited": true}'
"""


@pytest.fixture
def place() -> Iterator[Path]:
    with open_place() as folder:
        yield folder


class Gate:
    """Opens for all commands at once: a reader of a pipe waits until the pipe has a writer."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        path.chmod(0o666)
        self.path = path
        self._end = -1

    def open(self) -> None:
        self._end = os.open(self.path, os.O_RDWR)

    def close(self) -> None:
        if self._end >= 0:
            os.close(self._end)


@pytest.fixture
def gate(place: Path) -> Iterator[Gate]:
    """That of the agent `wait`."""
    (place / "home/executors/procedural/commands/wait").write_text(WAITS)
    gate = Gate(place / "gate")
    yield gate
    gate.close()


def with_limit(name: str, number: int) -> tuple[str, ...]:
    """The beginning of a command line."""
    return ("prlimit", f"--{name}={number}:{number}")


def processes_of(uid: int) -> int:
    """With their threads, as the kernel counts them."""
    count = 0
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            count += len(list((folder / "task").iterdir())) if folder.stat().st_uid == uid else 0
    return count


async def ends(system: System, runs: list[RunCreated]) -> list[Run]:
    await system.proxy.wait_for(
        lambda: len(system.proxy.acknowledged("POST", TERMINAL_REPORT)) >= len(runs), f"{len(runs)} reports"
    )
    return [await system.api.run(run.run_id) for run in runs]


async def all_at_once(system: System, gate: Gate) -> list[Run]:
    """So many runs, of which the first must have failed before any can end."""
    runs = [await system.submit("wait", gate=str(gate.path)) for _ in range(AT_ONCE)]
    await system.proxy.wait_for(lambda: len(_reported(system)) == AT_ONCE, "the runs, at work or failed")
    await system.proxy.answered("POST", f"{REPORT}failed")
    gate.open()
    return await ends(system, runs)


def _reported(system: System) -> set[str]:
    return {call.path.split("/")[3] for call in system.proxy.acknowledged("POST", f"{REPORT}.*")}


async def judge(system: System, ended: list[Run], *reasons: str) -> None:
    """Each one completed or failed for one of these reasons, and told so once."""
    failures = [run.error or "" for run in ended if run.status == "failed"]
    assert {run.status for run in ended} == {"completed", "failed"}
    assert [error for error in failures if not any(reason in error for reason in reasons)] == []
    reports = [call.path for call in system.proxy.acknowledged("POST", TERMINAL_REPORT)]
    assert len(reports) == len(ended) == AT_ONCE


async def works_on(system: System, runner: Program) -> None:
    for _ in range(3):
        run = await system.submit("say", text="still here")
        await system.proxy.answered("POST", f"/runner/runs/{run.run_id}/completed")
    runner.terminate()
    assert await runner.exit_code() == EXIT_OK


async def test_runs_without_room_for_a_process_fail_with_that_reason(place: Path, gate: Gate) -> None:
    limited = with_limit("nproc", processes_of(runner_uid()) + PROCESSES)
    async with open_system(place) as system, runner_without_rights(place, system, limited) as runner:
        await judge(system, await all_at_once(system, gate), "too many processes", "no thread can be started")
        await works_on(system, runner)
    assert not [line for line in runner.lines if "Traceback" in line]
