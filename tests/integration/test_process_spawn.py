import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from fsm_runner.process.child.child import Child
from fsm_runner.process.errors import SpawnFailed
from fsm_runner.process.limits.launch_policy import DEFAULT_LAUNCH_POLICY, LaunchPolicy
from fsm_runner.process.limits.limits import ResourceLimits

PATH = "/usr/bin:/bin"
Refusal = Callable[..., Awaitable[str]]
"""Returns the error for a command, a working directory and an environment."""
CONFINEMENTS = {"directly": DEFAULT_LAUNCH_POLICY, "by way of a shell": LaunchPolicy(ResourceLimits(open_files=50))}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    def write(name: str, content: str, mode: int = 0o755) -> None:
        (tmp_path / name).write_bytes(content.encode())
        (tmp_path / name).chmod(mode)

    write("plain", "#!/bin/sh\necho hello\n", mode=0o644)
    write("no-interpreter", "#!/no/such/interpreter -x\n")
    write("interpreter-not-executable", f"#!{tmp_path}/plain\n")
    write("windows", "#!/bin/sh\r\necho hello\r\n")
    write("mark", "\ufeff#!/bin/sh\necho hello\n")
    (tmp_path / "utf-16").write_bytes("#!/bin/sh\necho hello\n".encode("utf-16"))
    (tmp_path / "utf-16").chmod(0o755)
    write("no-first-line", "echo hello\n")
    write("works", "#!/bin/sh\necho hello\n")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "fifo", 0o755)
    return tmp_path


@pytest.fixture(params=list(CONFINEMENTS.values()), ids=list(CONFINEMENTS))
def launch_policy(request: pytest.FixtureRequest) -> LaunchPolicy:
    found: LaunchPolicy = request.param
    return found


@pytest.fixture
def refusal(launch_policy: LaunchPolicy) -> Refusal:
    async def refused(command: list[str], cwd: Path, env: dict[str, str] | None = None) -> str:
        with pytest.raises(SpawnFailed) as raised:
            Child.start(command, env={"PATH": PATH} if env is None else env, cwd=cwd, launch_policy=launch_policy)
        return str(raised.value)

    return refused


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("./plain", "is not executable: run `chmod +x {folder}/plain`"),
        ("./absent", "{folder}/absent does not exist"),
        ("./folder", "{folder}/folder is a directory"),
        ("./fifo", "{folder}/fifo is not a regular file"),
        ("./works/below", "Not a directory"),
        ("./no-interpreter", "first line of {folder}/no-interpreter, /no/such/interpreter, does not exist"),
        ("./interpreter-not-executable", "{folder}/plain, is not executable"),
        ("./mark", r"{folder}/mark begins with a byte order mark (UTF-8 BOM)"),
        ("./mark", r"run `sed -i '1s/^\xEF\xBB\xBF//' {folder}/mark`"),
        ("./utf-16", "{folder}/utf-16 is UTF-16 text"),
        ("./windows", "Windows line endings (CRLF)"),
        ("no-such-command", f"command not found in PATH ({PATH})"),
    ],
)
async def test_the_message_says_why_a_command_did_not_start(
    folder: Path, refusal: Refusal, name: str, reason: str
) -> None:
    message = await refusal([name], folder)
    assert message.startswith(f"`{name}` cannot be started: ")
    assert reason.format(folder=folder) in message


async def test_a_file_that_is_no_program_and_no_script_is_reported(folder: Path) -> None:
    with pytest.raises(SpawnFailed, match="its first line lacks `#!`"):
        Child.start(["./no-first-line"], env={"PATH": PATH}, cwd=folder)


async def test_a_script_in_path_without_execute_permission_is_reported(folder: Path, refusal: Refusal) -> None:
    assert "run `chmod +x" in await refusal(["plain"], folder, {"PATH": str(folder)})


async def test_a_missing_working_directory_is_reported(folder: Path, refusal: Refusal) -> None:
    assert "working directory" in await refusal(["/bin/true"], folder / "absent")
    assert "is not a directory" in await refusal(["/bin/true"], folder / "plain")


async def test_arguments_that_are_too_long_are_reported(folder: Path, refusal: Refusal) -> None:
    message = await refusal(["/bin/true", "x" * 3_000_000], folder)
    assert "too long" in message
    assert "3,000,000" in message


@pytest.mark.parametrize(
    ("command", "place"),
    [
        (["/bin/echo", "a\0b"], "argument 1"),
        (["/bin/echo", "fine", "\ud800"], "argument 2"),
        (["/bin/e\0cho"], "its name"),
    ],
)
async def test_an_argument_that_cannot_be_encoded_is_reported(
    folder: Path, refusal: Refusal, command: list[str], place: str
) -> None:
    assert place in await refusal(command, folder)


@pytest.mark.parametrize("env", [{"A": "a\0b"}, {"A=B": "c"}])
async def test_a_variable_that_cannot_be_encoded_is_reported(
    folder: Path, refusal: Refusal, env: dict[str, str]
) -> None:
    assert "environment variable" in await refusal(["/bin/true"], folder, env)


@pytest.mark.parametrize("command", [[], [""]])
async def test_an_empty_command_is_reported(folder: Path, refusal: Refusal, command: list[str]) -> None:
    assert "empty" in await refusal(command, folder)


async def test_a_relative_command_is_resolved_in_the_working_directory(
    folder: Path, launch_policy: LaunchPolicy
) -> None:
    ended = await Child.start(["./works"], env={}, cwd=folder, launch_policy=launch_policy).wait()
    assert ended.stdout.text() == "hello\n"
