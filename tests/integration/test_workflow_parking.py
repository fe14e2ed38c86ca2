"""Workflows that wait hold no slot, and keep their session; limits of the provider in the middle of a turn."""

from pathlib import Path

import pytest

from fsm_runner.config.paths import HOME_VARIABLE
from fsm_runner.config.provider_limits import CONTINUE_PROMPT
from fsm_runner.coordinator_server.timings import Timings
from fsm_runner.protocol.statuses import LIFECYCLES, Lifecycle
from fsm_runner.runtime.actors import run as run_module
from tests.support import faults
from tests.support.command_executor import AGENT, command_home, held_by
from tests.support.processes import gone
from tests.support.provider import Limits, Says, limited_home, provider
from tests.support.runner import waiter
from tests.support.workflows import install, says, shell, with_agent, workflow, workflow_bench

SHORT_POLLS = Timings(poll_timeout_s=1)
"""A poll that is held may claim a run for the last slot, so a run whose wait is over waits for its end."""
ASK = workflow(
    ask={"approval": {"question": "Merge ${params.what}?"}, "on_done": "work", "on_denied": "failed"},
    work={"turn": {"parameters": {"steps": "${params.steps}"}}, "on_done": "completed"},
    top={"params": {"what": "string", "steps": "list"}},
)


TWO_QUESTIONS = workflow(
    first={"approval": {"question": "One?"}, "on_done": "second", "on_denied": "failed"},
    second={"approval": {"question": "Two?"}, "on_done": "work", "on_denied": "failed"},
    work={"turn": {"parameters": {"steps": "${params.steps}"}}, "on_done": "completed"},
    top={"params": {"steps": "list"}},
)


async def test_a_run_that_waits_for_an_approval_holds_no_slot_and_continues_before_new_claims(tmp_path: Path) -> None:
    async with (
        workflow_bench(tmp_path, ASK, None, SHORT_POLLS, max_runs=1, poll_timeout_s=1) as bench,
        waiter(tmp_path) as held,
    ):
        first = await bench.submit(what="one", steps=[["bind"]])
        await bench.enters(first, "ask")
        busy = await bench.submit(what="two", steps=[["bind"], *held_by(held)])
        await bench.enters(busy, "ask")
        await bench.decide(busy)
        await held.started.pid()
        await bench.decide(first)
        later = [await bench.submit(what="three", steps=[["bind"]]) for _ in range(2)]
        await bench.system.state(first, "waiting")
        assert "work" not in bench.system.details[first.run_id]
        held.gate.write_line()
        for run in (busy, first):
            assert (await bench.end(run)).status == "completed"
        for run in later:
            await bench.enters(run, "ask")
            assert bench.system.states[run.run_id].count("executing") == 1
            await bench.decide(run, approved=False)
            assert "denied by" in await bench.fails(run)


async def test_a_parent_that_waits_for_its_child_leaves_it_the_only_slot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    child = {"name": AGENT, "parameters": says("from the child", ["bind"])["parameters"]}
    flow = workflow(
        delegate={"agent": child, "on_done": "work"},
        work={"turn": says("parent heard ${delegate.result}", ["bind"]), "on_done": "completed"},
    )
    monkeypatch.setenv(HOME_VARIABLE, str(tmp_path / "home"))
    home = with_agent(command_home(tmp_path / "home"), "parent")
    install(tmp_path / "home", flow)
    async with workflow_bench(tmp_path, None, home, SHORT_POLLS, max_runs=1, poll_timeout_s=1) as bench:
        run = await bench.submit("parent")
        await bench.completes(run)
        assert await bench.results(run) == ["parent heard from the child"]
        assert bench.system.reports(run) == ["started", "completed"]


@pytest.mark.parametrize("lifecycle", LIFECYCLES)
async def test_no_other_run_resumes_the_session_while_its_workflow_lasts(tmp_path: Path, lifecycle: Lifecycle) -> None:
    async with waiter(tmp_path) as held:
        flow = workflow(
            first={"turn": says("one", ["bind"]), "on_done": "between"},
            between={
                "command": shell('echo $$ > "$1"; read answer < "$2"', str(held.started.path), str(held.gate.path)),
                "on_done": "second",
            },
            second={"turn": says("two"), "on_done": "completed"},
        )
        home = command_home(tmp_path / "home", lifecycle=lifecycle)
        async with workflow_bench(tmp_path, flow, home) as bench:
            run = await bench.submit()
            await held.started.pid()
            error = await bench.fails(await bench.resume(run))
            assert error.startswith(f"session {run.session_id} is busy: its run {run.run_id} follows a workflow")
            held.gate.write_line()
            await bench.completes(run)
            assert await bench.results(run) == ["two"]
            assert len(bench.binds(run)) == 1
            held.gate.write_line()
            await bench.completes(await bench.resume(run))


