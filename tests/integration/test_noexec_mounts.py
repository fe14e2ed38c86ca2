"""Errors about programs on a file system that is mounted with `noexec` name the mount."""

from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from fsm_runner.errors import UsageError
from fsm_runner.executors.interface import ExecutionFailed
from fsm_runner.executors.procedural import ProceduralConfig, ProceduralExecutor
from fsm_runner.executors.program import executor_program
from fsm_runner.process.child.child import Child
from fsm_runner.process.child.executable import noexec_mount
from fsm_runner.process.errors import SpawnFailed
from fsm_runner.process.limits.launch_policy import DEFAULT_LAUNCH_POLICY, LaunchPolicy
from fsm_runner.process.limits.limits import ResourceLimits
from fsm_runner.process.user import RunUser
from fsm_runner.protocol.wire import Agent
from tests.support.home import make_home
from tests.support.scripts import script_bench
from tests.support.small_disk import needs_mount, small_disk

pytestmark = needs_mount

NOBODY = RunUser(name="nobody", uid=65534, gid=65534, groups=(), home="/")
CONFINEMENTS = [DEFAULT_LAUNCH_POLICY, LaunchPolicy(ResourceLimits(open_files=50)), LaunchPolicy(user=NOBODY)]


def script(path: Path, interpreter: str | Path = "/bin/sh") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!{interpreter}\necho hello\n")
    path.chmod(0o755)
    return path


def reason(mount: Path) -> str:
    return (
        f"is on {mount}, which is mounted with `noexec`, so no program on it can be started: move the file, "
        f"or mount {mount} with `exec`"
    )


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "a disk", "noexec") as disk:
        yield disk.path


async def error(command: Path, cwd: Path, launch_policy: LaunchPolicy) -> str:
    with pytest.raises(SpawnFailed) as raised:
        Child.start([str(command)], env={}, cwd=cwd, launch_policy=launch_policy)
    return str(raised.value)


@pytest.mark.parametrize("launch_policy", CONFINEMENTS, ids=["directly", "by way of a shell", "as another user"])
async def test_a_command_or_its_interpreter_on_such_a_mount_is_reported(
    tmp_path: Path, mount: Path, launch_policy: LaunchPolicy
) -> None:
    command = script(mount / "folder" / "command")
    link = tmp_path / "link"
    link.symlink_to(command)
    started = "cannot be started: "
    assert await error(command, tmp_path, launch_policy) == f"`{command}` {started}{command} {reason(mount)}"
    assert await error(link, tmp_path, launch_policy) == f"`{link}` {started}{link} {reason(mount)}"
    # The path of an interpreter ends at a space.
    outside = script(tmp_path / "outside", interpreter=link)
    if launch_policy.user is None:  # that user may not enter the folder of the test
        assert await error(outside, tmp_path, launch_policy) == (
            f"`{outside}` {started}the interpreter in the first line of {outside}, {link}, {reason(mount)}"
        )


def test_the_innermost_mount_is_named_without_a_table_of_mounts(
    tmp_path: Path, mount: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`/etc/mtab`, which some libraries read, may be a file that nothing updates."""
    monkeypatch.setattr(psutil, "disk_partitions", lambda **_: [])
    assert noexec_mount(script(mount / "folder" / "command")) == mount
    with small_disk(mount / "inner", "noexec") as inner:
        assert noexec_mount(script(inner.path / "command")) == inner.path
    with small_disk(mount / "executable") as executable:
        assert noexec_mount(script(executable.path / "command")) is None


def test_an_executor_and_an_agents_command_are_refused_at_the_start(tmp_path: Path, mount: Path) -> None:
    command = script(mount / "commands" / "say")
    with pytest.raises(UsageError) as refused:
        executor_program(command, {})
    assert str(refused.value) == f"the executor {command} {reason(mount)}"
    executor = ProceduralExecutor(mount, ProceduralConfig(), tmp_path, {}, script_source=NotImplemented)
    with pytest.raises(ExecutionFailed) as failed:
        executor.check(Agent(name="say", command="commands/say"))
    assert str(failed.value) == f"{command} {reason(mount)}"


async def test_a_run_of_a_script_on_such_a_mount_fails_with_the_reason(tmp_path: Path) -> None:
    with small_disk(tmp_path / "project", "noexec") as project:
        async with (
            script_bench(tmp_path, {"tidy": "echo '{}'"}) as system,
            system.running(make_home(tmp_path / "home")),
        ):
            failed = await system.end(await system.submit("run-tidy"))
    assert failed.status == "failed"
    assert failed.error is not None
    assert reason(project.path) in failed.error
