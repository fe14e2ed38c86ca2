"""Background work that outlasts the model's own turn: the run waits for its end."""

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.children import subreaper_enabled
from tests.support.claude import claude
from tests.support.fifo import Fifo
from tests.support.messages_api import INPUT_TOKENS, OUTPUT_TOKENS, Calls, Fails, Held, Says
from tests.support.processes import gone

WAITS_FOR_BUILD = "the turn waits for background work: the build"
WAITS_FOR_SERVER = "the turn waits for background work: the server"
SCHEMA = {"type": "object", "properties": {"count": {"type": "integer"}}, "required": ["count"]}


@pytest.fixture(autouse=True)
def adopted() -> Iterator[None]:
    """Adopt orphans, as a runner does: background commands have sessions of their own."""
    with subreaper_enabled(exclusive=False):
        yield


def agent(description: str = "look it up") -> Calls:
    """A sub-agent, which runs in the background by default."""
    prompt = {"prompt": "find the answer", "subagent_type": "general-purpose"}
    return Calls("Agent", {"description": description, **prompt})


def in_background(command: str, description: str = "the build") -> Calls:
    return Calls("Bash", {"command": command, "run_in_background": True, "description": description})


async def test_a_run_waits_for_its_subagents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with claude(tmp_path, monkeypatch) as bench:
        go_on = asyncio.Event()
        bench.api.will(agent(), Says("The agent is running."), Says("FINAL ANSWER 42"), Says("Nothing more."))
        bench.api.subagents.extend([Held(go_on, Calls("Bash", {"command": "echo 42"})), Says("It is 42.")])
        first = await bench.start()
        await bench.has_detail(first, "the turn waits for background work: look it up")
        go_on.set()
        assert await bench.completes(first) == "FINAL ANSWER 42"
        events = await bench.events(first)
        second = await bench.resume(first, "what else?")
        assert await bench.completes(second) == "Nothing more."
        usages = [bench.usage(run) for run in (first, second)]
    kinds = [event["event_type"] for event in events]
    assert kinds == ["message", "post_tool", "message", "post_tool", "message", "result"]
    assert [event["tool_name"] for event in events if event["event_type"] == "post_tool"] == ["Agent", "Bash"]
    # Three answers of the model and two of its sub-agent, then one.
    assert [usage.input_tokens for usage in usages] == [5 * INPUT_TOKENS, INPUT_TOKENS]
    assert [usage.output_tokens for usage in usages] == [5 * OUTPUT_TOKENS, OUTPUT_TOKENS]
    assert [usage.turns for usage in usages] == [5, 1]
    assert usages[0].cost_usd == pytest.approx(5 * (usages[1].cost_usd or 0))


async def test_a_one_shot_run_waits_for_its_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with Fifo(tmp_path / "go") as go, claude(tmp_path, monkeypatch, "one_shot") as bench:
        bench.api.will(in_background(f"read line < {go.path}"), Says("It is building."), Says("It is built."))
        run = await bench.start()
        await bench.has_detail(run, WAITS_FOR_BUILD)
        go.write_line()
        assert await bench.completes(run) == "It is built."
        assert bench.details(run) == [WAITS_FOR_BUILD]


async def test_two_commands_one_of_which_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with (
        Fifo(tmp_path / "one") as one,
        Fifo(tmp_path / "two") as two,
        claude(tmp_path, monkeypatch) as bench,
    ):
        commands = [in_background(f"read line < {fifo.path}; exit $line", fifo.path.name) for fifo in (one, two)]
        bench.api.will(*commands, Says("Both run."), Says("One is done."), Says("Two has failed."))
        run = await bench.start()
        await bench.has_detail(run, "the turn waits for background work: one; two")
        one.write_line("0")
        await bench.system.proxy.answered("POST", f"/sessions/{run.session_id}/events", 5)
        two.write_line("3")
        assert await bench.completes(run) == "Two has failed."
        assert bench.details(run) == [
            "the turn waits for background work: one; two",
            "the turn waits for background work: two",
            'background work has failed: Background command "two" failed with exit code 3',
        ]


