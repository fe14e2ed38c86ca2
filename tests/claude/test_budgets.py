"""Budgets and bounds of children with Claude Code, which reports its usage after each answer of the model."""

from pathlib import Path

import pytest

from fsm_runner.config.budgets import Budget, UsageLimits
from fsm_runner.protocol.wire import RunCreated
from tests.claude.test_mcp import AGENTS, START, conduct
from tests.support.claude import claude
from tests.support.command_executor import short_graces
from tests.support.fifo import Fifo
from tests.support.messages_api import INPUT_TOKENS, OUTPUT_TOKENS, Calls

CONDUCTOR = {"agent_name": "conductor", "parameters": {"demands": "{}"}}
ONE_ANSWER_TOKENS = INPUT_TOKENS + OUTPUT_TOKENS


async def test_a_budget_ends_a_turn_between_two_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    short_graces(monkeypatch)
    budget = Budget(run=UsageLimits(max_tokens=2 * ONE_ANSWER_TOKENS - 1))
    async with Fifo(tmp_path / "go") as go, claude(tmp_path, monkeypatch, budget=budget) as bench:
        bench.api.will(
            Calls("Bash", {"command": "true"}, text="First this."),
            Calls("Bash", {"command": f"read line < {go.path}"}, text="Then that."),
        )
        error = await bench.fails(await bench.start())
        assert len(bench.api.asked) == 2
        assert await bench.completes(await bench.start()) == "ok"
    used, most = 2 * ONE_ANSWER_TOKENS, 2 * ONE_ANSWER_TOKENS - 1
    assert error == f"budget exceeded: the run has used {used:,} of {most:,} tokens (max_tokens)"


async def test_a_grandchild_that_exceeds_the_budget_of_the_tree_ends_all_of_its_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short_graces(monkeypatch)
    budget = Budget(tree=UsageLimits(max_turns=3))
    async with Fifo(tmp_path / "go") as go, claude(tmp_path, monkeypatch, agents=AGENTS, budget=budget) as bench:
        bench.api.will(
            Calls(START, CONDUCTOR, text="The child begins."),
            Calls(START, CONDUCTOR, text="The grandchild begins."),
            Calls("Bash", {"command": "true"}, text="First this."),
            Calls("Bash", {"command": f"read line < {go.path}"}, text="Then that."),
        )
        root = await bench.start(agent="conductor", demands="{}")
        reason = f"budget exceeded: the tree of session {root.session_id} has used 4 of 3 turns (max_turns)"
        assert await bench.fails(root) == reason
        runs = await bench.system.api.runs()
        assert len(runs) == 3
        for run in runs:
            assert await bench.fails(RunCreated(run_id=run.run_id, session_id=run.session_id)) == reason


async def test_the_model_can_read_why_it_may_start_no_session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = {"children": {"max_depth": 0}}
    async with claude(tmp_path, monkeypatch, agents=AGENTS, keys=keys) as bench:
        answer = await conduct(bench, "{}")
        assert len(await bench.system.api.runs()) == 1
    assert str(answer["error"]).startswith("This session may not start other sessions: ")
