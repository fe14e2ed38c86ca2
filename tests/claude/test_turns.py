"""Turns of Claude Code: requests to the model, and reports to the coordinator."""

import asyncio
from pathlib import Path

import httpx
import pytest

from tests.support import faults
from tests.support.claude import MODEL, TOKEN, claude, claude_profile
from tests.support.messages_api import Calls, Says

LARGE_CHARS = 5_000_000
START_DELAY_S = 0.5
ENDED = "(exit code 1)"
"""The end of the error of a one-shot executor."""


async def test_a_turn_is_reported_from_the_bind_to_the_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with claude(tmp_path, monkeypatch) as bench:
        bench.api.will(Says("Good day."))
        run = await bench.start("hello")
        assert await bench.completes(run) == "Good day."
        assert bench.reported(run) == ["started", "bind", "message", "message", "result", "completed"]
        assert await bench.messages(run) == [("user", "hello"), ("assistant", "Good day.")]
        session = await bench.session(run)
        (asked,) = bench.api.asked
    assert asked.headers["authorization"] == f"Bearer {TOKEN}"
    assert asked.body["model"].startswith(MODEL)
    assert asked.prompts == ["hello"]
    assert session["executor_session_id"] == asked.headers["x-claude-code-session-id"]


async def test_a_resume_of_a_live_session_is_reported_before_its_prompt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with claude(tmp_path, monkeypatch) as bench:
        first = await bench.start("first")
        await bench.completes(first)
        assert (await bench.session(first))["last_resumed_at"] is None
        # The prompt must not have a timestamp before that of the `run_start` event that `started` leads to.
        released = asyncio.Event()
        bench.system.proxy.fault("POST", "/runner/runs/[^/]+/started", faults.hold_request(released))
        second = await bench.resume(first, "second")
        await bench.system.proxy.seen("POST", f"/runner/runs/{second.run_id}/started")
        asyncio.get_running_loop().call_later(START_DELAY_S, released.set)
        await bench.completes(second)
        assert (await bench.session(first))["last_resumed_at"]
        async with httpx.AsyncClient(base_url=bench.system.server.url, trust_env=False) as http:
            events = (await http.get(f"/sessions/{first.session_id}/events")).json()["events"]
    kinds = [event["event_type"] for event in events]
    assert kinds == ["run_start", "message", "message", "result", "run_completed"] * 2
    assert [event["timestamp"] for event in events] == sorted(event["timestamp"] for event in events)


async def test_three_turns_are_one_conversation_of_one_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with claude(tmp_path, monkeypatch) as bench:
        bench.api.will(Says("one"), Says("two"), Says("three"))
        first = await bench.start("first")
        results = [await bench.completes(first)]
        results += [await bench.completes(await bench.resume(first, text)) for text in ("second", "third")]
        assert results == ["one", "two", "three"]
        assert await bench.messages(first) == [
            *[("user", "first"), ("assistant", "one")],
            *[("user", "second"), ("assistant", "two")],
            *[("user", "third"), ("assistant", "three")],
        ]
        assert bench.reported(first).count("bind") == 1
        assert (await bench.session(first))["status"] == "idle"
        conversations = {asked.headers["x-claude-code-session-id"] for asked in bench.api.asked}
    assert len(conversations) == 1
    assert bench.api.asked[-1].prompts == ["first", "second", "third"]


async def test_a_new_process_continues_the_conversation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with claude(tmp_path, monkeypatch, "one_shot") as bench:
        bench.api.will(Says("one"), Says("two"))
        first = await bench.start("first")
        await bench.completes(first)
        before = await bench.session(first)
        assert await bench.completes(await bench.resume(first, "second")) == "two"
        after = await bench.session(first)
    assert bench.api.asked[-1].prompts == ["first", "second"]
    assert after["executor_session_id"] == before["executor_session_id"]
    assert (before["last_resumed_at"], bool(after["last_resumed_at"])) == (None, True)


async def test_a_restarted_runner_continues_the_conversation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with claude(tmp_path, monkeypatch, "one_shot") as bench:
        bench.api.will(Says("one"), Says("two"))
        first = await bench.start("first")
        await bench.completes(first)
        await bench.runner.drain()
        async with bench.system.running(claude_profile("one_shot"), state_dir=tmp_path / "later"):
            assert await bench.completes(await bench.resume(first, "second")) == "two"
    assert bench.api.asked[-1].prompts == ["first", "second"]