async def test_an_error_of_the_api_after_background_work_fails_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Fifo(tmp_path / "go") as go, claude(tmp_path, monkeypatch) as bench:
        bench.api.will(in_background(f"read line < {go.path}"), Says("It is building."))
        bench.api.otherwise = Fails(400, "invalid_request_error", "too much")
        run = await bench.start()
        await bench.has_detail(run, WAITS_FOR_BUILD)
        go.write_line()
        error = await bench.fails(run)
    assert "too much" in error


async def test_the_last_answer_in_the_form_of_the_schema_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    agents = {"counter": {"output_schema": SCHEMA}}
    async with Fifo(tmp_path / "go") as go, claude(tmp_path, monkeypatch, agents=agents) as bench:
        answers = [Calls("StructuredOutput", {"count": count}) for count in (1, 2)]
        bench.api.will(in_background(f"read line < {go.path}"), *answers)
        run = await bench.start(agent="counter", prompt="how many?")
        await bench.has_detail(run, WAITS_FOR_BUILD)
        go.write_line()
        await bench.completes(run)
        assert await bench.system.result(run) == {"count": 2}


async def test_background_work_is_stopped_after_its_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = {"background_limit_s": 0.5}
    async with Fifo(tmp_path / "started") as started, claude(tmp_path, monkeypatch, config=config) as bench:
        server = in_background(f"echo $$ > {started.path}; sleep 1000", "the server")
        bench.api.will(server, Says("The server is up."))
        run = await bench.start()
        pid = await started.pid()
        assert await bench.completes(run) == "The server is up."
        await gone(pid)
        assert bench.details(run) == [
            WAITS_FOR_SERVER,
            "background work is stopped after 0.5 s without progress: the server",
            "background work has been stopped: the server",
        ]


async def test_a_stop_ends_background_work_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with Fifo(tmp_path / "started") as started, claude(tmp_path, monkeypatch) as bench:
        server = in_background(f"echo $$ > {started.path}; sleep 1000", "the server")
        bench.api.will(server, Says("The server is up."))
        run = await bench.start()
        pid = await started.pid()
        await bench.has_detail(run, WAITS_FOR_SERVER)
        await bench.system.api.stop_run(run.run_id)
        assert (await bench.system.end(run)).status == "stopped"
        await gone(pid)
        (report,) = bench.system.proxy.acknowledged("POST", f"/runner/runs/{run.run_id}/stopped")
        assert report.json["signal"] == "shutdown"


async def test_one_session_does_not_wake_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with claude(tmp_path, monkeypatch) as bench:
        idle = await bench.start("hello")
        await bench.completes(idle)
        bench.api.will(Calls("ListAgents", {}), Says("There is one."))
        other = await bench.start("who is there?")
        await bench.completes(other)
        (listed,) = bench.api.asked[-1].tool_results
        (name,) = re.findall(r"^ +(\S+) \[", str(listed["content"]), re.MULTILINE)
        message = {"to": name, "message": "begin a turn", "summary": "a turn"}
        bench.api.will(Calls("SendMessage", message), Says("It is sent."))
        await bench.completes(await bench.resume(other, "wake it up"))
        await bench.completes(await bench.resume(idle, "go on"))
    assert bench.api.asked[-1].prompts == ["hello", "go on"]
    assert "begin a turn" not in str(bench.api.asked[-1].messages)


async def test_the_model_cannot_schedule_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with claude(tmp_path, monkeypatch) as bench:
        wake_up = {"delaySeconds": 60, "reason": "to look again", "prompt": "look again"}
        bench.api.will(
            Calls("ScheduleWakeup", wake_up),
            Calls("CronCreate", {"cron": "* * * * *", "prompt": "look again", "recurring": True}),
            Says("I cannot."),
        )
        run = await bench.start()
        assert await bench.completes(run) == "I cannot."
        asked = bench.api.asked
    assert [result["is_error"] for result in asked[-1].tool_results] == [True, True]
    assert not {"ScheduleWakeup", "CronCreate", "CronDelete", "CronList"} & asked[0].tools
