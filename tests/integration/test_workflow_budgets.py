"""Budgets of workflows count the turns of the run and the runs of its children, also after a restart."""

from pathlib import Path
from typing import Any

import pytest

from fsm_runner.config.budgets import Budget, UsageLimits
from fsm_runner.config.paths import HOME_VARIABLE
from fsm_runner.config.profiles import LoadedProfile
from fsm_runner.coordinator_server.timings import Timings
from fsm_runner.protocol.wire import JsonObject
from tests.support.command_executor import AGENT, command_home, held_by, short_graces
from tests.support.fifo import Fifo
from tests.support.processes import gone
from tests.support.runner import open_system, waiter
from tests.support.workflows import (
    WorkflowBench,
    broken_off,
    install,
    says,
    steps,
    visits_in,
    with_agent,
    workflow,
    workflow_bench,
)

PARENT = "parent"


@pytest.fixture(autouse=True)
def _short_graces(monkeypatch: pytest.MonkeyPatch) -> None:
    short_graces(monkeypatch)


def used(**counts: float) -> list[Any]:
    return ["metadata", {"usage": counts}]


def parent_home(folder: Path, text: str, monkeypatch: pytest.MonkeyPatch, **profile_fields: Any) -> LoadedProfile:
    """A home with an agent without a workflow, and one that follows this one."""
    monkeypatch.setenv(HOME_VARIABLE, str(folder / "home"))
    home = with_agent(command_home(folder / "home", **profile_fields), PARENT)
    install(folder / "home", text)
    return home


def child(*taken: list[Any]) -> JsonObject:
    return {"name": AGENT, "parameters": {"steps": [["bind"], *taken]}}


@pytest.mark.parametrize(
    ("maximum", "own", "spent"),
    [
        ({"max_tokens": 100}, {"max_tokens": 1_000}, "the workflow has used 120 of 100 tokens (max_tokens)"),
        ({"max_cost_usd": 1}, {}, "the workflow has used 1.2 of 1 USD (max_cost_usd)"),
        ({"max_turns": 3}, {}, "the workflow has used 4 of 3 turns (max_turns)"),
        ({"max_tokens": 1_000}, {"max_tokens": 100}, "the run has used 120 of 100 tokens (max_tokens)"),
    ],
)
async def test_the_stricter_budget_ends_the_run(
    tmp_path: Path, maximum: dict[str, Any], own: dict[str, Any], spent: str, go: Fifo
) -> None:
    usage = used(input_tokens=60, turns=2, cost_usd=0.6)
    flow = workflow(
        first={"turn": says("one", ["bind"], usage), "on_done": "second"},
        second={"turn": steps(usage, ["await", str(go.path)]), "on_done": "completed"},
        top={"budget": maximum},
    )
    async with workflow_bench(tmp_path, flow, budget=Budget(run=UsageLimits(**own))) as bench:
        run = await bench.submit()
        assert await bench.fails(run) == f"budget exceeded: {spent}"
        assert bench.path(run) == ["first:done", "second:failed"]


async def test_a_budget_that_is_used_up_begins_no_turn_and_no_child(tmp_path: Path) -> None:
    first = {"turn": steps(["bind"], used(input_tokens=60), ["report"]), "on_done": "second"}
    top = {"budget": {"max_tokens": 60}}
    for folder, second in (("turn", {"turn": says("two")}), ("agent", {"agent": child()})):
        (tmp_path / folder).mkdir()
        flow = workflow(first=first, second={**second, "on_done": "completed"}, top=top)
        async with workflow_bench(tmp_path / folder, flow) as bench:
            run = await bench.submit()
            error = await bench.fails(run)
            assert error == "budget used up: the workflow has used 60 of 60 tokens (max_tokens)"
            await gone(bench.visits(run)[0].value["data"]["pid"])


async def test_children_count_and_end_with_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with waiter(tmp_path) as held:
        greedy = child(
            used(input_tokens=70),
            ["tell_pid", str(held.started.path)],
            ["await", str(held.gate.path)],
            used(input_tokens=75),
            ["await", str(held.gate.path)],
        )
        flow = workflow(
            first={"turn": says("one", ["bind"], used(input_tokens=30)), "on_done": "delegate"},
            delegate={"agent": greedy, "on_done": "completed"},
            top={"budget": {"max_tokens": 100}},
        )
        async with workflow_bench(tmp_path, None, parent_home(tmp_path, flow, monkeypatch)) as bench:
            run = await bench.submit(PARENT)
            pid = await held.started.pid()
            held.gate.write_line()
            error = await bench.fails(run)
            assert error == "budget exceeded: the workflow has used 105 of 100 tokens (max_tokens)"
            await gone(pid)


async def test_what_children_have_used_is_kept_over_a_restart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with waiter(tmp_path) as held, open_system(tmp_path, Timings(stale_after_s=0.2)) as system:
        flow = workflow(
            delegate={"agent": child(used(input_tokens=70)), "on_done": "work"},
            work={
                "turn": steps(["bind"], used(input_tokens=20), *held_by(held), used(input_tokens=40)),
                "on_interrupted": "repeat",
                "on_done": "completed",
            },
            top={"budget": {"max_tokens": 125}},
        )
        home = parent_home(tmp_path, flow, monkeypatch, lifecycle="one_shot")
        settings: dict[str, Any] = {"state_dir": tmp_path / "state", "grace_period_s": 60.0}
        async with broken_off(system, home, **settings):
            run = await system.submit(PARENT)
            await held.started.pid()
        assert visits_in(tmp_path / "state", run)[0].usage == {"input_tokens": 70, "children": 1}
        async with system.running(home, **settings) as second:
            bench = WorkflowBench(system, second, tmp_path / "state")
            await held.started.pid()
            held.gate.write_line()
            # 70 of the child, 20 before the restart, 40 after it.
            assert "the workflow has used 130 of 125 tokens" in await bench.fails(run)


async def test_the_number_of_children_is_that_of_all_visits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    some = {"agent": {**child(), "each": "${params.items}"}}
    flow = workflow(
        first={**some, "on_done": "second"},
        second={**some, "on_done": "completed"},
        top={"budget": {"max_children": 3}, "params": {"items": "list"}},
    )
    async with workflow_bench(tmp_path, None, parent_home(tmp_path, flow, monkeypatch, lifecycle="one_shot")) as bench:
        run = await bench.submit(PARENT, items=["a", "b"])
        assert "2 children are wanted, but the workflow may start only 1 more" in await bench.fails(run)
        assert bench.path(run) == ["first:done", "second:error"]
