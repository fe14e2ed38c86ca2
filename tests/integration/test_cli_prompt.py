"""`submit` and `run` without an agent, and sessions that go on: the program against a coordinator.

The runner is the test itself, which claims and reports by hand.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fsm_runner.cli.runner import submit_examples
from fsm_runner.config.profiles import load_profile
from fsm_runner.coordinator_server.store.interface import Author, EventHead
from fsm_runner.errors import EXIT_FAILED, EXIT_OK, EXIT_USAGE
from tests.support.embedded import EmbeddedCoordinator, autonomous, embedded_coordinator
from tests.support.home import PROFILE, make_home
from tests.support.program import Finished, environment, finish, program

EARLIER, NOON, LATER = (f"2026-01-01T{hour}:00:00.000000Z" for hour in ("11", "12", "13"))
ASK_AGENT = {"name": "ask", "type": "autonomous", "command": "", "description": "Answers."}
ODD_TEXT = 'a "quoted"\n\x1b[31mred\x1b[0m line, é\n'


class Submitter:
    """The command line of a user, and a runner whose runs the test ends."""

    def __init__(self, folder: Path, coordinator: EmbeddedCoordinator, runner_id: str) -> None:
        self.folder = folder
        self.coordinator = coordinator
        self.runner_id = runner_id
        self._submitting: set[asyncio.Task[Finished]] = set()

    async def submits(self, *arguments: str, **variables: str) -> Finished:
        env = environment(None, **variables)
        return await finish(self.folder, env, "submit", "-c", self.coordinator.server.url, *arguments)

    async def claims(self, *arguments: str, **variables: str) -> tuple[dict[str, Any], "asyncio.Task[Finished]"]:
        """Submit with these arguments and claim the run. The command is still at work where it waits."""
        submitting = asyncio.create_task(self.submits(*arguments, **variables), name="submit")
        self._submitting.add(submitting)
        run = await self.coordinator.claim(self.runner_id)
        assert (await self.coordinator.report(run, "started", self.runner_id)).status_code == 200
        return run, submitting

    async def answers(self, run: dict[str, Any], timestamp: str = NOON, **result: Any) -> None:
        answer = await self.coordinator.event(run, event_type="result", timestamp=timestamp, **result)
        assert answer.status_code == 201

    async def completes(self, run: dict[str, Any], session_status: str = "idle") -> None:
        answer = await self.coordinator.report(
            run, "completed", self.runner_id, status="success", session_status=session_status
        )
        assert answer.status_code == 200

    async def fails(self, run: dict[str, Any], error: str) -> None:
        assert (await self.coordinator.report(run, "failed", self.runner_id, error=error)).status_code == 200

    async def session(self, text: str = "first", timestamp: str = NOON) -> str:
        """A session that has had one turn and lives on."""
        await self.coordinator.prompt()
        run = await self.coordinator.claim(self.runner_id)
        await self.coordinator.report(run, "started", self.runner_id)
        await self.coordinator.bind(run)
        await self.answers(run, timestamp, result_text=text)
        await self.completes(run)
        session_id: str = run["session_id"]
        return session_id

    async def come_to_an_end(self) -> None:
        for submitting in self._submitting:
            submitting.cancel()
        await asyncio.gather(*self._submitting, return_exceptions=True)


@asynccontextmanager
async def open_submitter(folder: Path, **overrides: Any) -> AsyncIterator[Submitter]:
    async with embedded_coordinator() as coordinator:
        runner_id = await coordinator.register(**autonomous(**overrides))
        submitter = Submitter(folder, coordinator, runner_id)
        try:
            yield submitter
        finally:
            await submitter.come_to_an_end()


# Without an agent.


async def test_a_prompt_needs_no_agent_and_its_result_is_printed_unchanged(tmp_path: Path) -> None:
    async with open_submitter(tmp_path) as submitter:
        run, submitting = await submitter.claims("--prompt", "hello = there", "--wait")
        assert (run["type"], run["agent_name"], run["parameters"]) == (
            "start_session",
            None,
            {"prompt": "hello = there"},
        )
        await submitter.answers(run, result_text=ODD_TEXT)
        await submitter.completes(run)
        ended = await submitting
        assert (ended.code, ended.stdout) == (EXIT_OK, f"{ODD_TEXT}\n")
        at = f"-c {submitter.coordinator.server.url}"
        assert ended.stderr.splitlines() == [
            f"{run['run_id']} of {run['session_id']} is submitted; to stop it: fsm-runner stop {run['run_id']} {at}",
            f"to continue: fsm-runner submit --session {run['session_id']} --prompt … --wait {at}",
        ]


async def test_data_is_one_line_of_json_and_an_ended_session_is_not_offered(tmp_path: Path) -> None:
    async with open_submitter(tmp_path) as submitter:
        run, submitting = await submitter.claims("--prompt", "hello", "--wait")
        await submitter.answers(run, result_data={"said": "a\nb"})
        await submitter.completes(run, "finished")
        ended = await submitting
        assert (ended.code, ended.stdout) == (EXIT_OK, '{"said": "a\\nb"}\n')
        assert "to go on" not in ended.stderr


async def test_a_result_is_printed_whatever_the_character_set_of_stdout(tmp_path: Path) -> None:
    async with open_submitter(tmp_path) as submitter:
        for result in ({"result_text": "→ 😀"}, {"result_data": {"said": "→ 😀"}}):
            run, submitting = await submitter.claims("--prompt", "x", "--wait", PYTHONIOENCODING="latin-1")
            await submitter.answers(run, **result)
            await submitter.completes(run)
            ended = await submitting
            assert ended.code == EXIT_OK, ended.stderr
            if "result_text" in result:
                assert ended.stdout == "\\u2192 \\U0001f600\n"
            else:
                assert json.loads(ended.stdout) == result["result_data"]


async def test_words_without_an_agent_are_texts_and_json(tmp_path: Path) -> None:
    (tmp_path / "task.md").write_text("from a file")
    async with open_submitter(tmp_path) as submitter:
        run, submitting = await submitter.claims("prompt=@task.md", "depth:=3", "size=3")
        assert run["parameters"] == {"prompt": "from a file", "depth": 3, "size": "3"}
        created = json.loads((await submitting).stdout)
        assert (created["run_id"], created["session_id"]) == (run["run_id"], run["session_id"])


async def test_a_prompt_for_an_agent_is_its_parameter_and_never_a_file(tmp_path: Path) -> None:
    async with open_submitter(tmp_path, agents=[ASK_AGENT]) as submitter:
        run, submitting = await submitter.claims("ask", "--prompt", "@nowhere", "mood=good")
        assert (run["agent_name"], run["parameters"]) == ("ask", {"prompt": "@nowhere", "mood": "good"})
        assert (await submitting).code == EXIT_OK


async def test_only_the_named_profile_takes_the_run(tmp_path: Path) -> None:
    async with open_submitter(tmp_path, agents=[ASK_AGENT]) as submitter:
        other_poll = await submitter.coordinator.held_poll(
            await submitter.coordinator.register(**autonomous(executor_profile="other"))
        )
        for arguments in (("--prompt", "x"), ("ask", "--prompt", "x")):
            run, submitting = await submitter.claims(*arguments, "--profile", "echo")
            assert run["demands"]["executor_profile"] == "echo"
            assert (await submitting).code == EXIT_OK
        assert not other_poll.done()
        assert (await submitter.submits("--prompt", "for the other", "-x", "other")).code == EXIT_OK
        assert (await other_poll).json()["run"]["parameters"] == {"prompt": "for the other"}


# Sessions that go on.


@pytest.mark.parametrize("timestamp", [EARLIER, NOON, LATER])
async def test_a_resume_prints_its_own_result_whatever_the_clock_says(tmp_path: Path, timestamp: str) -> None:
    async with open_submitter(tmp_path) as submitter:
        session_id = await submitter.session("first", NOON)
        run, submitting = await submitter.claims("--session", session_id, "--prompt", "more", "--wait")
        assert (run["type"], run["session_id"], run["parameters"]) == ("resume_session", session_id, {"prompt": "more"})
        await submitter.answers(run, timestamp, result_text="second")
        await submitter.completes(run)
        ended = await submitting
        assert (ended.code, ended.stdout) == (EXIT_OK, "second\n")
        assert f"to continue: fsm-runner submit --session {session_id} " in ended.stderr


async def test_a_resume_without_a_result_does_not_print_an_earlier_one(tmp_path: Path) -> None:
    async with open_submitter(tmp_path) as submitter:
        session_id = await submitter.session("first")
        run, submitting = await submitter.claims("--session", session_id, "--prompt", "more", "--wait")
        await submitter.completes(run)
        ended = await submitting
        assert (ended.code, ended.stdout) == (EXIT_OK, "")


async def test_a_resume_that_fails_prints_no_other_turn_s_result(tmp_path: Path) -> None:
    async with open_submitter(tmp_path) as submitter:
        session_id = await submitter.session("first")
        run, submitting = await submitter.claims("--session", session_id, "--prompt", "more", "--wait")
        await submitter.answers(run, LATER, result_text="of the turn that was still at work")
        await submitter.fails(run, "the session is busy")
        ended = await submitting
        assert (ended.code, ended.stdout) == (EXIT_FAILED, "")
        assert "the session is busy" in ended.stderr
        assert "to go on" not in ended.stderr


async def test_a_failed_start_prints_its_result(tmp_path: Path) -> None:
    async with open_submitter(tmp_path) as submitter:
        run, submitting = await submitter.claims("--prompt", "x", "--wait")
        await submitter.answers(run, result_text="half of it")
        await submitter.fails(run, "it broke")
        ended = await submitting
        assert (ended.code, ended.stdout) == (EXIT_FAILED, "half of it\n")
        assert "it broke" in ended.stderr


async def test_a_session_that_cannot_be_resumed_is_reported_with_the_reason(tmp_path: Path) -> None:
    async with open_submitter(tmp_path) as submitter:
        for wait in ((), ("--wait",)):
            ended = await submitter.submits("--session", "ses_nowhere", "--prompt", "x", *wait)
            assert_refused(ended, "'ses_nowhere'", "Session not found")
        ended = await submitter.submits("--session", await submitter.session(), "depth:=3")
        assert_refused(ended, "the session does not take", "prompt")
        ended = await submitter.submits("prompt:=3")
        assert_refused(ended, "a run without an agent does not take", "prompt")


# What is refused before anything is asked of a coordinator.


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("submit",), ("AGENT", "--prompt TEXT")),
        (("submit", "mood=good"), ("AGENT", "--prompt TEXT")),
        (("submit", "--prompt", "x", "prompt=y"), ("--prompt TEXT", "prompt=TEXT")),
        (("submit", "--prompt", " "), ("--prompt",)),
        (("submit", "--prompt", "\udce9"), ("--prompt", "UTF-8")),
        (("submit", "--prompt", "x", "y=1", "no equals sign"), ("no equals sign",)),
        (("submit", "--prompt", "x", "--profile", "\udce9"), ("--profile", "UTF-8")),
        (("submit", "--session", "ses_1"), ("--session", "--prompt TEXT")),
        (("submit", "--session", "", "--prompt", "x"), ("--session",)),
        (("submit", "--session", "\udce9", "--prompt", "x"), ("--session", "UTF-8")),
        (("submit", "say", "--session", "ses_1", "--prompt", "x"), ("'say'", "--session")),
        (("submit", "--session", "ses_1", "--prompt", "x", "-x", "best"), ("--profile best", "--session")),
        (("run",), ("AGENT", "--prompt TEXT")),
        (("run", "--profile", "thinker"), ("AGENT", "--prompt TEXT")),
        (("run", "--prompt", "x"), ("--profile", "thinker, writer", "broken.json")),
        (("run", "--prompt", "x", "--profile", PROFILE), (f"'{PROFILE}'", "thinker, writer")),
        (("run", "--prompt", "x", "--profile", "nobody"), ("'nobody'", "thinker")),
        (("run", "say", "--prompt", "x", "prompt=y"), ("--prompt TEXT", "prompt=TEXT")),
    ],
    ids=ascii,
)
async def test_incomplete_work_is_a_usage_error(
    tmp_path: Path, arguments: tuple[str, ...], named: tuple[str, ...]
) -> None:
    home = make_home(tmp_path / "home")
    for name in ("thinker", "writer"):
        home.path.with_name(f"{name}.json").write_text('{"type": "autonomous", "command": "executors/x/y"}')
    home.path.with_name("broken.json").write_text("{")
    assert_refused(await finish(tmp_path, environment(tmp_path / "home"), *arguments), *named)


# One run here and now.


@pytest.mark.parametrize("profile", ["echo-once", "echo-session"])
async def test_run_takes_a_prompt_for_a_profile_without_agents(tmp_path: Path, profile: str) -> None:
    ended = await finish(tmp_path, environment(None), "run", "--profile", profile, "--prompt", "hello")
    assert (ended.code, ended.stdout, ended.stderr) == (EXIT_OK, "hello\n", "")


def test_a_runner_shows_how_to_submit_what_its_profile_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = make_home(tmp_path)
    monkeypatch.setenv("FSM_RUNNER_HOME", str(tmp_path))
    assert "fsm-runner submit say --wait" in submit_examples(home)
    assert not any("--prompt" in example for example in submit_examples(home))
    home.path.with_name("thinker.json").write_text('{"type": "autonomous", "command": "executors/x/y"}')
    assert submit_examples(load_profile("thinker")) == ['fsm-runner submit --prompt "hello" --wait']


def assert_refused(ended: Finished, *named: str) -> None:
    assert (ended.code, ended.stdout) == (EXIT_USAGE, ""), ended
    assert ended.stderr.startswith("error: ")
    assert ended.stderr.count("\n") == 1, ended.stderr
    for text in named:
        assert text in ended.stderr, ended.stderr


async def test_a_result_that_is_not_text_is_printed_as_json(tmp_path: Path) -> None:
    async with open_submitter(tmp_path) as submitter:
        run, submitting = await submitter.claims("--prompt", "x", "--wait")
        # The embedded coordinator refuses such an event; others may have taken one.
        event = {"event_type": "result", "session_id": run["session_id"], "timestamp": NOON}
        head, body = msgspec.convert(event, EventHead), msgspec.json.encode({**event, "result_text": 5})
        await submitter.coordinator.inside.store.add_event(run["session_id"], head, body, Author())
        await submitter.completes(run)
        assert (await submitting).stdout == "5\n"
        further, submitting = await submitter.claims("--session", run["session_id"], "--prompt", "y", "--wait")
        await submitter.answers(further, LATER, result_text="sound")
        await submitter.completes(further)
        assert (await submitting).stdout == "sound\n"


async def test_a_session_that_waits_for_a_turn_can_be_stopped(tmp_path: Path) -> None:
    async with open_submitter(tmp_path) as submitter:
        session_id = await submitter.session()
        at = ("-c", submitter.coordinator.server.url)
        assert (await finish(tmp_path, environment(None), "stop", session_id, *at)).code == EXIT_OK
        assert (await submitter.coordinator.poll(submitter.runner_id)).json() == {"stop_sessions": [session_id]}
        unknown = await finish(tmp_path, environment(None), "stop", "ses_nowhere", *at)
        assert (unknown.code, "'ses_nowhere' is not stopped" in unknown.stderr) == (EXIT_USAGE, True)


async def test_a_run_without_a_matching_runner_is_reported_as_waiting(tmp_path: Path) -> None:
    async with open_submitter(tmp_path) as submitter:
        arguments = ("submit", "-c", submitter.coordinator.server.url, "--profile", "typo", "--prompt", "x", "--wait")
        async with program(tmp_path, environment(None), *arguments) as submitting:
            said = await submitting.said("the run demands 'typo'")
            assert f"({submitter.runner_id}): its profile is 'echo'" in said
