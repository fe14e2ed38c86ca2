"""Answers that match an agent's output_schema."""

from pathlib import Path
from typing import Any

import pytest

from tests.support.claude import claude
from tests.support.messages_api import Calls, Says

SCHEMA = {"type": "object", "properties": {"count": {"type": "integer"}}, "required": ["count"]}
AGENTS: dict[str, dict[str, Any]] = {"counter": {"output_schema": SCHEMA}}
TOOL = "StructuredOutput"


async def test_the_answer_is_the_result_data_and_not_a_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with claude(tmp_path, monkeypatch, agents=AGENTS) as bench:
        bench.api.will(Calls(TOOL, {"count": 3}, text="Here it comes."))
        run = await bench.start(agent="counter", prompt="how many?")
        await bench.completes(run)
        assert await bench.system.result(run) == {"count": 3}
        assert await bench.messages(run) == [("user", "how many?")]
        assert bench.reported(run) == ["started", "bind", "message", "result", "completed"]


async def test_an_invalid_answer_is_retried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with claude(tmp_path, monkeypatch, agents=AGENTS) as bench:
        bench.api.will(Calls(TOOL, {"count": "three"}), Calls(TOOL, {"count": 3}))
        run = await bench.start(agent="counter", prompt="how many?")
        await bench.completes(run)
        assert await bench.system.result(run) == {"count": 3}


async def test_an_answer_that_remains_invalid_fails_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with claude(tmp_path, monkeypatch, agents=AGENTS) as bench:
        bench.api.otherwise = Calls(TOOL, {"count": "three"})
        error = await bench.fails(await bench.start(agent="counter", prompt="how many?"))
    assert "output_schema" in error


async def test_a_text_answer_fails_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with claude(tmp_path, monkeypatch, agents=AGENTS) as bench:
        bench.api.otherwise = Says("There are three.")
        run = await bench.start(agent="counter", prompt="how many?")
        error = await bench.fails(run)
        assert "result" not in bench.reported(run)
    assert "output_schema" in error
    assert "There are three." in error
