"""`fsm-runner executor new` writes an executor, profile and test that work unchanged."""

import asyncio
import json
import os
import signal
import sys
from asyncio.subprocess import PIPE, STDOUT
from pathlib import Path
from typing import Any

import pytest
from starlette.responses import JSONResponse
from typer.testing import CliRunner, Result

from fsm_runner.cli.executor import app
from fsm_runner.config.paths import HOME_VARIABLE
from fsm_runner.config.profiles import load_profile
from fsm_runner.errors import EXIT_OK, FsmRunnerError, UsageError
from tests.support.executor_program import SESSION_ID, SHUTDOWN, RecordingGateway, error_of, executor, invocation, turn
from tests.support.program import environment, finish

FORMS = [(language, lifecycle) for language in ("python", "sh") for lifecycle in ("persistent", "one_shot")]
NAME = "my-own"
TEST_LIMIT_S = 60
LARGE_CHARACTERS = 200_000


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(HOME_VARIABLE, raising=False)
    return tmp_path


def new(*words: str) -> Result:
    return CliRunner().invoke(app, ["new", *words])


def written(language: str = "sh", lifecycle: str = "persistent") -> Path:
    """Write the files, and return the path of the executor."""
    result = new(NAME, "--language", language, "--lifecycle", lifecycle)
    assert (result.exit_code, result.stderr) == (EXIT_OK, ""), result.output
    return Path.cwd() / "executors" / NAME / NAME


def refusal(*words: str) -> FsmRunnerError:
    result = new(*words)
    assert isinstance(result.exception, FsmRunnerError), result.output
    assert "wrote" not in result.stdout
    return result.exception


