"""Executors that misbehave end with their documented outcome, within their limits."""

import re
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from fsm_runner.executors import persistent
from fsm_runner.process.child import child
from tests.support.command_executor import (
    SESSION_STATUS,
    ScriptedBench,
    Step,
    command_home,
    held_by,
    scripted_bench,
    short_graces,
)
from tests.support.processes import gone
from tests.support.runner import waiter

STDIN, STDOUT, STDERR = 0, 1, 2
LARGE_CHARS = 300_000
"""More than a pipe holds."""
HALF_A_LINE: Step = ["say", '{"type": "turn_complete"']
IN_ITS_TURN = "before its turn was complete"
SHORT_S = 0.3


def one_shot(folder: Path, source: str | None = None) -> AbstractAsyncContextManager[ScriptedBench]:
    return scripted_bench(folder, command_home(folder / "home", source, lifecycle="one_shot"))


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    short_graces(monkeypatch)
    monkeypatch.setattr(persistent, "EXIT_AFTER_CLOSE_S", SHORT_S)
    monkeypatch.setattr(child, "OUTPUT_DRAIN_S", SHORT_S)


# Closed streams.


async def test_a_turn_of_an_executor_that_closes_its_stdout_fails(tmp_path: Path) -> None:
    async with scripted_bench(tmp_path) as bench, waiter(tmp_path) as held:
        complains: Step = ["complain", "no place for a result\n"]
        run = await bench.start(["bind"], complains, ["close", STDOUT], *held_by(held))
        pid = await held.started.pid()
        assert await bench.fails(run) == (
            "the executor has closed its stdout, so it cannot complete a turn\n--- stderr ---\nno place for a result"
        )
        await gone(pid)
        assert not bench.proxy.calls_for("POST", SESSION_STATUS)


async def test_the_reason_of_an_executor_that_closed_its_stdout_is_reported(tmp_path: Path) -> None:
    async with scripted_bench(tmp_path) as bench:
        run = await bench.start(["bind"], ["close", STDOUT], ["complain", "no more"], ["exit", 3])
        assert await bench.fails(run) == f"no more (exit code 3 {IN_ITS_TURN})"


async def test_an_executor_that_closes_its_stdout_between_turns_is_ended_and_has_failed(tmp_path: Path) -> None:
    async with scripted_bench(tmp_path) as bench:
        run = await bench.start(["bind"], ["report"], ["afterwards", ["close", STDOUT]])
        pid = (await bench.completes(run))["pid"]
        assert await bench.session_ended() == "failed"
        await gone(pid)


async def test_a_one_shot_executor_may_close_its_output(tmp_path: Path) -> None:
    async with one_shot(tmp_path) as bench:
        run = await bench.start(["bind"], ["close", STDOUT], ["close", STDERR], ["report"], ["exit", 0])
        assert (await bench.completes(run))["answers"] == [200]
        failing = await bench.start(["bind"], ["close", STDOUT], ["close", STDERR], ["exit", 9])
        assert await bench.fails(failing) == "the command ended with exit code 9"


async def test_a_turn_for_an_executor_that_has_closed_its_stdin_fails(tmp_path: Path) -> None:
    async with scripted_bench(tmp_path) as bench, waiter(tmp_path) as held:
        stays: Step = ["afterwards", ["close", STDIN], *held_by(held)]
        first = await bench.start(["bind"], stays)
        await bench.completes(first)
        pid = await held.started.pid()
        error = await bench.fails(await bench.resume(first))
        assert error == "the executor has closed its stdin, so it cannot take a turn"
        await gone(pid)


async def test_a_turn_for_an_executor_that_ends_instead_fails_with_its_reason(tmp_path: Path) -> None:
    async with scripted_bench(tmp_path) as bench, waiter(tmp_path) as held:
        last_words: Step = ["complain", "I had enough\n"]
        ends: Step = ["afterwards", ["close", STDIN], *held_by(held), last_words, ["exit", 1]]
        first = await bench.start(["bind"], ends)
        await bench.completes(first)
        await held.started.pid()
        second = await bench.resume(first)
        await bench.system.state(second, "executing")
        held.gate.write_line()
        assert await bench.fails(second) == f"I had enough (exit code 1 {IN_ITS_TURN})"


async def test_output_from_between_turns_is_in_the_error_of_a_failed_turn(tmp_path: Path) -> None:
    async with scripted_bench(tmp_path) as bench, waiter(tmp_path) as held:
        complains: list[Step] = [["complain", "the disk is full"], ["tell_pid", str(held.started.path)]]
        first = await bench.start(["bind"], ["afterwards", ["await", str(held.gate.path)], *complains])
        await bench.completes(first)
        held.gate.write_line()
        await held.started.pid()
        error = await bench.fails(await bench.resume(first, ["exit", 1]))
        assert error == f"the disk is full (exit code 1 {IN_ITS_TURN})"


async def test_a_turn_that_is_completed_with_a_closed_stdin_counts(tmp_path: Path) -> None:
    async with scripted_bench(tmp_path) as bench:
        await bench.completes(await bench.start(["bind"], ["close", STDIN], ["report"]))


