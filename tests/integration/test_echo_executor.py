"""The bundled echo executor, as a process."""

import asyncio
import json
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from fsm_runner.config.paths import HOME_VARIABLE
from fsm_runner.config.profiles import load_profile
from fsm_runner.errors import EXIT_OK
from tests.support.executor_program import (
    ECHO,
    SDK,
    SESSION_ID,
    SHUTDOWN,
    RecordingGateway,
    error_of,
    executor,
    invocation,
    turn,
)
from tests.support.program import REPOSITORY, environment, finish

HUGE_CHARACTERS = 3_000_000
ODD_TEXT = 'a "quoted" \\ text, ü😀\u2028\x00\n\ttab'


async def test_a_session_with_several_turns() -> None:
    async with RecordingGateway().serving() as gateway, executor([ECHO], gateway) as process:
        await process.send(invocation(parameters={"prompt": ODD_TEXT}))
        assert await process.result() == ODD_TEXT
        assert gateway.calls[0] == (
            "POST",
            "/bind",
            {"session_id": SESSION_ID, "executor_session_id": f"echo_{SESSION_ID}", "project_dir": "/project"},
        )
        assert gateway.event_types() == ["message", "message", "result"]
        assert [event.get("role") for event in gateway.bodies("/events")] == ["user", "assistant", None]
        await process.send("not JSON", turn(prompt="and again"))
        assert await process.result() == "and again"
        await process.send(turn(first=1, second=["ü"]))
        assert await process.result() == '{"first": 1, "second": ["ü"]}'
        assert gateway.results() == [ODD_TEXT, "and again", '{"first": 1, "second": ["ü"]}']
        assert len(gateway.bodies("/bind")) == 1
        await process.send(SHUTDOWN)
        assert await process.ended() == (0, "")


@pytest.mark.parametrize("mode", ["start", "resume"])
async def test_a_one_shot_run(mode: str) -> None:
    async with RecordingGateway().serving() as gateway, executor([ECHO], gateway) as process:
        await process.send(json.dumps(invocation(mode=mode, metadata=[1], unknown={}), indent=2))
        process.close_stdin()
        assert await process.result() == "hello"
        assert await process.ended() == (0, "")
        (binding,) = gateway.bodies("/bind")
        assert binding["executor_session_id"] == f"echo_{SESSION_ID}"
        assert ("project_dir" in binding) == (mode == "start")
        assert gateway.results() == ["hello"]


async def test_a_huge_parameter_is_answered() -> None:
    prompt = "ü" * HUGE_CHARACTERS
    async with RecordingGateway().serving() as gateway, executor([ECHO], gateway) as process:
        sending = asyncio.create_task(process.send(invocation(parameters={"prompt": prompt})))
        assert await process.result() == prompt
        await sending
        assert gateway.results() == [prompt]


async def test_sigterm_ends_it() -> None:
    async with RecordingGateway().serving() as gateway, executor([ECHO], gateway) as process:
        await process.send(invocation())
        await process.result()
        process.process.terminate()
        assert await process.ended() == (128 + signal.SIGTERM, "")


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("{not json", "bad JSON"),
        ("[]", "JSON object"),
        (
            json.dumps(invocation(schema_version="3.0")),
            'Unsupported schema version: schema_version must be "2.2", not "3.0"',
        ),
        (json.dumps(invocation(mode="restart")), "mode"),
        (json.dumps({key: value for key, value in invocation().items() if key != "parameters"}), "parameters"),
    ],
)
async def test_bad_input_is_rejected(text: str, named: str) -> None:
    assert named in await error_of([ECHO], text)


async def test_empty_input_is_rejected() -> None:
    async with executor([ECHO]) as process:
        process.close_stdin()
        assert await process.ended() == (
            1,
            "Error: standard input is empty; an executor is started by a runner, which writes an invocation\n",
        )


async def test_version_and_schema() -> None:
    async with executor([ECHO, "--version"]) as process:
        assert await process.message() == {"executor": "echo", "version": "1.0", "schema_versions": ["2.2"]}
        assert await process.ended() == (0, "")
    async with executor([ECHO, "--schema"]) as process:
        schema: Any = await process.message()
        assert schema["required"] == ["schema_version", "mode", "session_id", "parameters"]
        assert await process.ended() == (0, "")


async def test_unknown_arguments_are_rejected() -> None:
    async with executor([ECHO, "--help"]) as process:
        code, stderr = await process.ended()
        assert (code, stderr.splitlines()[0]) == (2, "Usage: echo [--version | --schema]")


@pytest.mark.parametrize("folder", ["fsm_runner/sdk", "sdk"], ids=["in a checkout", "in an installation"])
async def test_started_by_hand_it_finds_the_sdk(tmp_path: Path, folder: str) -> None:
    home = tmp_path if folder.startswith("fsm_runner") else tmp_path / "bundled"
    path = home / "executors" / "echo" / ECHO.name
    path.parent.mkdir(parents=True)
    shutil.copy(ECHO, path)
    shutil.copytree(SDK / "fsm_executor", tmp_path / folder / "fsm_executor")
    async with executor([path, "--version"], PYTHONPATH="") as process:
        assert (await process.message())["executor"] == "echo"


async def test_a_missing_sdk_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "echo"
    path.parent.mkdir(parents=True)
    shutil.copy(ECHO, path)
    async with executor([sys.executable, path], PYTHONPATH="") as process:
        code, stderr = await process.ended()
        assert code == 1
        assert stderr.startswith("Error: the package fsm_executor is missing")


@pytest.mark.parametrize(("name", "lifecycle"), [("echo-session", "persistent"), ("echo-once", "one_shot")])
async def test_the_bundled_profiles_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, lifecycle: str
) -> None:
    monkeypatch.delenv(HOME_VARIABLE, raising=False)
    monkeypatch.chdir(tmp_path)
    profile = load_profile(name)
    assert (profile.profile.type, profile.profile.lifecycle) == ("autonomous", lifecycle)
    assert profile.home / profile.profile.command == REPOSITORY / "executors" / "echo" / "ao-echo-exec"
    ended = await finish(tmp_path, environment(None), "run", "--profile", name, "--prompt", "hello")
    assert (ended.code, ended.stdout, ended.stderr) == (EXIT_OK, "hello\n", "")