async def test_a_conversation_without_a_transcript_is_not_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unknown = "6d1f7a52-2f6f-4c5e-9a83-0b6a7f6f6f6f"
    async with claude(tmp_path, monkeypatch, "one_shot") as bench:
        first = await bench.start()
        await bench.completes(first)
        async with httpx.AsyncClient(base_url=bench.system.server.url, trust_env=False) as http:
            patch = await http.patch(f"/sessions/{first.session_id}/metadata", json={"executor_session_id": unknown})
        assert patch.is_success
        error = await bench.fails(await bench.resume(first, "go on"))
        assert error == (
            f"Error: Claude Code cannot resume the conversation {unknown}: there is no transcript of it for the "
            f"project {bench.project} in {tmp_path / 'claude-config'} (CLAUDE_CONFIG_DIR); keep that folder on a "
            f"lasting volume, or start a new session {ENDED}"
        )


async def test_a_session_without_a_conversation_is_not_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with claude(tmp_path, monkeypatch, "one_shot") as bench:
        first = await bench.start()
        await bench.completes(first)
        path = f"/sessions/{first.session_id}"
        unbound = faults.Answer(200, b'{"session": {"executor_session_id": null}}')
        bench.system.proxy.fault("GET", path, faults.instead("unbound", unbound))
        error = await bench.fails(await bench.resume(first, "go on"))
        said = "has no executor_session_id, so there is no conversation to resume; start a new session"
        assert error == f"Error: session {first.session_id} {said} {ENDED}"
        bench.system.proxy.fault("GET", path, faults.status(404, "Session not found"))
        error = await bench.fails(await bench.resume(first, "go on"))
        assert error == f"Error: session {first.session_id} not found: the coordinator does not know it {ENDED}"


async def test_tool_calls_are_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with claude(tmp_path, monkeypatch) as bench:
        file = bench.project / "made.txt"
        write = {"file_path": str(file), "content": "by the model"}
        bench.api.will(
            Calls("Write", write, text="I shall write it."),
            Calls("Bash", {"command": "echo bad >&2; exit 3"}),
            Says("It is written."),
        )
        run = await bench.start()
        assert await bench.completes(run) == "It is written."
        events = await bench.events(run)
    assert file.read_text() == "by the model"
    kinds = [event["event_type"] for event in events]
    assert kinds == ["message", "message", "post_tool", "post_tool", "message", "result"]
    written, failed = (event for event in events if event["event_type"] == "post_tool")
    assert (written["tool_name"], written["tool_input"], written["error"]) == ("Write", write, None)
    assert str(file) in str(written["tool_output"])
    assert (failed["tool_name"], failed["tool_output"]) == ("Bash", None)
    assert "Exit code 3" in failed["error"]
    assert "bad" in failed["error"]
    assert bench.api.asked[-1].tool_results[-1]["is_error"] is True


async def test_a_message_of_five_megabytes_arrives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "word " * (LARGE_CHARS // 5)
    async with claude(tmp_path, monkeypatch) as bench:
        bench.api.will(Says(text))
        run = await bench.start()
        assert await bench.completes(run) == text
        assert (await bench.messages(run))[-1] == ("assistant", text)


async def test_declared_parameters_are_a_block_of_inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    agents = {"reviewer": {"parameters_schema": {"type": "object", "properties": {"files": {"type": "array"}}}}}
    async with claude(tmp_path, monkeypatch, agents=agents) as bench:
        run = await bench.start(agent="reviewer", files=["a.py", "b.py"], depth=2, note="line 1\nline 2")
        await bench.completes(run)
        (prompt,) = bench.api.asked[0].prompts
        assert await bench.messages(run) == [("user", prompt), ("assistant", "ok")]
    assert prompt.splitlines() == [
        "<inputs>",
        'files: ["a.py", "b.py"]',
        "depth: 2",
        "note:",
        "  line 1",
        "  line 2",
        "</inputs>",
    ]
