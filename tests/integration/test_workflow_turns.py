"""Turns of workflows: one conversation, whose results are messages, and one result of the run."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from fsm_runner.config.manifest import ExecutorManifest
from fsm_runner.config.profiles import LoadedProfile
from fsm_runner.protocol.statuses import LIFECYCLES, Lifecycle
from tests.support.command_executor import SESSION_STATUS, command_home
from tests.support.faults import reset, status
from tests.support.fifo import Fifo
from tests.support.logs import log_lines
from tests.support.processes import gone
from tests.support.workflows import says, shell, steps, workflow, workflow_bench

TWICE = workflow(
    first={"turn": says("one", ["bind"]), "on_done": "between"},
    between={"command": shell("echo between"), "on_done": "second"},
    second={"turn": steps(["report"]), "on_done": "completed"},
)


@pytest.mark.parametrize("lifecycle", LIFECYCLES)
async def test_turns_continue_one_conversation(tmp_path: Path, lifecycle: Lifecycle) -> None:
    home = command_home(tmp_path / "home", lifecycle=lifecycle)
    async with workflow_bench(tmp_path, TWICE, home) as bench:
        run = await bench.submit()
        reported = await bench.completes(run)
        assert len(bench.binds(run)) == 1
        message = reported["message"]
        assert (message.get("mode"), reported["turns"]) == ("resume", 1) if lifecycle == "one_shot" else (None, 2)
        assert message["parameters"] == {"steps": [["report"]]}
        assert bench.messages(run) == ["one"]
        assert len(await bench.results(run)) == 1
        assert bench.path(run) == ["first:done", "between:done", "second:done"]
        assert bench.visits(run)[0].value["result"] == "one"
        assert await bench.session(run) == ("finished" if lifecycle == "one_shot" else "idle")
        assert bench.system.reports(run) == ["started", "completed"]


async def test_a_conversation_that_is_left_idle_ends_like_that_of_any_run(tmp_path: Path) -> None:
    async with workflow_bench(tmp_path, TWICE, session_idle_timeout_s=0.2) as bench:
        run = await bench.submit()
        pid = (await bench.completes(run))["pid"]
        assert await bench.session_ended() == "finished"
        await gone(pid)


@pytest.mark.parametrize("lifecycle", LIFECYCLES)
async def test_a_new_conversation_has_a_process_and_a_bind_of_its_own(tmp_path: Path, lifecycle: Lifecycle) -> None:
    flow = workflow(
        first={"turn": steps(["bind"], ["report"]), "on_done": "second"},
        second={"turn": {**steps(["bind"], ["report"]), "session": "new"}, "on_done": "third"},
        third={"turn": steps(["report"]), "on_done": "completed"},
    )
    home = command_home(tmp_path / "home", lifecycle=lifecycle)
    async with workflow_bench(tmp_path, flow, home) as bench:
        run = await bench.submit()
        reported = await bench.completes(run)
        first, second = bench.binds(run)
        assert first != second
        assert reported["turns"] == (1 if lifecycle == "one_shot" else 2)
        if lifecycle == "persistent":
            assert second == f"exe-{reported['pid']}"
        assert await bench.session(run) == ("finished" if lifecycle == "one_shot" else "idle")


CONFIGURED = workflow(
    first={"turn": steps(["bind"], ["result", {"result_text": "one"}]), "on_done": "second"},
    second={"turn": {**steps(["report"]), "config": {"model": "${params.model}", "more": 1}}, "on_done": "third"},
    third={"turn": {**steps(["report"]), "config": {"model": "${params.model}", "more": 1}}, "on_done": "fourth"},
    fourth={"turn": steps(["report"]), "on_done": "completed"},
    top={"params": {"model": "string"}},
)


@pytest.mark.parametrize("lifecycle", LIFECYCLES)
async def test_the_configuration_of_a_turn_counts_for_that_turn(tmp_path: Path, lifecycle: Lifecycle) -> None:
    home = command_home(
        tmp_path / "home", lifecycle=lifecycle, revive=lifecycle == "persistent", config={"model": "large", "own": 2}
    )
    async with workflow_bench(tmp_path, CONFIGURED, home) as bench:
        run = await bench.submit(model="small")
        fourth = await bench.completes(run)
        second, third = (visit.value["data"] for visit in bench.visits(run)[1:3])
        assert second["message"]["executor_config"] == {"model": "small", "own": 2, "more": 1}
        if lifecycle == "persistent":
            assert (third["pid"], third["turns"]) == (second["pid"], 2)
        assert fourth["message"]["executor_config"] == {"model": "large", "own": 2}
        assert (fourth["message"]["mode"], len(bench.binds(run))) == ("resume", 1)


async def test_a_configuration_that_needs_a_new_process_needs_revive(tmp_path: Path) -> None:
    async with workflow_bench(tmp_path, CONFIGURED) as bench:
        run = await bench.submit(model="small")
        assert "the profile does not set `revive`" in await bench.fails(run)
        assert bench.path(run) == ["first:done", "second:error"]


def with_schema(home: LoadedProfile) -> LoadedProfile:
    schema = {"type": "object", "properties": {"model": {"type": "string"}}, "additionalProperties": False}
    return msgspec.structs.replace(home, manifest=ExecutorManifest(config_schema=schema))


@pytest.mark.parametrize(
    ("config", "path", "defect"),
    [
        ({"modell": "small"}, [], "states.first.turn: config: there is no modell; there are: model"),
        ({"model": 3}, [], "states.first.turn: config.model: 3 is not of type 'string'"),
        ({"model": "${params.model}"}, ["first:error"], "config.model: 7 is not of type 'string'"),
    ],
)
async def test_the_executor_says_which_configuration_it_can_have(
    tmp_path: Path, config: dict[str, Any], path: list[str], defect: str
) -> None:
    flow = workflow(
        first={"turn": {**says("one"), "config": config}, "on_done": "completed"}, top={"params": {"model": "integer"}}
    )
    async with workflow_bench(tmp_path, flow, with_schema(command_home(tmp_path / "home"))) as bench:
        run = await bench.submit(model=7)
        assert defect in await bench.fails(run)
        assert bench.path(run) == path


SCHEMA = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}


ANSWERS: list[tuple[dict[str, Any], list[str], Any]] = [
    ({"result_data": {"ok": True}}, ["ask:done"], {"ok": True}),
    ({"result_text": '{"ok": false}'}, ["ask:done"], {"ok": False}),
    ({"result_text": 'Well.\n```json\n{"ok": true}\n```\nBye.'}, ["ask:done"], {"ok": True}),
    (
        {"result_text": '```\n1\n```\n  ```json\n{"ok": true, "why": "```"}\n  ```'},
        ["ask:done"],
        {"ok": True, "why": "```"},
    ),
    ({"result_data": {"ok": "yes"}}, ["ask:error", "repair:done"], None),
    ({"result_text": "no JSON at all"}, ["ask:error", "repair:done"], None),
]


async def test_data_of_another_form_than_the_schema_is_an_error(tmp_path: Path) -> None:
    flow = workflow(
        ask={
            "turn": steps(["bind"], ["result", "${params.answer}"]),
            "schema": SCHEMA,
            "on_done": "completed",
            "on_error": "repair",
        },
        repair={"command": shell('printf %s "$1"', "error: ${ask.error}"), "on_done": "completed"},
        top={"params": {"answer": "object"}},
    )
    async with workflow_bench(tmp_path, flow) as bench:
        runs = [await bench.submit(answer=answer) for answer, _, _ in ANSWERS]
        for run, (_, path, data) in zip(runs, ANSWERS, strict=True):
            assert (await bench.end(run)).status == "completed"
            assert bench.path(run) == path
            asked, *repaired = bench.visits(run)
            assert asked.value.get("data") == data
            for visit in repaired:
                assert "its data does not match the schema of the state" in visit.value["stdout"]


async def test_the_result_of_a_workflow_is_the_result_of_the_run(tmp_path: Path) -> None:
    flow = workflow(
        first={"turn": says("one", ["bind"], ["event", "one"]), "on_done": "second"},
        second={"turn": says("two"), "on_done": "completed"},
        top={"result": {"text": "${first.result} and ${second.result}", "data": {"ok": "${second.ok}"}}},
    )
    async with workflow_bench(tmp_path, flow) as bench:
        run = await bench.submit()
        assert await bench.completes(run) == {"ok": True}
        assert await bench.results(run) == [{"ok": True}]
        assert bench.messages(run) == ["one", "two", "one and two"]


async def test_a_run_whose_result_has_data_that_is_no_object_fails_and_keeps_the_text(tmp_path: Path) -> None:
    flow = workflow(
        first={"turn": says("one", ["bind"]), "on_done": "completed"},
        top={
            "params": {"given": "object"},
            "result": {"text": "got ${first.result}", "data": "${params.given.list}"},
        },
    )
    async with workflow_bench(tmp_path, flow) as bench:
        run = await bench.submit(given={"list": [1, 2]})
        assert "result.data: the value is of the type list; the data of a result must be an object" in (
            await bench.fails(run)
        )
        assert await bench.results(run) == ["got one"]


async def test_a_failed_turn_is_an_error_of_its_state(tmp_path: Path) -> None:
    flow = workflow(
        first={"turn": steps(["bind"], ["complain", "broken"], ["exit", 3]), "on_done": "failed", "on_error": "again"},
        again={"turn": {**says("two", ["bind"]), "session": "new"}, "on_done": "completed"},
    )
    async with workflow_bench(tmp_path, flow) as bench:
        run = await bench.submit()
        await bench.completes(run)
        assert bench.path(run) == ["first:error", "again:done"]
        assert "broken" in bench.visits(run)[0].value["error"]
        assert await bench.results(run) == ["two"]


async def test_a_workflow_that_fails_ends_its_idle_process(tmp_path: Path) -> None:
    flow = workflow(
        first={"turn": steps(["bind"], ["report"]), "on_done": "refuse"},
        refuse={"final": True, "outcome": "failed", "error": "not good: ${first.ok}"},
    )
    async with workflow_bench(tmp_path, flow) as bench:
        run = await bench.submit()
        assert await bench.fails(run) == "not good: true"
        await gone(bench.visits(run)[0].value["data"]["pid"])
        assert await bench.session(run) == "failed"
        assert bench.accepted_messages(run).count("status") == 0


async def test_usage_is_counted_by_visit_and_in_all(tmp_path: Path) -> None:
    def used(count: int) -> list[Any]:
        return ["metadata", {"usage": {"input_tokens": count, "turns": 1}}]

    flow = workflow(
        first={"turn": says("one", ["bind"], used(3), used(5)), "on_done": "between"},
        between={"command": shell("true"), "on_done": "second"},
        second={"turn": says("two", used(7)), "on_done": "completed"},
    )
    async with workflow_bench(tmp_path, flow) as bench:
        run = await bench.submit()
        with log_lines("INFO") as lines:
            await bench.completes(run)
        assert [visit.usage for visit in bench.visits(run)] == [
            {"input_tokens": 5, "turns": 1},
            {},
            {"input_tokens": 7, "turns": 1},
        ]
        assert any("12 tokens in, 2 turns" in line for line in lines)


async def test_a_conversation_continues_while_the_coordinator_is_away(tmp_path: Path) -> None:
    """An executor that resumes asks for its own session."""
    flow = workflow(
        first={"turn": says("one", ["bind"]), "on_done": "second"},
        second={"turn": steps(["show_session"]), "on_done": "completed"},
    )
    home = command_home(tmp_path / "home", lifecycle="one_shot")
    async with workflow_bench(tmp_path, flow, home) as bench:
        bench.proxy.fault("POST", "/sessions/.*", status(503), times=None)
        bench.proxy.fault("GET", "/sessions/.*", reset(), times=None)
        run = await bench.submit()
        await bench.enters(run, "second")
        await bench.system.state(run, "reporting")
        bench.proxy.heal()
        shown = await bench.completes(run)
        assert shown["session"]["executor_session_id"] == bench.binds(run)[0]
        assert shown["session"]["session_id"] == run.session_id


@pytest.mark.parametrize("revive", [False, True])
async def test_a_process_that_ends_between_two_turns(tmp_path: Path, revive: bool, signs: Fifo) -> None:
    flow = workflow(
        first={"turn": steps(["bind"], ["afterwards", ["tell_pid", str(signs.path)], ["exit", 3]]), "on_done": "gone"},
        gone={
            "command": shell('read pid < "$1"; while kill -0 $pid 2> /dev/null; do sleep 0.01; done', str(signs.path)),
            "on_done": "second",
        },
        second={"turn": steps(["report"]), "on_done": "completed", "on_error": "refuse"},
        refuse={"final": True, "outcome": "failed", "error": "lost: ${second.error}"},
    )
    async with workflow_bench(tmp_path, flow, command_home(tmp_path / "home", revive=revive)) as bench:
        run = await bench.submit()
        if revive:
            assert (await bench.completes(run))["message"]["mode"] == "resume"
            assert await bench.session(run) == "idle"
        else:
            assert "ended between two turns of its run" in await bench.fails(run)
            assert await bench.session(run) == "failed"
        assert len(bench.binds(run)) == 1
        assert bench.proxy.calls_for("POST", SESSION_STATUS) == []
