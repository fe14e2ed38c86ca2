"""Runs that use more than their budget, or that start more sessions than they may: real runners and executors."""

import asyncio
import signal
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from fsm_runner.config.budgets import Budget, ChildLimits, UsageLimits
from fsm_runner.errors import EXIT_OK
from fsm_runner.journal.opening import JOURNAL_FILE
from fsm_runner.protocol.wire import RunCreated
from tests.integration.test_kill_points_of_a_session import of_session
from tests.support.command_executor import (
    AGENT,
    ScriptedBench,
    Step,
    command_home,
    held_by,
    scripted_bench,
    short_graces,
)
from tests.support.coordinated_home import write_coordinated_home
from tests.support.crash.fork_server import ForkServer
from tests.support.crash.restart import open_context
from tests.support.crash.scenario import ScenarioContext, Steps
from tests.support.runner import waiter
from tests.support.watch import PATIENCE_S

USED = {"input_tokens": 100, "output_tokens": 20, "cache_read_tokens": 3, "cost_usd": 0.5, "turns": 6}


def uses(**usage: float) -> Step:
    return ["metadata", {"usage": usage or USED}]


@pytest.fixture(autouse=True)
def _short_graces(monkeypatch: pytest.MonkeyPatch) -> None:
    short_graces(monkeypatch)


@asynccontextmanager
async def bench(folder: Path, **profile_fields: Any) -> AsyncIterator[tuple[ScriptedBench, list[Step]]]:
    """A runner, and steps in which an executor waits until it is ended."""
    home = command_home(folder / "home", **profile_fields)
    async with waiter(folder) as held, scripted_bench(folder, home) as scripted:
        yield scripted, held_by(held)[1:]


@pytest.mark.parametrize("lifecycle", ["one_shot", "persistent"])
@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        (UsageLimits(max_tokens=122), "budget exceeded: the run has used 123 of 122 tokens (max_tokens)"),
        (UsageLimits(max_cost_usd=0.25), "budget exceeded: the run has used 0.5 of 0.25 USD (max_cost_usd)"),
        (UsageLimits(max_turns=5), "budget exceeded: the run has used 6 of 5 turns (max_turns)"),
    ],
    ids=["max_tokens", "max_cost_usd", "max_turns"],
)
async def test_a_run_that_exceeds_its_budget_is_stopped_in_its_turn(
    tmp_path: Path, limits: UsageLimits, reason: str, lifecycle: str
) -> None:
    async with bench(tmp_path, budget=Budget(run=limits), lifecycle=lifecycle) as (b, hold):
        run = await b.start(["bind"], uses(turns=1), uses(), *hold)
        assert await b.fails(run) == reason
        assert b.system.states[run.run_id][-4:] == ["executing", "stopping", "reporting", "failed"]
        other = await b.start(uses(turns=1), ["report"])
        await b.completes(other)


async def test_a_flag_takes_precedence_over_the_profile(tmp_path: Path) -> None:
    home = command_home(tmp_path / "home", budget=Budget(run=UsageLimits(max_turns=5, max_tokens=122)))
    flag = Budget(run=UsageLimits(max_turns=100))
    async with waiter(tmp_path) as held, scripted_bench(tmp_path, home, budget=flag) as b:
        run = await b.start(uses(), *held_by(held)[1:])
        assert await b.fails(run) == "budget exceeded: the run has used 123 of 122 tokens (max_tokens)"


async def test_the_turns_of_a_session_count_together(tmp_path: Path) -> None:
    async with bench(tmp_path, budget=Budget(session=UsageLimits(max_turns=12))) as (b, hold):
        first = await b.start(["bind"], uses(), ["report"])
        await b.completes(first)
        second = await b.resume(first, uses(turns=5), uses(turns=7), *hold)
        reason = f"budget exceeded: session {first.session_id} has used 13 of 12 turns (max_turns)"
        assert await b.fails(second) == reason


