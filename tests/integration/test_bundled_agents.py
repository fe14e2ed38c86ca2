import json
import os
import signal
import subprocess
from pathlib import Path

import jsonschema
import msgspec
import pytest

from fsm_runner.config.paths import bundled
from fsm_runner.executors.arguments import command_arguments, split_command
from fsm_runner.executors.environment import executor_environment
from fsm_runner.protocol.wire import Agent, ExecutorInfo, JsonObject

EXECUTOR = bundled() / "executors/procedural"
AGENTS = ["echo", "test-procedural"]


def agent(name: str) -> Agent:
    return msgspec.json.decode((EXECUTOR / f"agents/{name}/{name}.json").read_bytes(), type=Agent)


def schema(name: str) -> JsonObject:
    found = agent(name).parameters_schema
    assert found is not None
    return found


def run(name: str, *arguments: str, path: str | None = None) -> "subprocess.CompletedProcess[bytes]":
    command = [str(EXECUTOR / (agent(name).command or "")), *arguments]
    environment = executor_environment(os.environ if path is None else {"PATH": path})
    return subprocess.run(command, capture_output=True, env=environment, timeout=60)


def run_with(name: str, parameters: JsonObject) -> "subprocess.CompletedProcess[bytes]":
    jsonschema.validate(parameters, schema(name))
    return run(name, *command_arguments(parameters))


@pytest.mark.parametrize("name", AGENTS)
def test_the_definition_is_sound_and_its_command_can_be_run(name: str) -> None:
    definition = agent(name)
    assert definition.name == name
    assert definition.description
    for found in (definition.parameters_schema, definition.output_schema):
        if found is not None:
            jsonschema.Draft202012Validator.check_schema(found)
    assert schema(name)["additionalProperties"] is False
    (command,) = split_command(definition.command or "")
    assert os.access(EXECUTOR / command, os.X_OK)


@pytest.mark.parametrize("name", AGENTS)
def test_the_profile_leads_to_the_agent(name: str) -> None:
    profile = msgspec.json.decode((bundled() / f"profiles/{name}.json").read_bytes(), type=ExecutorInfo)
    assert profile.type == "procedural"
    assert profile.command == "executors/procedural/ao-procedural-exec"
    assert [file.name for file in (bundled() / (profile.agents_dir or "")).iterdir()] == [f"{name}.json"]


@pytest.mark.parametrize(
    "message", ["hello", "", "--message", 'a "quoted" \\ text', "".join(map(chr, range(1, 0x20))), "ü😀\x7f\u2028"]
)
def test_echo_gives_its_message_back(message: str) -> None:
    ended = run_with("echo", {"message": message})
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert ended.stdout.count(b"\n") == 1
    result = json.loads(ended.stdout)
    assert result == {"message": message}
    output_schema = agent("echo").output_schema
    assert output_schema is not None
    jsonschema.validate(result, output_schema)


@pytest.mark.parametrize("locale", ["C", "POSIX", "C.UTF-8", "de_DE.ISO-8859-1"])
def test_echo_speaks_utf_8_in_any_locale(locale: str) -> None:
    command = [str(EXECUTOR / "commands/echo"), "--message", "ü😀"]
    environment = {"PATH": os.environ["PATH"], "LC_ALL": locale}
    ended = subprocess.run(command, capture_output=True, env=environment, timeout=60)
    assert ended.stdout.decode() == '{"message": "ü😀"}\n'


def test_echo_replaces_invalid_text() -> None:
    ended = subprocess.run([bytes(EXECUTOR / "commands/echo"), b"--message", b"a\xffb"], capture_output=True)
    assert json.loads(ended.stdout) == {"message": "a\N{REPLACEMENT CHARACTER}b"}


@pytest.mark.parametrize("arguments", [[], ["--message"], ["--text", "x"], ["--message", "x", "y"], ["hello"]])
def test_echo_refuses_other_arguments(arguments: list[str]) -> None:
    ended = run("echo", *arguments)
    assert (ended.returncode, ended.stdout) == (2, b"")
    assert ended.stderr == b"Usage: echo --message TEXT\n"


def test_a_system_without_python_gets_the_runner_s_own(tmp_path: Path) -> None:
    for tool in ("sh", "env"):
        found = Path("/bin") / tool if (Path("/bin") / tool).exists() else Path("/usr/bin") / tool
        (tmp_path / tool).symlink_to(found)
    for name in AGENTS:
        ended = run(name, *(["--message", "x"] if name == "echo" else []), path=str(tmp_path))
        assert (ended.returncode, ended.stderr) == (0, b"")


def test_procedural_prints_what_it_was_given() -> None:
    ended = run_with("test-procedural", {"items": ["a", "b"], "sleep-s": 0, "stderr-bytes": 3, "ignore-sigterm": True})
    given = {"items": ["a", "b"], "sleep-s": 0.0, "stderr-bytes": 3, "ignore-sigterm": True}
    assert (ended.returncode, json.loads(ended.stdout), len(ended.stderr)) == (0, given, 3)


@pytest.mark.parametrize(
    ("parameters", "stdout"),
    [
        ({"text": "-x ü"}, "-x ü\n"),
        ({"json": {"a": [1, "ü"]}}, '{"a": [1, "\\u00fc"]}\n'),
        ({"text": "a", "json": {}}, "a\n{}\n"),
        ({}, "{}\n"),
        ({"items": []}, '{"items": []}\n'),
    ],
)
def test_procedural_prints_what_it_is_asked_to(parameters: JsonObject, stdout: str) -> None:
    assert run_with("test-procedural", parameters).stdout.decode() == stdout


def test_procedural_writes_as_much_as_it_is_asked_to() -> None:
    ended = run_with("test-procedural", {"stdout-bytes": 100_000, "stderr-bytes": 5000, "exit-code": 9})
    assert (len(ended.stdout), len(ended.stderr), ended.returncode) == (100_000, 5000, 9)


def test_procedural_can_ignore_sigterm() -> None:
    command = [str(EXECUTOR / "commands/test-procedural"), "--ignore-sigterm", "--text", "ready", "--sleep-s", "1000"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        child.terminate()
        with pytest.raises(subprocess.TimeoutExpired):
            child.wait(0.1)
        child.kill()
    assert child.returncode == -signal.SIGKILL


@pytest.mark.parametrize(
    "arguments",
    [
        ["x"],
        ["--unknown"],
        ["--text"],
        ["--json", "[]"],
        ["--json", "{"],
        ["--exit-code", "256"],
        ["--stdout-bytes", "-1"],
        ["--sleep-s", "nan"],
    ],
)
def test_procedural_refuses_other_arguments(arguments: list[str]) -> None:
    ended = run("test-procedural", *arguments)
    assert (ended.returncode, ended.stdout) == (2, b"")
    assert b"Usage: test-procedural" in ended.stderr
    assert arguments[0].encode() in ended.stderr
