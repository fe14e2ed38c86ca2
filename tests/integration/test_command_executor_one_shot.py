"""A one-shot executor has a process for each run, whose exit code is the outcome (protocol.md, section 2)."""

from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest

from fsm_runner.protocol.wire import RunCreated
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

LARGE_CHARS = 300_000
"""More than a pipe holds."""


def one_shot(folder: Path, source: str | None = None, **overrides: Any) -> AbstractAsyncContextManager[ScriptedBench]:
    return scripted_bench(folder, command_home(folder / "home", source, lifecycle="one_shot"), **overrides)


async def test_runs_of_one_session_come_one_after_another(tmp_path: Path) -> None:
    async with one_shot(tmp_path) as bench, waiter(tmp_path) as held:
        first = await bench.start(["bind"], *held_by(held), ["event", "first"])
        await held.started.pid()
        further = [await bench.resume(first, ["event", text]) for text in ("second", "third")]
        for run in further:
            await bench.system.state(run, "executing")
        # A run of another session does not wait for them.
        await bench.completes(await bench.start(["bind"]))
        assert _texts(bench, first) == []
        held.gate.write_line()
        for run in (first, *further):
            await bench.completes(run)
        assert _texts(bench, first) == ["first", "second", "third"]


async def test_a_waiting_run_can_be_stopped_and_delays_no_other(tmp_path: Path) -> None:
    async with one_shot(tmp_path) as bench, waiter(tmp_path) as held:
        first = await bench.start(["bind"], *held_by(held), ["event", "first"])
        await held.started.pid()
        second, third = [await bench.resume(first, ["event", text]) for text in ("second", "third")]
        for run in (second, third):
            await bench.system.state(run, "executing")
        bench.runner.actor._runs.stop_run(second.run_id, "the test")
        assert (await bench.end(second)).status == "stopped"
        held.gate.write_line()
        await bench.completes(third)
        assert _texts(bench, first) == ["first", "third"]


def _texts(bench: ScriptedBench, run: RunCreated) -> list[str]:
    calls = bench.proxy.acknowledged("POST", f"/sessions/{run.session_id}/events")
    messages = [call.json for call in calls if call.json["event_type"] == "message"]
    return [message["content"][0]["text"] for message in messages]


async def test_exit_code_0_completes_the_run_and_finishes_the_session(tmp_path: Path) -> None:
    async with one_shot(tmp_path) as bench:
        run = await bench.start(["bind"], ["event", "hello"], ["report"])
        pid = (await bench.completes(run))["pid"]
        await gone(pid)
        (report,) = bench.proxy.acknowledged("POST", f"/runner/runs/{run.run_id}/completed")
        assert report.json["session_status"] == "finished"
        assert await bench.session(run) == "finished"
        assert bench.accepted_messages(run) == ["started", "bind", "events", "events", "completed"]
        assert not bench.proxy.calls_for("POST", SESSION_STATUS)


@pytest.mark.parametrize(
    ("steps", "reason"),
    [
        (
            [["say", "on stdout"], ["complain", " on stderr\n"], ["exit", 3]],
            "on stderr\n--- stdout ---\non stdout\n(exit code 3)",
        ),
        ([["say", " on stdout\n"], ["complain", " \n"], ["exit", 3]], "on stdout (exit code 3)"),
        ([["exit", 3]], "the command ended with exit code 3"),
        ([["die"]], "the command was killed by SIGKILL, exit code 137, perhaps for lack of memory"),
        (
            [["complain", "progress 10%"], ["die"]],
            "progress 10% (killed by SIGKILL, exit code 137, perhaps for lack of memory)",
        ),
        (
            [["complain", "it was killed"], ["exit", 137]],
            "it was killed (exit code 137, which a shell gives for SIGKILL, perhaps for lack of memory)",
        ),
        ([["complain", "not \xff UTF-8"], ["exit", 1]], "not \ufffd UTF-8 (exit code 1)"),
    ],
    ids=["both", "stdout", "exit code", "signal", "signal and stderr", "signal in a shell", "no UTF-8"],
)
async def test_any_other_exit_code_fails_the_run_with_its_output(
    tmp_path: Path, steps: list[Step], reason: str
) -> None:
    async with one_shot(tmp_path) as bench:
        run = await bench.start(["bind"], *steps)
        assert await bench.fails(run) == reason
        assert await bench.session(run) == "failed"


