"""Stops, time limits and silence in each kind of state: an activity ends completely before anything else begins."""

from pathlib import Path
from typing import Any

import pytest

from fsm_runner.protocol.statuses import LIFECYCLES, Lifecycle
from tests.support.command_executor import AGENT, command_home, held_by, short_graces
from tests.support.fifo import Fifo
from tests.support.processes import gone
from tests.support.runner import Waiter, waiter
from tests.support.workflows import LONG_S, says, shell, steps, workflow, workflow_bench

SHORT_S = 0.3
"""A time limit that a test waits for."""
STUBBORN = 'trap "" TERM; echo $$ > "$1"; while :; do sleep 1000; done'
"""A command that only SIGKILL ends. Its argument is the file for its process id."""


@pytest.fixture(autouse=True)
def _short_graces(monkeypatch: pytest.MonkeyPatch) -> None:
    short_graces(monkeypatch)


def kinds(held: Waiter) -> dict[str, Any]:
    """Return an activity of each kind that lasts."""
    pipes = (f"{held.started.path}", f"{held.gate.path}")
    return {
        "turn": {"turn": steps(*held_by(held))},
        "command": {"command": shell('echo $$ > "$1"; read answer < "$2"', *pipes)},
        "approval": {"approval": {"question": "Merge?"}, "on_denied": "failed"},
        "wait": {"wait": {"for_s": LONG_S}},
        "agent": {"agent": {"name": AGENT, "parameters": {"steps": [["bind"], *held_by(held)]}}},
    }


@pytest.mark.parametrize("kind", ["turn", "command", "approval", "wait", "agent"])
async def test_a_stop_ends_the_activity_and_the_idle_process(tmp_path: Path, kind: str) -> None:
    async with waiter(tmp_path) as held:
        flow = workflow(
            first={"turn": steps(["bind"], ["report"]), "on_done": "lasting"},
            lasting={**kinds(held)[kind], "on_done": "completed"},
        )
        async with workflow_bench(tmp_path, flow) as bench:
            run = await bench.submit()
            await bench.enters(run, "lasting")
            pids = {await held.started.pid()} if kind in ("turn", "command") else set()
            await bench.stop_session(run)
            assert (await bench.end(run)).status == "stopped"
            pids.add(bench.visits(run)[0].value["data"]["pid"])
            for pid in pids:
                await gone(pid)
            assert bench.path(run) == ["first:done", "lasting:stopped"]
            assert bench.workflow_fields(run)[-1:] in ([], [None])
            assert await bench.session(run) == "stopped"
            assert await bench.results(run) == []


@pytest.mark.parametrize("lifecycle", LIFECYCLES)
async def test_a_turn_that_exceeds_its_time_limit_has_ended_when_the_next_state_begins(
    tmp_path: Path, lifecycle: Lifecycle, signs: Fifo, go: Fifo
) -> None:
    flow = workflow(
        slow={
            "turn": steps(["bind"], ["ignore_sigterm"], ["tell_pid", str(signs.path)], ["await", str(go.path)]),
            "timeout_s": 1,
            "on_done": "failed",
            "on_timeout": "look",
        },
        look={"command": shell('read pid < "$1"; if kill -0 $pid; then exit 1; fi', str(signs.path)), "on_done": "new"},
        new={"turn": {**says("two", ["bind"]), "session": "new"}, "on_done": "completed"},
    )
    home = command_home(tmp_path / "home", lifecycle=lifecycle)
    async with workflow_bench(tmp_path, flow, home) as bench:
        run = await bench.submit()
        await bench.completes(run)
        assert bench.path(run) == ["slow:timeout", "look:done", "new:done"]
        slow = bench.visits(run)[0].value
        assert (slow["ok"], slow["error"]) == (False, "slow: not done within its time limit of 1 s")
        assert await bench.results(run) == ["two"]