async def passed(folder: Path, *arguments: str) -> None:
    """Run the tests in this folder, and check that all pass."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
    process = await asyncio.create_subprocess_exec(
        *command, cwd=folder, env=environment(None), stdout=PIPE, stderr=STDOUT
    )
    try:
        output, _ = await asyncio.wait_for(process.communicate(), TEST_LIMIT_S)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, output.decode()
    assert " passed" in output.decode()
    assert "skipped" not in output.decode()


@pytest.mark.parametrize(("language", "lifecycle"), FORMS)
async def test_the_written_test_passes_and_a_runner_works_with_the_executor(
    elsewhere: Path, language: str, lifecycle: str
) -> None:
    written(language, lifecycle)
    profile = load_profile(NAME).profile
    assert (profile.type, profile.lifecycle) == ("autonomous", lifecycle)
    await passed(elsewhere, "tests")
    ended = await finish(elsewhere, environment(None), "run", "--profile", NAME, "--prompt", 'say "ü"')
    assert (ended.code, ended.stdout, ended.stderr) == (EXIT_OK, 'say "ü"\n', "")


async def test_the_written_test_fails_if_the_executor_does_not_answer(elsewhere: Path) -> None:
    path = written("python")
    path.write_text(path.read_text().replace("return turn.prompt", 'return "something else"'))
    with pytest.raises(AssertionError, match="something else"):
        await passed(elsewhere, "tests")


def test_the_output_lists_the_files_and_the_next_steps(elsewhere: Path) -> None:
    result = new(NAME, "--dir", "some where")
    files = [f"executors/{NAME}/{NAME}", f"profiles/{NAME}.json", "tests/test_my_own.py"]
    lines = result.stdout.splitlines()
    assert lines[:3] == [f"wrote some where/{file}" for file in files]
    found = [path.relative_to(elsewhere / "some where") for path in (elsewhere / "some where").rglob("*")]
    assert sorted(str(path) for path in found if (elsewhere / "some where" / path).is_file()) == sorted(files)
    assert os.access(elsewhere / "some where" / files[0], os.X_OK)
    assert f"cd 'some where' && fsm-runner --profile {NAME}" in result.stdout
    assert f"fsm-runner submit --profile {NAME}" in result.stdout


def test_the_python_executor_is_short() -> None:
    assert len([line for line in written("python").read_text().splitlines() if line]) <= 25


@pytest.mark.parametrize("name", ["", "Mine", "../mine", "a/b", "1st", "-x", "mine.py", "a b", "ä", "a" * 65, "a\n"])
def test_an_invalid_name_is_rejected(elsewhere: Path, name: str) -> None:
    error = refusal("--", name)
    assert isinstance(error, UsageError)
    assert repr(name) in str(error)
    assert list(elsewhere.iterdir()) == []


def test_no_file_is_overwritten_and_all_existing_files_are_named(elsewhere: Path) -> None:
    path = written("python")
    (elsewhere / "tests" / "test_my_own.py").unlink()
    path.write_text("mine")
    error = refusal(NAME, "--language", "sh")
    assert isinstance(error, UsageError)
    assert f"executors/{NAME}/{NAME}, profiles/{NAME}.json" in str(error)
    assert path.read_text() == "mine"
    assert not (elsewhere / "tests" / "test_my_own.py").exists()


def test_the_error_names_a_folder_that_cannot_be_written_to(elsewhere: Path) -> None:
    (elsewhere / "file").touch()
    assert "file/executors" in str(refusal(NAME, "--dir", "file"))


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (None, "empty"),
        ("{not json", "bad JSON"),
        ('{"a": 01}', "bad JSON"),
        ('{"a": "\\x"}', "bad JSON"),
        ("[]", "not an object"),
        ("[" * 100_000 + "]", "bad JSON"),
        (
            json.dumps(invocation(schema_version="3.0")),
            'Unsupported schema version: schema_version must be "2.2", not "3.0"',
        ),
        (json.dumps(invocation(mode="restart")), "mode"),
        (json.dumps(invocation(session_id="")), "session_id"),
        (json.dumps(invocation(parameters=[])), "parameters"),
        (json.dumps({"schema_version": "2.2", "mode": "start", "session_id": "s"}), "no parameters"),
        (json.dumps(invocation()), "AGENT_ORCHESTRATOR_API_URL"),
    ],
    ids=lambda value: str(value)[:40],
)
async def test_the_shell_executor_rejects_bad_input(text: str | None, named: str) -> None:
    assert named in await error_of([written()], text)


@pytest.mark.parametrize(
    "parameters",
    [
        {"prompt": 'a "quoted" \\ text, ü😀\n\t\x01 $HOME `id` %s'},
        {"prompt": ""},
        {"prompt": 5, "list": [1, -2.5e3, {"a": None}, True, "]}\\"]},
        {},
        {"nested": {"prompt": "not this one"}},
        {"prompt": 'x"\\' * LARGE_CHARACTERS},
    ],
    ids=lambda parameters: str(parameters)[:40],
)
async def test_the_shell_executor_answers_any_parameters(parameters: dict[str, Any]) -> None:
    expected = parameters["prompt"] if isinstance(parameters.get("prompt"), str) else parameters
    async with RecordingGateway().serving() as gateway, executor([written()], gateway) as process:
        sending = asyncio.create_task(process.send({"metadata": [{}], **invocation(parameters=parameters)}))
        first = await process.result()
        await sending
        await process.send("noise", "{}", turn(**parameters))
        for result in (first, await process.result(), *gateway.results()):
            assert (result if isinstance(expected, str) else json.loads(result)) == expected
        assert gateway.event_types() == ["message", "message", "result"] * 2
        assert gateway.bodies("/bind") == [{"session_id": SESSION_ID, "executor_session_id": f"{NAME}_{SESSION_ID}"}]
        await process.send(SHUTDOWN)
        assert await process.ended() == (0, "")


async def test_the_shell_executor_accepts_an_object_that_spans_lines() -> None:
    async with RecordingGateway().serving() as gateway, executor([written()], gateway) as process:
        await process.send(json.dumps(invocation(mode="resume", parameters={"a": {"b": ["}"]}}), indent=1))
        process.close_stdin()
        assert json.loads(await process.result()) == {"a": {"b": ["}"]}}
        assert await process.ended() == (0, "")


async def test_the_shell_executor_fails_if_the_gateway_rejects_an_event() -> None:
    async with RecordingGateway().serving() as gateway, executor([written()], gateway) as process:
        gateway.answers["/events"] = JSONResponse({"detail": "away"}, status_code=502)
        await process.send(invocation())
        assert await process.ended() == (1, 'Error: POST /events was answered with {"detail":"away"} (502)\n')


async def test_the_shell_executor_ends_on_sigterm() -> None:
    async with RecordingGateway().serving() as gateway, executor([written()], gateway) as process:
        await process.send(invocation())
        await process.result()
        process.process.terminate()
        assert await process.ended() == (-signal.SIGTERM, "")


async def test_version_and_schema_of_the_shell_executor() -> None:
    path = written()
    async with executor([path, "--version"]) as process:
        assert await process.message() == {"executor": NAME, "version": "1.0", "schema_versions": ["2.2"]}
    async with executor([path, "--schema"]) as process:
        assert process.process.stdout is not None
        assert json.loads(await process.process.stdout.read())["type"] == "object"
        assert await process.ended() == (0, "")
    async with executor([path, "--help"]) as process:
        assert await process.ended() == (2, f"Usage: {NAME} [--version | --schema]\n")