@pytest.mark.parametrize("lifecycle", LIFECYCLES)
async def test_a_turn_continues_after_a_limit_in_the_same_visit_with_a_later_deadline(
    tmp_path: Path, lifecycle: Lifecycle
) -> None:
    flow = workflow(
        first={"turn": {"prompt": "one"}, "timeout_s": 2, "on_done": "second"},
        second={"turn": {"prompt": "two"}, "timeout_s": 2, "on_done": "completed"},
    )
    async with provider() as api:
        api.will(
            Limits(resets_in_s=2.2, usage=({"input_tokens": 3},)),
            Says("1", usage=({"input_tokens": 4},)),
            Limits(resets_in_s=0.1),
            Says("2"),
        )
        home = limited_home(tmp_path / "home", api, lifecycle=lifecycle)
        async with workflow_bench(tmp_path, flow, home) as bench:
            run = await bench.submit(prompt="ignored")
            await bench.completes(run)
            # The executor shows no sign of the second prompt before its limit.
            assert [asked.prompt for asked in api.asked] == ["one", CONTINUE_PROMPT, "two", "two"]
            assert bench.path(run) == ["first:done", "second:done"]
            assert bench.visits(run)[0].usage == {"input_tokens": 7}
            assert await bench.results(run) == ["2"]
            assert len(bench.binds(run)) == 1
            assert bench.system.reports(run) == ["started", "completed"]


async def test_a_workflow_that_has_ended_does_not_wait_for_a_limit_of_the_provider(tmp_path: Path) -> None:
    flow = workflow(
        ask={"approval": {"question": "Begin?"}, "on_done": "work", "on_denied": "failed"},
        work={"turn": {"prompt": "one"}, "on_done": "completed"},
    )
    async with provider() as api:
        api.will(Limits(resets_in_s=3_600))
        async with workflow_bench(tmp_path, flow, limited_home(tmp_path / "home", api)) as bench:
            limited, denied = [await bench.submit(prompt="ignored") for _ in range(2)]
            await bench.enters(denied, "ask")
            await bench.decide(limited)
            await bench.runner.goes_through("limited")
            await bench.decide(denied, approved=False)
            assert "denied by ada" in await bench.fails(denied)
            await bench.stop_session(limited)
            assert (await bench.end(limited)).status == "stopped"


async def test_a_workflow_with_several_waits_shows_each_of_them(tmp_path: Path) -> None:
    async with (
        workflow_bench(tmp_path, TWO_QUESTIONS, None, SHORT_POLLS, max_runs=1, poll_timeout_s=1) as bench,
        waiter(tmp_path) as held,
    ):
        run = await bench.submit(steps=[["bind"]])
        await bench.enters(run, "first")
        busy = await bench.submit(steps=[["bind"], *held_by(held)])
        await bench.decide(busy)
        await bench.decide(busy)
        await held.started.pid()
        await bench.decide(run)
        await bench.decide(run, comment="ship it")  # the second question needs no slot
        held.gate.write_line()
        for each in (busy, run):
            assert (await bench.end(each)).status == "completed"
        assert [visit.value["comment"] for visit in bench.visits(run)[:2]] == ["", "ship it"]
        fields = [field for field in bench.workflow_fields(run) if field is not None]
        assert (fields[0]["name"], fields[0]["state"], fields[0]["visit"]) == ("flow", "first", 1)
        assert [field["approval"]["question"] for field in fields if field["approval"]] == ["One?", "Two?"]
        assert bench.workflow_fields(run)[-1] is None


async def test_the_time_of_the_workflow_passes_while_it_waits_for_a_limit(tmp_path: Path) -> None:
    flow = workflow(first={"turn": {"prompt": "one"}, "on_done": "completed"}, top={"budget": {"max_wall_s": 1}})
    async with provider() as api:
        api.will(Limits(resets_in_s=3_600, scope="session"))
        async with workflow_bench(tmp_path, flow, limited_home(tmp_path / "home", api)) as bench:
            run = await bench.submit(prompt="ignored")
            error = await bench.fails(run)
            assert error.endswith("the workflow was not done within 1 s (budget.max_wall_s); its state was 'first'")
            assert "waiting_for_limit" in bench.system.states[run.run_id]
            await gone(api.asked[0].pid)


async def test_a_workflow_continues_after_its_wait_while_the_coordinator_is_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_module, "ANSWER_LIMIT_S", 0.1)
    text = workflow(
        pause={"wait": {"for_s": 0.5}, "on_done": "go"},
        go={"command": shell("echo gone on"), "on_done": "completed"},
    )
    async with workflow_bench(tmp_path, text) as bench:
        run = await bench.submit()
        await bench.enters(run, "pause")
        for method in ("GET", "POST", "PATCH"):
            bench.proxy.fault(method, ".*", faults.status(503), times=None)
        await bench.enters(run, "go")
        bench.proxy.heal()
        await bench.completes(run)
