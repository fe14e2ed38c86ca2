"""Claude Code end to end: bundled profiles, the command line, and the executor check."""

from pathlib import Path

import pytest

from fsm_runner.errors import EXIT_OK, EXIT_USAGE
from tests.support.claude import COMMAND, needed_variables
from tests.support.embedded import embedded_coordinator
from tests.support.messages_api import MessagesApi, Says, messages_api
from tests.support.program import REPOSITORY, environment, finish, program

CHECK_TIMEOUT_S = "20"


def claude_environment(api: MessagesApi, folder: Path, home: Path = REPOSITORY) -> dict[str, str]:
    return environment(home, **{**needed_variables(api.url, folder), "STATE_DIR": str(folder / "state")})


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
