"""Root runners that start executors as another user."""

import asyncio
import os
import shlex
import shutil
import stat
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from fsm_runner.errors import EXIT_USAGE, UsageError
from fsm_runner.executors.environment import SDK_FOLDER
from fsm_runner.journal.journal import Journal
from fsm_runner.journal.opening import JOURNAL_FILE
from tests.support.command_executor import command_home
from tests.support.home import PROFILE, make_home
from tests.support.processes import gone
from tests.support.program import environment, finish, program
from tests.support.rights import open_place, without_rights
from tests.support.runner import System, open_system, waiter
from tests.support.scripts import script_bench
from tests.support.watch import PATIENCE_S

pytestmark = [
    pytest.mark.linux(reason="processes of other users"),
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can start a process of another user"),
]

USER = "nobody"
SHOWN = "nobody (uid 65534)"
UID = 65534
URL = ("--coordinator-url", "http://127.0.0.1:9")


@pytest.fixture
def place() -> Iterator[Path]:
    """With a home of the profile `open_system`, and a project directory that every user may write to."""
    with open_place() as folder:
        (folder / "project").mkdir()
        (folder / "project").chmod(0o777)
        yield folder


def command(place: Path, agent: str, script: str) -> None:
    """Replaces the command of the agent."""
    (place / "home/executors/procedural/commands" / agent).write_text(f"#!/bin/sh\n{script}\n")


def profile_of(place: Path, **fields: Any) -> Any:
    shutil.rmtree(place / "home")
    return make_home(place / "home", **fields)


@asynccontextmanager
async def running(place: Path, **overrides: Any) -> AsyncIterator[System]:
    async with open_system(place) as system, system.running(profile_of(place), run_as=USER, **overrides):
        yield system


async def test_a_command_and_its_files_belong_to_the_user(place: Path) -> None:
    async with running(place) as system:
        command(place, "say", 'touch made; printf \'{"uid": "%s", "env": "%s"}\' "$(id -u)" "$HOME $USER $LOGNAME"')
        assert await system.result(await system.completes()) == {"uid": str(UID), "env": "/nonexistent nobody nobody"}
        assert (place / "project/made").stat().st_uid == UID


async def test_an_executor_runs_as_the_user_and_reaches_the_coordinator(place: Path) -> None:
    shutil.rmtree(place / "home")
    source = '#!/bin/sh\nread -r invocation; echo "$(id -u) $HOME ${AGENT_ORCHESTRATOR_API_URL%%:*}" >&2; exit 1\n'
    home = command_home(place / "home", source, lifecycle="one_shot")
    async with open_system(place) as system, system.running(home, run_as=f"{USER}:{UID}"):
        assert (await system.end(await system.submit("scripted"))).error == f"{UID} /nonexistent http (exit code 1)"