async def test_a_command_that_exceeds_its_time_limit_has_ended_when_the_next_state_begins(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    flow = workflow(
        slow={
            "command": shell(STUBBORN, str(pid_file)),
            "timeout_s": SHORT_S,
            "on_done": "failed",
            "on_timeout": "look",
        },
        look={"command": shell('if kill -0 $(cat "$1"); then exit 1; fi', str(pid_file)), "on_done": "completed"},
        top={"result": {"text": "${slow.exit_code}"}},
    )
    async with workflow_bench(tmp_path, flow) as bench:
        run = await bench.submit()
        await bench.completes(run)
        assert bench.path(run) == ["slow:timeout", "look:done"]
        assert await bench.results(run) == ["124"]


@pytest.mark.parametrize("kind", ["turn", "command", "agent"])
async def test_the_time_of_the_workflow_includes_all_states(tmp_path: Path, kind: str) -> None:
    async with waiter(tmp_path) as held:
        flow = workflow(
            first={"turn": steps(["bind"], ["report"]), "on_done": "lasting"},
            lasting={**kinds(held)[kind], "on_done": "completed"},
            top={"budget": {"max_wall_s": 1.5}},
        ).replace(f"timeout_s = {LONG_S}\n", "")
        async with workflow_bench(tmp_path, flow) as bench:
            run = await bench.submit()
            error = await bench.fails(run)
            assert error.endswith("the workflow was not done within 1.5 s (budget.max_wall_s); its state was 'lasting'")
            await gone(bench.visits(run)[0].value["data"]["pid"])


async def test_the_time_limit_of_a_run_is_paused_while_its_workflow_waits(tmp_path: Path) -> None:
    flow = workflow(
        pause={"wait": {"for_s": 1.6}, "on_done": "work"},
        work={"command": shell("true"), "on_done": "completed"},
    )
    async with workflow_bench(tmp_path, flow, run_timeout_s=1.5) as bench:
        run = await bench.submit()
        await bench.completes(run)


async def test_all_states_that_work_count_towards_the_time_limit_of_a_run(tmp_path: Path) -> None:
    flow = workflow(
        work={"command": shell("sleep 0.6"), "on_done": "pause"},
        pause={"wait": {"for_s": 0.1}, "on_done": "more"},
        more={"command": shell("sleep 1000"), "on_done": "completed"},
    )
    async with workflow_bench(tmp_path, flow, run_timeout_s=1.2) as bench:
        run = await bench.submit()
        await bench.enters(run, "more")
        assert "(run timeout)" in await bench.fails(run)
        assert bench.path(run) == ["work:done", "pause:done", "more:failed"]


async def test_a_silent_command_ends_the_run(tmp_path: Path) -> None:
    flow = workflow(
        work={"command": shell('echo $$ > "$1"; exec sleep 1000', str(tmp_path / "pid")), "on_done": "completed"}
    )
    async with workflow_bench(tmp_path, flow, silence_timeout_s=SHORT_S) as bench:
        run = await bench.submit()
        assert "silent: no event, no output" in await bench.fails(run)
        await gone(int((tmp_path / "pid").read_text()))


async def test_a_wait_is_not_silence(tmp_path: Path) -> None:
    flow = workflow(pause={"wait": {"for_s": 4 * SHORT_S}, "on_done": "completed"})
    async with workflow_bench(tmp_path, flow, silence_timeout_s=SHORT_S) as bench:
        await bench.completes(await bench.submit())


@pytest.mark.parametrize("lifecycle", LIFECYCLES)
async def test_a_stop_reports_the_strongest_signal_that_it_took(
    tmp_path: Path, lifecycle: Lifecycle, signs: Fifo
) -> None:
    flow = workflow(
        first={"turn": says("one", ["bind"]), "on_done": "stubborn"},
        stubborn={"command": shell(STUBBORN, str(signs.path)), "on_done": "completed"},
    )
    home = command_home(tmp_path / "home", lifecycle=lifecycle)
    async with workflow_bench(tmp_path, flow, home) as bench:
        run = await bench.submit()
        pid = await signs.pid()
        await bench.stop_session(run)
        assert (await bench.end(run)).status == "stopped"
        await gone(pid)
        assert bench.signal(run) == "SIGKILL"
