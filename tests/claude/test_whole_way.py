"""Claude Code end to end: bundled profiles, the command line, and the executor check."""

import asyncio
import time
from pathlib import Path

import pytest

from fsm_runner.coordinator_server.timings import Timings
from fsm_runner.errors import EXIT_FAILED, EXIT_OK, EXIT_USAGE
from tests.support.claude import COMMAND, claude_environment
from tests.support.embedded import embedded_coordinator
from tests.support.fifo import Fifo
from tests.support.messages_api import Calls, Held, Says, messages_api, reached_limit
from tests.support.processes import gone
from tests.support.program import REPOSITORY, environment, finish, program

CHECK_TIMEOUT_S = "20"
LIMIT_S = 5


async def test_a_prompt_from_submit_to_result(tmp_path: Path) -> None:
    async with messages_api() as api, embedded_coordinator() as coordinator:
        api.will(Says("Good day."), Says("Good bye."))
        env = claude_environment(api, tmp_path)
        flags = ("--profile", "quick", "--coordinator-url", coordinator.server.url)
        async with program(tmp_path, env, *flags) as runner:
            await runner.said("online")
            first = await finish(tmp_path, env, "submit", "-c", coordinator.server.url, "--prompt", "hello", "--wait")
            assert (first.code, first.stdout) == (EXIT_OK, "Good day.\n")
            session = next(word for word in first.stderr.split() if word.startswith("ses_"))
            more = ("submit", "-c", coordinator.server.url, "--session", session, "--prompt", "bye", "--wait")
            second = await finish(tmp_path, env, *more)
            assert (second.code, second.stdout) == (EXIT_OK, "Good bye.\n")
            assert "sonnet" in api.asked[0].body["model"]
            runner.terminate()
            assert await runner.exit_code() == EXIT_OK
        history = await finish(tmp_path, env, "history", session)
        runs = [line for line in history.stdout.splitlines() if line.startswith("run_")]
        assert [line.split()[3] for line in runs] == ["completed"] * 2


async def test_a_prompt_with_fsm_runner_run(tmp_path: Path) -> None:
    async with messages_api() as api:
        api.will(Says("Good day."))
        answer = await finish(
            tmp_path, claude_environment(api, tmp_path), "run", "--profile", "best", "--prompt", "hello"
        )
        assert (answer.code, answer.stdout) == (EXIT_OK, "Good day.\n")
        assert "opus" in api.asked[0].body["model"]


async def test_a_killed_runner_continues_a_session_that_waits_for_a_limit(tmp_path: Path) -> None:
    async with messages_api() as api, embedded_coordinator(Timings(gone_after_s=0.5)) as coordinator:
        env, url = claude_environment(api, tmp_path), coordinator.server.url
        go_on = asyncio.Event()
        api.will(Held(go_on, Calls("Bash", {"command": "echo one"})))
        submit = ("submit", "-c", url, "--prompt", "first", "--wait")
        async with program(tmp_path, env, "--profile", "quick", "--coordinator-url", url) as runner:
            await runner.said("online")
            submitted = asyncio.create_task(finish(tmp_path, env, *submit), name="submit --wait")
            await api.was_asked(1)
            api.will(reached_limit(int(time.time() + LIMIT_S)), Says("It is done."))
            go_on.set()
            waits = await runner.said("waiting for limit: the limit five_hour is reached")
            run = next(word for word in waits.split() if word.startswith("run_")).rstrip(":")
            # A step is in the journal soon after it is in the log.
            while "waiting_for_limit" not in (await finish(tmp_path, env, "history", run)).stdout:
                pass
            runner.process.kill()
            await runner.exit_code()
        async with program(tmp_path, env, "--profile", "quick", "--coordinator-url", url) as runner:
            await runner.said(f"{run}: resumed; an earlier process ended while it was waiting_for_limit")
            result = await submitted
            runner.terminate()
            assert await runner.exit_code() == EXIT_OK
    assert (result.code, result.stdout) == (EXIT_OK, "It is done.\n")
    assert len(api.asked) == 3
    assert api.asked[-1].prompts[0].strip() == "first"
    assert [each["content"] for each in api.asked[-1].tool_results] == ["one"]


async def test_a_session_continues_after_its_runner_was_killed_in_a_turn(tmp_path: Path) -> None:
    async with (
        messages_api() as api,
        embedded_coordinator(Timings(gone_after_s=0.5)) as coordinator,
        Fifo(tmp_path / "started") as started,
    ):
        env, url = claude_environment(api, tmp_path), coordinator.server.url
        # The program writes its transcript with a delay.
        command = f"sleep 0.5; echo $$ > {started.path}; python3 -c 'import time; time.sleep(1000)'"
        api.will(Calls("Bash", {"command": command}), Says("It is done."))
        flags = ("--profile", "quick", "--coordinator-url", url)
        async with program(tmp_path, env, *flags) as runner:
            await runner.said("online")
            submit = finish(tmp_path, env, "submit", "-c", url, "--prompt", "first", "--wait")
            submitted = asyncio.create_task(submit, name="submit --wait")
            tool = await started.pid()
            runner.process.kill()
            await runner.exit_code()
        async with program(tmp_path, env, *flags) as runner:
            first = await submitted
            session = next(word for word in first.stderr.split() if word.startswith("ses_"))
            more = ("submit", "-c", url, "--session", session, "--prompt", "second", "--wait")
            second = await finish(tmp_path, env, *more)
            await gone(tool)
            runner.terminate()
            assert await runner.exit_code() == EXIT_OK
    assert (first.code, second.code, second.stdout) == (EXIT_FAILED, EXIT_OK, "It is done.\n")
    assert "interrupted: the runner's process ended" in first.stderr
    assert api.asked[-1].prompts == ["first", "second"]


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ('{"modle": "opus"}', "config: there is no modle; there are: permission_mode, "),
        ('{"max_turns": "3"}', "config.max_turns: '3' is not of type 'integer'"),
        ('{"permission_mode": "yes"}', "config.permission_mode: 'yes' is not one of"),
        ('{"setting_sources": ["projekt"]}', "config.setting_sources.0: 'projekt' is not one of"),
        ('{"env": ["AUTH0_DOMAIN"]}', "config.env: AUTH0_DOMAIN belongs to the runner"),
    ],
)
async def test_an_invalid_config_is_rejected_when_the_profile_is_loaded(tmp_path: Path, config: str, said: str) -> None:
    home = tmp_path / "home"
    (home / "profiles").mkdir(parents=True)
    (home / "executors").symlink_to(REPOSITORY / "executors")
    profile = home / "profiles" / "mine.json"
    profile.write_text(f'{{"type": "autonomous", "command": "{COMMAND}", "config": {config}}}')
    answer = await finish(tmp_path, environment(home), "run", "--profile", "mine", "--prompt", "hello")
    assert answer.code == EXIT_USAGE
    assert str(profile) in answer.stderr
    assert said in answer.stderr
    assert "Traceback" not in answer.stderr


async def test_the_executor_passes_the_conformance_suite(tmp_path: Path) -> None:
    async with messages_api() as api:
        env = claude_environment(api, tmp_path)
        check = ("executor", "check", str(REPOSITORY / COMMAND), "--profile", "quick", "--lifecycle", "both")
        answer = await finish(tmp_path, env, *check, "--timeout", CHECK_TIMEOUT_S, give_up_after_s=240)
        assert answer.code == EXIT_OK, answer.stdout