async def test_a_hostile_command_reaches_nothing_of_the_runner(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTH0_RUNNER_CLIENT_SECRET", "s3cret")
    state_dir = place / "state"
    async with running(place, state_dir=state_dir) as system:
        (journal,) = state_dir.glob(f"*/{JOURNAL_FILE}")
        folder = shlex.quote(str(journal.parent))
        attempts = {
            "signal": "kill -0 $PPID",
            "environment": "cat /proc/$PPID/environ",
            "memory": "head -c 1 /proc/$PPID/mem",
            "descriptors": "ls /proc/$PPID/fd",
            "journal": f"cat {folder}/{JOURNAL_FILE}",
            "list": f"ls {folder}",
            "remove": f"rm -rf {folder}",
            "replace": f"mv {folder} {folder}.gone",
            "write": f"touch {folder}/x",
            "ask": f"test -S {folder}/health.sock",
            "decide": f"test -S {folder}/control.sock",
            "root": "test $(id -u) = 0 || su -c true </dev/null",
        }
        tries = [f"({attempt}) >&2 && echo {name}" for name, attempt in attempts.items()]
        command(place, "say", "\n".join([*tries, "exit 0"]))
        result = await system.result(await system.completes())
        assert result is not None
        assert result["stdout"] == ""
        assert "s3cret" not in str(result)
        assert stat.S_IMODE(journal.parent.stat().st_mode) == 0o700
        assert journal.is_file()


async def test_a_workspace_that_the_user_may_not_enter_is_reported(place: Path) -> None:
    closed, hidden, read_only = place / "closed", place / "closed/hidden", place / "read only"
    closed.mkdir(mode=0o700)
    hidden.mkdir()
    hidden.chmod(0o777)
    read_only.mkdir(mode=0o755)
    who = f"{SHOWN}, the user of executors, may not"
    async with running(place) as system:
        for folder, reason in (
            (
                closed,
                f"read, write and enter it (it belongs to uid 0, mode drwx------): "
                f"`chown {UID} {closed}`, or `chmod 777 {closed}`",
            ),
            (hidden, "see it: open the directories above it (chmod a+x)"),
            (
                read_only,
                "read, write and enter it (it belongs to uid 0, mode drwxr-xr-x): "
                f"`chown {UID} '{read_only}'`, or `chmod 777 '{read_only}'`",
            ),
        ):
            ended = await system.end(await system.submit_in(str(folder), "say", text="x"))
            assert ended.error == f"Permission denied on workspace {folder}: {who} {reason}"
        closed.chmod(0o777)
        assert (await system.end(await system.submit_in(str(closed), "say", text="x"))).status == "completed"
        missing = await system.end(await system.submit_in(str(place / "missing"), "say", text="x"))
        assert "there is no such directory" in (missing.error or "")


async def test_a_stop_ends_the_users_processes(place: Path) -> None:
    async with running(place) as system, waiter(place) as held:
        for fifo in (held.started, held.gate):
            fifo.path.chmod(0o666)
        run = await system.submit("wait", **held.parameters)
        pid = await held.started.pid()
        await system.api.stop_run(run.run_id)
        assert (await system.end(run)).status == "stopped"
        await gone(pid)


async def test_scripts_belong_to_the_user_and_the_runner_follows_no_link_of_theirs(place: Path) -> None:
    precious = place / "precious"
    (precious / "tidy").mkdir(parents=True)
    (precious / "tidy/file").write_text("of root")
    async with script_bench(place, {"tidy": 'printf \'{"uid": "%s"}\' "$(id -u)"'}) as system:
        async with system.running(profile_of(place), run_as=USER):
            run = await system.submit("run-tidy")
            assert (await system.end(run)).status == "completed"
            assert await system.result(run) == {"uid": str(UID)}
            assert (place / "project/scripts/tidy/run.sh").stat().st_uid == UID
        shutil.rmtree(place / "project/scripts")
        (place / "project/scripts").symlink_to(precious)
        async with system.running(make_home(place / "other-home"), run_as=USER, hostname="another"):
            assert (await system.end(await system.submit("run-tidy"))).status == "failed"
        assert [path.name for path in precious.rglob("*")] == ["tidy", "file"]


async def refused(place: Path, home: Any, **overrides: Any) -> str:
    async with open_system(place) as system:
        with pytest.raises(UsageError) as raised:
            async with system.running(home, **{"run_as": USER, **overrides}):
                pass
    return str(raised.value)


async def test_a_folder_of_commands_that_the_user_may_not_read_is_named(place: Path) -> None:
    home = profile_of(place)
    closed = place / "home/executors"
    closed.chmod(0o700)
    error = await refused(place, home)
    assert error.startswith(f"--run-as (RUN_AS): {SHOWN} may not enter or execute {closed}, which {closed}/procedural ")
    assert f"(`chmod a+x {closed}`)" in error
    closed.chmod(0o755)
    (closed / "procedural/commands/say").chmod(0o700)
    error = await refused(place, home)
    assert f"may not read {closed}/procedural/commands/say: open it to that user (`chmod a+r" in error


async def test_an_executor_that_the_user_may_not_read_is_named(place: Path) -> None:
    shutil.rmtree(place / "home")
    home = command_home(place / "home", "#!/bin/sh\n", lifecycle="one_shot")
    file = place / "home/executors/scripted/exec"
    file.chmod(0o744)
    assert f"may not enter or execute {file}: open it to that user (`chmod a+rx {file}`)" in await refused(place, home)
    file.parent.chmod(0o700)
    assert f"may not enter or execute {file.parent}, which {file} needs" in await refused(place, home)


async def test_a_cache_of_uv_that_the_user_may_not_write_is_named(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uv = place / "bin/uv"
    uv.parent.mkdir()
    uv.write_text('#!/bin/sh\necho "$UV_CACHE_DIR" >&2; exit 1\n')
    uv.chmod(0o755)
    monkeypatch.setenv("PATH", f"{uv.parent}:{os.environ['PATH']}")
    monkeypatch.delenv("UV_CACHE_DIR", raising=False)
    shutil.rmtree(place / "home")
    source = '#!/usr/bin/env -S uv run --script\n# /// script\n# dependencies = ["no-such-thing"]\n# ///\n'
    home = command_home(place / "home", source, lifecycle="one_shot")
    error = await refused(place, home)
    assert "uv, which caches downloads in /nonexistent/.cache/uv" in error
    assert "set UV_CACHE_DIR" in error
    monkeypatch.setenv("UV_CACHE_DIR", str(place / "project/cache"))
    async with open_system(place) as system, system.running(home, run_as=USER):
        assert (await system.end(await system.submit("scripted"))).error == f"{place}/project/cache (exit code 1)"


async def test_a_journal_that_the_user_could_have_is_refused(place: Path) -> None:
    home = profile_of(place)
    state_dir = place / "project/state"  # whose folder the user may rename
    error = await refused(place, home, state_dir=state_dir)
    assert error.startswith("--run-as (RUN_AS): the runner's journal is in ")
    assert f"{SHOWN} may write to {place}/project: close it" in error


async def test_a_journals_folder_is_made_private_again(place: Path) -> None:
    state_dir = place / "state"
    async with running(place, state_dir=state_dir) as system:
        await system.completes()
    (folder,) = state_dir.glob("*")
    folder.chmod(0o777)
    await Journal(folder).aclose()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_the_sdk_is_readable_by_every_user() -> None:
    assert (SDK_FOLDER / "fsm_executor/__init__.py").stat().st_mode & 0o444 == 0o444


@pytest.mark.parametrize(
    ("user", "named"),
    [
        ("no-such-user", "there is no user 'no-such-user' here"),
        ("root", "is root: name another user"),
        ("a b", "expected USER or UID:GID"),
    ],
)
async def test_an_invalid_user_is_a_usage_error(tmp_path: Path, user: str, named: str) -> None:
    make_home(tmp_path / "home")
    ended = await finish(tmp_path, environment(tmp_path / "home"), "-x", PROFILE, "--run-as", user, *URL)
    assert ended.code == EXIT_USAGE
    assert "--run-as" in ended.stderr
    assert named in ended.stderr
    assert "Traceback" not in ended.stderr


async def test_a_killed_runner_leaves_nothing_of_the_user(place: Path) -> None:
    places = ("--state-dir", str(place / "state"), "--project-dir", str(place / "project"))
    async with open_system(place) as system, waiter(place) as held:
        for fifo in (held.started, held.gate):
            fifo.path.chmod(0o666)
        command(place, "wait", 'env -i setsid sh -c \'echo $$ >"$1"; exec sleep 1000\' sh "$2" & echo $$ >"$2"; wait')
        env = environment(place / "home")
        async with program(place, env, "-x", PROFILE, "-c", system.proxy.url, "--run-as", USER, *places) as runner:
            await system.proxy.answered("POST", "/runner/register")
            await system.submit("wait", **held.parameters)
            pids = [await held.started.pid(), await held.started.pid()]
            runner.process.kill()
            for pid in pids:
                await gone(pid)


async def test_a_runner_that_is_not_root_refuses(place: Path) -> None:
    arguments = (*without_rights(sys.executable, "-m", "fsm_runner"), "-x", PROFILE, "--run-as", USER, *URL)
    process = await asyncio.create_subprocess_exec(
        *arguments,
        cwd=place,
        env={**environment(place / "home"), "XDG_STATE_HOME": str(place / "project")},
        stderr=asyncio.subprocess.PIPE,
    )
    _, error = await asyncio.wait_for(process.communicate(), PATIENCE_S)
    assert process.returncode == EXIT_USAGE
    assert b"--run-as (RUN_AS): 'nobody': only root can start executors as another user, and the runner is uid" in error