async def test_a_run_whose_budget_is_used_up_is_not_started(tmp_path: Path) -> None:
    async with bench(tmp_path, budget=Budget(session=UsageLimits(max_turns=6))) as (b, _):
        first = await b.start(["bind"], uses(), ["report"])
        await b.completes(first)
        second = await b.resume(first, ["report"])
        reason = f"budget used up: session {first.session_id} has used 6 of 6 turns (max_turns)"
        assert await b.fails(second) == reason
        assert b.system.states[second.run_id] == ["claimed", "reporting", "failed"]


async def test_a_run_whose_budget_is_used_up_does_not_continue_after_a_wait(tmp_path: Path) -> None:
    budget = Budget(session=UsageLimits(max_turns=6))
    async with bench(tmp_path, budget=budget, lifecycle="one_shot") as (b, _):
        resets_at = datetime.now(UTC) + timedelta(seconds=1)
        limit = {"kind": "five_hour", "resets_at": resets_at.isoformat()}
        run = await b.start(["bind"], uses(), ["metadata", {"limit": limit}], ["exit", 1])
        reason = f"budget used up: session {run.session_id} has used 6 of 6 turns (max_turns)"
        assert await b.fails(run) == reason
        assert b.system.states[run.run_id][-4:] == ["waiting_for_limit", "executing", "reporting", "failed"]


async def test_nothing_of_ended_runs_stays_in_memory(tmp_path: Path) -> None:
    async with bench(tmp_path, budget=Budget(tree=UsageLimits(max_turns=6))) as (b, hold):
        registry = b.runner.actor._runs
        trees = registry._context.budgets._trees
        assert trees is not None
        held = await b.start(["bind"], ["report"], *hold)
        await b.completes(await b.start(uses(), ["report"]))
        await b.fails(await b.start(uses(turns=7), *hold))
        await b.proxy.answered("POST", f"/sessions/{held.session_id}/events")
        async with asyncio.timeout(PATIENCE_S):
            while len(registry) > 1:  # noqa: ASYNC110 - nothing reports the end of a task
                await asyncio.sleep(0.01)
        assert len(trees) == 1
        await b.stop_session(held)
        await registry.wait_until_empty()
        assert len(trees) == 0


async def test_a_grandchild_that_exceeds_the_budget_of_the_tree_ends_all_of_its_runs(tmp_path: Path) -> None:
    async with bench(tmp_path, budget=Budget(tree=UsageLimits(max_turns=13))) as (b, hold):
        unrelated = await b.start(uses(), *hold)
        grandchild = [["bind"], uses(turns=2), *hold]
        child = [["bind"], uses(), ["start", AGENT, grandchild], *hold]
        root = await b.start(["bind"], uses(), ["start", AGENT, child], *hold)
        await b.proxy.answered("POST", "/runs", 2)
        runs = [run for run in await b.system.api.runs() if run.run_id != unrelated.run_id]
        assert len(runs) == 3
        reason = f"budget exceeded: the tree of session {root.session_id} has used 14 of 13 turns (max_turns)"
        for run in runs:
            assert await b.fails(RunCreated(run_id=run.run_id, session_id=run.session_id)) == reason
        assert (await b.system.api.run(unrelated.run_id)).status == "running"


async def test_a_run_that_waits_for_a_limit_ends_with_its_tree(tmp_path: Path) -> None:
    budget = Budget(tree=UsageLimits(max_turns=12))
    async with waiter(tmp_path, "child") as gate, bench(tmp_path, budget=budget, lifecycle="one_shot") as (b, hold):
        child = [["bind"], ["await", str(gate.gate.path)], uses(turns=7), *hold]
        limit = {
            "kind": "five_hour",
            "scope": "session",
            "resets_at": (datetime.now(UTC) + timedelta(hours=1)).isoformat(),
        }
        root = await b.start(["bind"], uses(), ["start", AGENT, child], ["metadata", {"limit": limit}], ["exit", 1])
        await b.system.state(root, "waiting_for_limit")
        gate.gate.write_line()
        reason = f"budget exceeded: the tree of session {root.session_id} has used 13 of 12 turns (max_turns)"
        assert reason in await b.fails(root)
        assert b.system.states[root.run_id][-4:] == ["waiting_for_limit", "stopping", "reporting", "failed"]
        (run,) = [run for run in await b.system.api.runs() if run.run_id != root.run_id]
        assert await b.fails(RunCreated(run_id=run.run_id, session_id=run.session_id)) == reason


