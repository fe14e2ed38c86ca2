"""A stop of a session: with a turn at work, and between turns (protocol.md, section 2)."""

from pathlib import Path

import pytest

from tests.support.command_executor import SESSION_STATUS, Step, held_by, scripted_bench, short_graces
from tests.support.processes import gone
from tests.support.runner import waiter

IGNORE_BOTH: list[Step] = [["ignore_shutdown"], ["ignore_sigterm"]]


@pytest.mark.parametrize(
    ("steps", "signal"),
    [
        ([], "shutdown"),
        ([["ignore_shutdown"]], "SIGTERM"),
        ([["ignore_sigterm"]], "shutdown"),
        (IGNORE_BOTH, "SIGKILL"),
    ],
    ids=["obeys", "ignores shutdown", "ignores SIGTERM", "ignores both"],
)
@pytest.mark.parametrize("turn", [1, 2])
async def test_a_stop_in_a_turn_says_what_it_took(
    tmp_path: Path, turn: int, steps: list[Step], signal: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    short_graces(monkeypatch)
    async with scripted_bench(tmp_path) as bench, waiter(tmp_path) as held:
        steps = [["bind"], *steps, ["tell_pid", str(held.started.path)], ["silent"]]
        if turn == 1:
            run = await bench.start(*steps)
        else:
            first = await bench.start()
            await bench.completes(first)
            run = await bench.resume(first, *steps)
        pid = await held.started.pid()
        await bench.system.api.stop_run(run.run_id)
        assert (await bench.end(run)).status == "stopped"
        assert bench.signal(run) == signal
        await gone(pid)
        assert await bench.session(run) == "stopped"
        await bench.runner.drain()
        assert bench.system.reports(run) == ["started", "stopped"]
        assert not bench.proxy.calls_for("POST", SESSION_STATUS)


async def test_a_stop_of_an_executor_that_is_too_busy_to_listen_takes_a_signal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short_graces(monkeypatch)
    async with scripted_bench(tmp_path) as bench, waiter(tmp_path) as held:
        run = await bench.start(["bind"], *held_by(held))
        pid = await held.started.pid()
        await bench.system.api.stop_run(run.run_id)
        assert (await bench.end(run)).status == "stopped"
        assert bench.signal(run) == "SIGTERM"
        await gone(pid)


@pytest.mark.parametrize("steps", [[], IGNORE_BOTH], ids=["obeys", "ignores both"])
async def test_a_stop_ends_the_whole_group(tmp_path: Path, steps: list[Step], monkeypatch: pytest.MonkeyPatch) -> None:
    short_graces(monkeypatch)
    async with scripted_bench(tmp_path) as bench, waiter(tmp_path) as held:
        run = await bench.start(["bind"], *steps, ["spawn", str(held.started.path)], ["silent"])
        child = await held.started.pid()
        await bench.system.api.stop_run(run.run_id)
        await bench.end(run)
        await gone(child)


@pytest.mark.parametrize("steps", [[], IGNORE_BOTH], ids=["obeys", "ignores both"])
async def test_a_stop_between_turns_ends_the_process_and_is_reported_as_stopped(
    tmp_path: Path, steps: list[Step], monkeypatch: pytest.MonkeyPatch
) -> None:
    short_graces(monkeypatch)
    async with scripted_bench(tmp_path) as bench, waiter(tmp_path) as held:
        run = await bench.start(["bind"], *steps, ["spawn", str(held.started.path)], ["report"])
        pids = await held.started.pid(), (await bench.completes(run))["pid"]
        await bench.stop_session(run)
        assert await bench.session_ended() == "stopped"
        for pid in pids:
            await gone(pid)
        assert await bench.session(run) == "stopped"
        assert (await bench.system.api.run(run.run_id)).status == "completed"
        assert "no live executor" in await bench.fails(await bench.resume(run))
        assert len(bench.proxy.calls_for("POST", SESSION_STATUS)) == 1


async def test_a_stop_of_a_session_in_a_turn_stops_the_turns_run(tmp_path: Path) -> None:
    async with scripted_bench(tmp_path) as bench, waiter(tmp_path) as held:
        run = await bench.start(["bind"], ["tell_pid", str(held.started.path)], ["silent"])
        pid = await held.started.pid()
        await bench.stop_session(run)
        assert (await bench.end(run)).status == "stopped"
        await gone(pid)
        await bench.runner.drain()
        assert not bench.proxy.calls_for("POST", SESSION_STATUS)


async def test_the_stop_of_one_session_leaves_the_others_alone(tmp_path: Path) -> None:
    async with scripted_bench(tmp_path) as bench, waiter(tmp_path) as held:
        idle = await bench.start(["bind"], ["report"])
        pid = (await bench.completes(idle))["pid"]
        stopped = await bench.start(["bind"], ["tell_pid", str(held.started.path)], ["silent"])
        await held.started.pid()
        await bench.system.api.stop_run(stopped.run_id)
        await bench.end(stopped)
        assert (await bench.completes(await bench.resume(idle, ["report"])))["pid"] == pid


async def test_a_stop_while_a_turn_is_being_written_ends_the_executor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short_graces(monkeypatch)
    async with scripted_bench(tmp_path) as bench, waiter(tmp_path) as held:
        first = await bench.start(["bind"], ["afterwards", *held_by(held)])
        await bench.completes(first)
        pid = await held.started.pid()
        # Larger than the pipe to a process that does not read: the runner is still writing it when the stop comes.
        run = await bench.resume(first, ["event", "x" * 300_000])
        await bench.system.state(run, "executing")
        await bench.system.api.stop_run(run.run_id)
        assert (await bench.end(run)).status == "stopped"
        assert bench.signal(run) == "SIGTERM"
        await gone(pid)