@pytest.mark.parametrize("lifecycle", ["one_shot", "persistent"])
@pytest.mark.parametrize(("code", "outcome"), [(0, "finished"), (2, "failed")])
async def test_an_exit_is_noticed_while_another_process_holds_the_streams(
    tmp_path: Path, lifecycle: str, code: int, outcome: str
) -> None:
    home = command_home(tmp_path / "home", lifecycle=lifecycle)
    async with scripted_bench(tmp_path, home) as bench, waiter(tmp_path) as held:
        leave: Step = ["leave", str(held.started.path), str(held.gate.path)]
        run = await bench.start(["bind"], leave, ["afterwards", ["exit", code]])
        recovered = await held.started.pid()
        await bench.end(run)
        if lifecycle == "persistent":
            assert await bench.session_ended() == outcome
        assert await bench.session(run) == outcome
        held.gate.write_line()
        await gone(recovered)


# Half of something.


@pytest.mark.parametrize("end", [["exit", 0], ["exit", 5], ["die"]], ids=str)
async def test_half_a_line_completes_no_turn(tmp_path: Path, end: Step) -> None:
    async with scripted_bench(tmp_path) as bench:
        error = await bench.fails(await bench.start(["bind"], HALF_A_LINE, end))
        assert re.fullmatch(rf"{re.escape(HALF_A_LINE[1])} \(.* {IN_ITS_TURN}.*\)", error)


@pytest.mark.parametrize("end", [["exit", 5], ["die"]], ids=str)
async def test_a_line_without_its_break_completes_no_turn_of_an_executor_that_fails(tmp_path: Path, end: Step) -> None:
    async with scripted_bench(tmp_path) as bench:
        run = await bench.start(["bind"], ["say", '{"type": "turn_complete"}'], ["complain", "half"], end)
        assert (await bench.fails(run)).startswith('half\n--- stdout ---\n{"type": "turn_complete"}\n(')


async def test_the_last_line_of_a_successful_executor_needs_no_line_break(tmp_path: Path) -> None:
    async with scripted_bench(tmp_path) as bench:
        run = await bench.start(["bind"], ["report"], ["say", '{"type": "turn_complete"}'], ["exit", 0])
        await bench.completes(run)
        assert await bench.session_ended() == "finished"


async def test_half_a_line_of_a_one_shot_executor_is_its_reason(tmp_path: Path) -> None:
    async with one_shot(tmp_path) as bench:
        assert (await bench.fails(await bench.start(HALF_A_LINE, ["die"]))).startswith(f"{HALF_A_LINE[1]} (killed by ")
        await bench.completes(await bench.start(HALF_A_LINE, ["exit", 0]))


# An executor that does not read.


@pytest.mark.parametrize("size_chars", [1, LARGE_CHARS])
@pytest.mark.parametrize("way", ["limit", "stop"])
async def test_an_executor_that_never_reads_ends_by_its_time_limit_or_a_stop(
    tmp_path: Path, way: str, size_chars: int
) -> None:
    async with waiter(tmp_path) as held:
        home = command_home(tmp_path / "home", f"#!/bin/sh\necho $$ > {held.started.path}\nexec sleep 1000\n")
        async with scripted_bench(tmp_path, home, run_timeout_s=2.0 if way == "limit" else None) as bench:
            run = await bench.system.submit("scripted", text="x" * size_chars)
            pid = await held.started.pid()
            if way == "limit":
                assert "time limit" in await bench.fails(run)
            else:
                await bench.system.api.stop_run(run.run_id)
                assert (await bench.end(run)).status == "stopped"
                assert bench.signal(run) == "SIGTERM"
            await gone(pid)


@pytest.mark.parametrize("size_chars", [1, LARGE_CHARS])
@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("#!/bin/sh\necho no >&2\nexit 1\n", f"no (exit code 1 {IN_ITS_TURN})"),
        ("#!/bin/sh\nexec <&-\necho no >&2\nsleep 0.05\nexit 1\n", f"no (exit code 1 {IN_ITS_TURN})"),
        ("#!/bin/sh\nexit 0\n", f"the executor ended with exit code 0 {IN_ITS_TURN}"),
    ],
    ids=["ends", "closes and ends", "says nothing"],
)
async def test_an_executor_that_ends_without_reading_fails_with_its_own_reason(
    tmp_path: Path, source: str, reason: str, size_chars: int
) -> None:
    async with scripted_bench(tmp_path, command_home(tmp_path / "home", source)) as bench:
        assert await bench.fails(await bench.system.submit("scripted", text="x" * size_chars)) == reason


async def test_a_turn_that_was_not_even_read_is_not_completed(tmp_path: Path) -> None:
    source = '#!/bin/sh\necho \'{"type": "turn_complete"}\'\nexec sleep 1000\n'
    async with scripted_bench(tmp_path, command_home(tmp_path / "home", source)) as bench:
        error = await bench.fails(await bench.system.submit("scripted", text="x" * LARGE_CHARS))
        assert error == "the executor sent turn_complete before it had read its turn"


async def test_a_turn_larger_than_a_pipe_arrives_whole(tmp_path: Path) -> None:
    async with scripted_bench(tmp_path) as bench:
        first = await bench.start(["bind"])
        await bench.completes(first)
        run = await bench.resume(first, ["report"], ["event", "x" * LARGE_CHARS])
        assert (await bench.completes(run))["message"]["parameters"]["steps"][1] == ["event", "x" * LARGE_CHARS]