async def test_a_child_of_a_tree_whose_budget_is_used_up_is_not_started(tmp_path: Path) -> None:
    async with bench(tmp_path, budget=Budget(tree=UsageLimits(max_turns=6))) as (b, _):
        root = await b.start(["bind"], uses(), ["start", AGENT, [["report"]]], ["report"])
        assert (await b.completes(root))["answers"][-1] == 201
        (child,) = [run for run in await b.system.api.runs() if run.session_id != root.session_id]
        reason = f"budget used up: the tree of session {root.session_id} has used 6 of 6 turns (max_turns)"
        assert await b.fails(RunCreated(run_id=child.run_id, session_id=child.session_id)) == reason


@pytest.mark.parametrize(
    ("usage", "answer"),
    [({"turns": -5}, 200), ({"input_tokens": -(10**15), "cost_usd": -1e300}, 200), ({"turns": 10**18}, 200)],
    ids=str,
)
async def test_whatever_is_reported_the_runner_continues(tmp_path: Path, usage: dict[str, float], answer: int) -> None:
    budget = Budget(session=UsageLimits(max_turns=10**11, max_tokens=100))
    async with bench(tmp_path, budget=budget) as (b, _):
        run = await b.start(["bind"], uses(**usage), ["report"])
        if usage.get("turns", 0) > 0:
            assert "turns (max_turns)" in await b.fails(run)
        else:
            assert (await b.completes(run))["answers"] == [200, answer]
        await b.completes(await b.start(["report"]))


async def test_starts_beyond_the_bounds_are_refused(tmp_path: Path) -> None:
    async with bench(tmp_path, children=ChildLimits(max_depth=2, max_count=3)) as (b, _):
        leaf = [["bind"], ["start", AGENT, []], ["report"]]
        child = [["bind"], ["start", AGENT, leaf], ["report"]]
        root = await b.start(["bind"], *[["start", AGENT, child]], ["report"])
        await b.completes(root)
        await b.proxy.answered("POST", "/runs", 2)
        runs = {run.session_id: run for run in await b.system.api.runs()}
        answers = []
        for run in runs.values():
            result = await b.completes(RunCreated(run_id=run.run_id, session_id=run.session_id))
            answers.append(result["answers"][1])
        assert sorted(answers) == [201, 201, 403]
        again = await b.resume(root, *[["start", AGENT, [["report"]]]] * 2, ["report"])
        assert (await b.completes(again))["answers"][-2:] == [201, 403]


def journalled_turns(state_dir: Path) -> int:
    for file in state_dir.glob(f"*/{JOURNAL_FILE}"):
        with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as connection:
            turns: int = connection.execute("SELECT coalesce(sum(turns), 0) FROM tree_sessions").fetchone()[0]
            return turns
    return 0


async def test_what_was_used_before_a_kill_counts_after_it(tmp_path: Path) -> None:
    def steps(context: ScenarioContext) -> Steps:
        return [["bind"], uses(), *held_by(context.command)]

    flags = ("--budget", "session.max_turns=12")
    scenario = of_session("is killed", steps, flags=flags, profile={"retry_interrupted": True})
    write_coordinated_home(tmp_path, {}, scenario.executor, **scenario.profile)
    async with ForkServer() as server, open_context(scenario, tmp_path / "crash", server) as context:
        await context.submit()
        for turns in (6, 12):
            context.start(None)
            await context.command.started.pid()
            async with asyncio.timeout(PATIENCE_S):
                while journalled_turns(context.state_dir) < turns:  # noqa: ASYNC110 - nothing reports a write
                    await asyncio.sleep(0.01)
            await context.signal(signal.SIGKILL)
            assert await context.exit_code() == -signal.SIGKILL
        context.start(None)
        await context.wait_for_reports()
        run = await context.system.api.run(context.run.run_id)
        session_id = context.run.session_id
        assert run.error == f"budget used up: session {session_id} has used 12 of 12 turns (max_turns)"
        assert await context.shut_down() == EXIT_OK
