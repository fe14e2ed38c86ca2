"""The usage of runs with Claude Code, at their end and before."""

from pathlib import Path

import pytest

from tests.support.claude import claude
from tests.support.fifo import Fifo
from tests.support.messages_api import INPUT_TOKENS, OUTPUT_TOKENS, Calls, Says

NOTICE_S = 0.3
OUTPUT_TOKENS_AT_FIRST = 1
"""The output tokens in the first part of an answer."""


async def test_usage_is_recorded_for_each_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with claude(tmp_path, monkeypatch) as bench:
        bench.api.will(Calls("Bash", {"command": "true"}), Says("done"), Says("and again"))
        first = await bench.start()
        await bench.completes(first)
        second = await bench.resume(first, "again")
        await bench.completes(second)
        usages = [bench.usage(run) for run in (first, second)]
        # A coordinator has no field for it.
        assert [set(fields) for fields in bench.metadata(first)] == [{"last_resumed_at"}]
    assert [usage.turns for usage in usages] == [2, 1]
    assert [usage.input_tokens for usage in usages] == [2 * INPUT_TOKENS, INPUT_TOKENS]
    assert [usage.output_tokens for usage in usages] == [2 * OUTPUT_TOKENS, OUTPUT_TOKENS]
    # The program counts the cost of the whole session; each run gets its own share.
    first_cost, second_cost = (usage.cost_usd for usage in usages)
    assert first_cost
    assert second_cost == pytest.approx(first_cost / 2)


async def test_a_later_process_counts_only_its_own_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with claude(tmp_path, monkeypatch, "one_shot") as bench:
        first = await bench.start()
        await bench.completes(first)
        second = await bench.resume(first, "again")
        await bench.completes(second)
        usages = [bench.usage(run) for run in (first, second)]
    assert [usage.input_tokens for usage in usages] == [INPUT_TOKENS] * 2
    assert usages[0].cost_usd
    assert usages[1].cost_usd == usages[0].cost_usd


async def test_usage_is_reported_while_the_turn_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer with several content blocks counts once. A run that is stopped has no result with totals."""
    async with (
        Fifo(tmp_path / "go") as go,
        claude(tmp_path, monkeypatch, config={"stall_notice_s": NOTICE_S}) as bench,
    ):
        wait = Calls("Bash", {"command": f"read line < {go.path}"}, text="I shall wait.")
        bench.api.will(Calls("Bash", {"command": "true"}, text="First this."), wait)
        run = await bench.start()
        await bench.has_detail(run, f"no progress for {NOTICE_S:g} s: the turn waits for Bash")
        await bench.system.api.stop_run(run.run_id)
        assert (await bench.system.end(run)).status == "stopped"
        usage = bench.usage(run)
    assert (usage.turns, usage.input_tokens, usage.output_tokens) == (2, 2 * INPUT_TOKENS, 2 * OUTPUT_TOKENS)
    assert (usage.cost_usd, bool(usage.duration_s)) == (None, True)


async def test_usage_of_a_turn_that_runs_includes_subagents_and_the_cost_of_earlier_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with (
        Fifo(tmp_path / "go") as go,
        claude(tmp_path, monkeypatch, config={"stall_notice_s": NOTICE_S}) as bench,
    ):
        agent = {"description": "look it up", "prompt": "find it", "subagent_type": "general-purpose"}
        bench.api.will(Calls("Agent", agent), Says("The agent is running."))
        bench.api.subagents.append(Calls("Bash", {"command": f"read line < {go.path}"}))
        run = await bench.start()
        await bench.has_detail(run, f"no progress for {NOTICE_S:g} s: the turn waits for background work: look it up")
        await bench.system.api.stop_run(run.run_id)
        assert (await bench.system.end(run)).status == "stopped"
        usage = bench.usage(run)
    assert (usage.turns, usage.input_tokens) == (3, 3 * INPUT_TOKENS)
    assert (usage.output_tokens or 0) >= 2 * OUTPUT_TOKENS + OUTPUT_TOKENS_AT_FIRST
    assert usage.cost_usd


async def test_a_budget_is_exceeded_in_the_middle_of_a_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that never stops calling tools gets no result, so its usage has to arrive before."""
    async with claude(tmp_path, monkeypatch, keys={"budget": {"run": {"max_turns": 3}}}) as bench:
        bench.api.otherwise = Calls("Bash", {"command": "true"}, text="One more.")
        run = await bench.start()
        error = await bench.fails(run)
        assert "result" not in bench.reported(run)
    assert "budget exceeded" in error
    assert (bench.usage(run).turns or 0) >= 3