async def test_each_resume_is_a_process_of_its_own(tmp_path: Path) -> None:
    async with one_shot(tmp_path) as bench:
        first = await bench.start(["bind"], ["report"])
        answers = [await bench.completes(first)]
        answers += [await bench.completes(await bench.resume(first, ["bind"], ["report"])) for _ in range(3)]
        assert [answer["message"]["mode"] for answer in answers] == ["start", "resume", "resume", "resume"]
        assert {answer["message"]["session_id"] for answer in answers} == {first.session_id}
        assert len({answer["pid"] for answer in answers}) == 4


async def test_an_invocation_larger_than_a_pipe_arrives_whole(tmp_path: Path) -> None:
    async with one_shot(tmp_path) as bench:
        run = await bench.system.submit("scripted", steps=[["bind"], ["report"]], text="x" * LARGE_CHARS)
        assert (await bench.completes(run))["message"]["parameters"]["text"] == "x" * LARGE_CHARS


@pytest.mark.parametrize("size_chars", [1, LARGE_CHARS])
@pytest.mark.parametrize(
    ("source", "status", "reason"),
    [
        ("#!/bin/sh\nexit 0\n", "completed", None),
        ("#!/bin/sh\nexec 0<&-\nexit 0\n", "completed", None),
        ("#!/bin/sh\necho no >&2\nexit 1\n", "failed", "no (exit code 1)"),
    ],
)
async def test_an_executor_need_not_read_its_invocation(
    tmp_path: Path, source: str, status: str, reason: str | None, size_chars: int
) -> None:
    async with one_shot(tmp_path, source) as bench:
        ended = await bench.end(await bench.system.submit("scripted", text="x" * size_chars))
        assert (ended.status, ended.error) == (status, reason)


@pytest.mark.parametrize("size_chars", [1, LARGE_CHARS])
async def test_a_time_limit_ends_an_executor_that_never_reads(tmp_path: Path, size_chars: int) -> None:
    async with waiter(tmp_path) as held:
        source = f"#!/bin/sh\necho $$ > {held.started.path}\nexec sleep 1000\n"
        async with one_shot(tmp_path, source, run_timeout_s=2.0) as bench:
            run = await bench.system.submit("scripted", text="x" * size_chars)
            pid = await held.started.pid()
            assert "time limit of 2 s" in await bench.fails(run)
            await gone(pid)


@pytest.mark.parametrize(("steps", "signal"), [([], "SIGTERM"), ([["ignore_sigterm"]], "SIGKILL")])
async def test_a_stop_ends_the_process_and_its_group(
    tmp_path: Path, steps: list[Step], signal: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    short_graces(monkeypatch)
    async with one_shot(tmp_path) as bench, waiter(tmp_path) as held:
        run = await bench.start(["bind"], *steps, ["spawn", str(held.started.path)], *held_by(held))
        pids = await held.started.pid(), await held.started.pid()
        await bench.system.api.stop_run(run.run_id)
        assert (await bench.end(run)).status == "stopped"
        assert bench.signal(run) == signal
        for pid in pids:
            await gone(pid)
        assert await bench.session(run) == "stopped"


async def test_the_rest_of_the_group_ends_with_the_executor(tmp_path: Path) -> None:
    async with one_shot(tmp_path) as bench, waiter(tmp_path) as held:
        run = await bench.start(["bind"], ["spawn", str(held.started.path)])
        recovered = await held.started.pid()
        await bench.completes(run)
        await gone(recovered)


async def test_runs_at_once_are_processes_of_their_own(tmp_path: Path) -> None:
    async with one_shot(tmp_path) as bench, waiter(tmp_path) as held:
        run = await bench.start(["bind"], *held_by(held))
        await held.started.pid()
        await bench.completes(await bench.start(["bind"]))
        held.gate.write_line()
        await bench.completes(run)
