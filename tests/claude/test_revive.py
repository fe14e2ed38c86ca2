"""A session whose process has ended continues in a new one (`revive` in the profile)."""

from pathlib import Path

import pytest

from tests.support.claude import ClaudeBench, claude, claude_profile
from tests.support.messages_api import Calls, Fails, Reply, Says
from tests.support.processes import gone, with_environment

INTERRUPTED = "[Request interrupted by user]"
"""The program's note in the conversation about a turn that the executor ends."""
REFUSED = Fails(401, "authentication_error", "invalid")


def check_conversation(bench: ClaudeBench, *prompts: str) -> None:
    """Check that the last request has the history of the whole session."""
    texts = [text.strip() for text in bench.api.asked[-1].prompts]
    assert [text for text in texts if text != INTERRUPTED] == list(prompts)
    assert len({asked.headers["x-claude-code-session-id"] for asked in bench.api.asked}) == 1


@pytest.mark.parametrize(
    ("replies", "said"),
    [
        ([Fails(529, "overloaded_error", "Overloaded")] * 3, "HTTP 529"),
        ([REFUSED, REFUSED], "the API does not accept CLAUDE_CODE_OAUTH_TOKEN"),
        # The program writes its transcript with a delay.
        ([Calls("Bash", {"command": "sleep 0.5; kill -9 $PPID"})], "it was killed by SIGKILL"),
    ],
    ids=["failure", "refusal", "death"],
)
async def test_a_session_continues_after_a_turn_that_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, replies: list[Reply], said: str
) -> None:
    async with claude(tmp_path, monkeypatch) as bench:
        bench.api.will(Says("one"), *replies, Says("three"), Says("four"))
        first = await bench.start("first")
        assert await bench.completes(first) == "one"
        assert said in await bench.fails(await bench.resume(first, "second"))
        assert await bench.completes(await bench.resume(first, "third")) == "three"
        (executor,) = with_environment(f"AGENT_SESSION_ID={first.session_id}")
        assert await bench.completes(await bench.resume(first, "fourth")) == "four"
        assert with_environment(f"AGENT_SESSION_ID={first.session_id}") == [executor]
        session = await bench.session(first)
    check_conversation(bench, "first", "second", "third", "fourth")
    assert (session["status"], bool(session["last_resumed_at"])) == ("idle", True)


async def test_a_session_continues_after_its_idle_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with claude(tmp_path, monkeypatch, session_idle_timeout_s=0.1) as bench:
        bench.api.will(Says("one"), Says("two"))
        first = await bench.start("first")
        await bench.completes(first)
        for process in with_environment(f"AGENT_SESSION_ID={first.session_id}"):
            await gone(process)
        assert await bench.completes(await bench.resume(first, "second")) == "two"
    check_conversation(bench, "first", "second")


async def test_a_session_continues_after_a_restart_of_the_runner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with claude(tmp_path, monkeypatch) as bench:
        bench.api.will(Says("one"), Says("two"))
        first = await bench.start("first")
        await bench.completes(first)
        await bench.runner.drain()
        async with bench.system.running(claude_profile(), state_dir=tmp_path / "later"):
            assert await bench.completes(await bench.resume(first, "second")) == "two"
    check_conversation(bench, "first", "second")


async def test_a_session_that_never_began_is_not_revived(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with claude(tmp_path, monkeypatch) as bench:
        first = await bench.start(" \n")
        assert "the prompt is blank" in await bench.fails(first)
        error = await bench.fails(await bench.resume(first, "second"))
        assert not bench.api.asked
    said = "has no executor_session_id, so there is no conversation to resume; start a new session"
    assert f"session {first.session_id} {said}" in error
