"""Turns without an answer of the model. The program reports success, but the run fails with the reason."""

from pathlib import Path

import pytest

from tests.support.claude import claude
from tests.support.messages_api import Calls, Says


@pytest.mark.parametrize(
    ("event", "command", "reasons", "requests"),
    [
        (
            "UserPromptSubmit",
            "echo 'not on a Sunday' >&2; exit 2",
            ["UserPromptSubmit hook has blocked the prompt", "not on a Sunday"],
            0,
        ),
        ("Stop", "echo 'go on' >&2; exit 2", ["without an answer", "hook blocked the turn from ending", "go on"], 9),
    ],
    ids=["prompt", "stop"],
)
async def test_a_hook_that_keeps_the_model_from_answering(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, event: str, command: str, reasons: list[str], requests: int
) -> None:
    async with claude(tmp_path, monkeypatch, config={"setting_sources": ["project"]}) as bench:
        bench.write_settings({"hooks": {event: [{"hooks": [{"type": "command", "command": command}]}]}})
        run = await bench.start("hello")
        error = await bench.fails(run)
        assert len(bench.api.asked) == requests
        assert (await bench.messages(run))[0] == ("user", "hello")
        assert "result" not in bench.reported(run)
    assert all(reason in error for reason in reasons), error


async def test_a_blank_prompt_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with claude(tmp_path, monkeypatch) as bench:
        error = await bench.fails(await bench.start(" \n\t"))
        assert not bench.api.asked
    assert "the prompt is blank" in error


async def test_a_blank_answer_after_background_work_is_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The program asks for an answer a second time."""
    async with claude(tmp_path, monkeypatch) as bench:
        bench.api.will(Calls("Bash", {"command": "true", "run_in_background": True}), Says("interim"))
        bench.api.otherwise = Says(" \n")
        run = await bench.start()
        error = await bench.fails(run)
        assert "result" not in bench.reported(run)
    assert "the turn has ended without an answer: the model's last message is blank" in error


async def test_a_hook_that_blocks_the_turn_after_background_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = "grep -q task-notification && { echo 'no notifications' >&2; exit 2; }; exit 0"
    async with claude(tmp_path, monkeypatch, config={"setting_sources": ["project"]}) as bench:
        bench.write_settings({"hooks": {"UserPromptSubmit": [{"hooks": [{"type": "command", "command": command}]}]}})
        bench.api.will(Calls("Bash", {"command": "true", "run_in_background": True}), Says("interim"))
        error = await bench.fails(await bench.start())
    assert "a UserPromptSubmit hook has blocked the turn that follows background work: no notifications" in error


async def test_a_command_of_the_program_without_an_answer_is_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = {
        "/clear": "which gives no answer",
        "/compact": "which answers: Error: No messages to compact",
        "/exit": "which answers: /exit isn't available in this environment.",
    }
    async with claude(tmp_path, monkeypatch) as bench:
        for prompt, answer in answers.items():
            run = await bench.start(prompt)
            error = await bench.fails(run)
            assert f"the model was not asked, because the prompt is a command of Claude Code, {answer}" in error
            assert "result" not in bench.reported(run)
        assert not bench.api.asked
        run = await bench.start("hello")
        await bench.completes(run)
        assert await bench.completes(await bench.resume(run, "/compact")) == "Compacted"


async def test_a_command_of_the_program_is_answered_without_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with claude(tmp_path, monkeypatch) as bench:
        bench.api.otherwise = Says("not asked")
        run = await bench.start("/cost")
        assert "Estimated cost" in (await bench.completes(run) or "")
        assert bench.reported(run) == ["started", "bind", "message", "message", "result", "completed"]
        assert (await bench.session(run))["executor_session_id"]
