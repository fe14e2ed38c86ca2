"""Children of another user: their permissions, and their end."""

import asyncio
import ctypes
import os
import resource
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from fsm_runner.errors import UsageError
from fsm_runner.process import user
from fsm_runner.process.child.child import Child, Exit
from fsm_runner.process.errors import SpawnFailed
from fsm_runner.process.leftovers.watchdog import Watchdog
from fsm_runner.process.limits import launch_policy
from fsm_runner.process.limits.launch_policy import LaunchPolicy
from fsm_runner.process.limits.limits import NO_LIMITS, ResourceLimits
from fsm_runner.process.tree.process_tree import RUNNER_TAG_VARIABLE
from fsm_runner.process.tree.rlimit_tag import rlimit_tag, with_rlimit_tag
from fsm_runner.process.user import RunUser, denied_to, find_user, first_denied, with_rights_of
from tests.support.children import ENV, OWN_TREE_TAGS, exit_of, open_descriptors, subreaper_enabled
from tests.support.fifo import Fifo
from tests.support.logs import log_lines
from tests.support.processes import gone, is_there, with_environment
from tests.support.watch import PATIENCE_S

pytestmark = [
    pytest.mark.linux(reason="processes of other users"),
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can start a process of another user"),
]

NOBODY = RunUser(name="nobody", uid=65534, gid=65534, groups=(), home="/nonexistent")


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    descriptors = open_descriptors()
    with subreaper_enabled(exclusive=False):
        yield
    assert open_descriptors() == descriptors
    assert with_environment(OWN_TREE_TAGS) == []


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that every user may enter and write to."""
    with tempfile.TemporaryDirectory(prefix="run-as-") as name:
        Path(name).chmod(0o777)
        yield Path(name)


def start(
    script: str, *arguments: str, limits: ResourceLimits = NO_LIMITS, user: RunUser = NOBODY, stdin: str = ""
) -> Child:
    command = ["/bin/sh", "-c", script, "sh", *arguments]
    child = Child.start(
        command, env=ENV, cwd=Path("/"), launch_policy=LaunchPolicy(limits, user), pipe_stdin=bool(stdin)
    )
    if stdin:
        os.write(child.stdin._fd, stdin.encode())
    return child


async def ended(script: str, *arguments: str, user: RunUser = NOBODY) -> Exit:
    return await exit_of(start(script, *arguments, user=user))


async def test_it_has_only_this_user_and_group() -> None:
    seen = await ended("id -u; id -g; id -G", user=RunUser(name="x", uid=50_001, gid=50_002, groups=(5, 7), home="/"))
    uid, gid, groups = seen.stdout.text().splitlines()
    assert (uid, gid) == ("50001", "50002")
    assert set(groups.split()) == {"50002", "5", "7"}
    assert (await ended("id -G")).stdout.text() == "65534\n"


async def test_it_cannot_affect_the_runner(monkeypatch: pytest.MonkeyPatch) -> None:
    runner = str(os.getpid())
    for forbidden in ("kill -0 $1", "kill -TERM $1", "cat /proc/$1/environ", "ls /proc/$1/fd", "cat /proc/$1/mem"):
        seen = await ended(forbidden, runner)
        assert seen.code != 0, forbidden
        assert "ermi" in seen.stderr.text(), forbidden
        assert seen.stdout.text() == ""


async def test_it_may_reopen_its_own_streams() -> None:
    seen = await exit_of(start("head -n 1 /dev/stdin >/dev/stdout; echo err >/dev/stderr", stdin="in\n"))
    assert (seen.stdout.text(), seen.stderr.text()) == ("in\n", "err\n")


async def test_a_stop_ends_it_and_descendants_outside_its_group(place: Path) -> None:
    async with Fifo(place / "signs") as signs:
        signs.path.chmod(0o666)
        orphan = 'echo $$ >"$1"; exec sleep 1000'
        child = start(
            f"trap '' TERM; env -i setsid sh -c '{orphan}' sh \"$1\" & echo $$ >\"$1\"; wait", str(signs.path)
        )
        pids = [await signs.pid(), await signs.pid()]
        assert {psutil.Process(pid).uids().effective for pid in pids} == {NOBODY.uid}
        await child.stop(term_grace_s=0)
        for pid in pids:
            await gone(pid)


async def test_its_descendants_end_with_it(place: Path) -> None:
    async with Fifo(place / "signs") as signs:
        signs.path.chmod(0o666)
        orphan = 'echo $$ >"$1"; exec sleep 1000'
        command = ["/bin/sh", "-c", f"env -i setsid sh -c '{orphan}' sh \"$1\" & read line", "sh", str(signs.path)]
        child = Child.start(command, env=ENV, cwd=Path("/"), launch_policy=LaunchPolicy(user=NOBODY), pipe_stdin=True)
        pid = await signs.pid()
        await child.stdin.write(b"go\n")
        assert (await exit_of(child)).succeeded
        await gone(pid)


async def test_its_limits_are_enforced() -> None:
    limits = ResourceLimits(cpu_s=0.3, open_files=40)
    child = start("while :; do :; done", limits=limits)
    assert "CPU limit" in ((await exit_of(child)).exceeded or "")
    seen = await exit_of(start("ulimit -Sn; ulimit -Hn; ulimit -St; ulimit -Ht", limits=limits))
    assert seen.stdout.text().split() == ["40", "40", "2", "7"]


async def test_it_cannot_raise_its_limits() -> None:
    seen = await exit_of(start("ulimit -n 50; ulimit -n", limits=ResourceLimits(open_files=40)))
    assert seen.stdout.text() in ("40\n", "")


async def test_the_shell_that_sets_limits_does_not_change_the_command() -> None:
    limits = ResourceLimits(open_files=1 << 29)  # above the hard limit
    seen = await exit_of(start('printf "<%s>" "$@"; ulimit -n', "a b", "$(id)", "", "'\n", limits=limits))
    assert seen.stdout.text() == f"<a b><$(id)><><'\n>{resource.getrlimit(resource.RLIMIT_NOFILE)[1]}\n"


async def test_the_watchdog_kills_it(place: Path) -> None:
    tag = "0123456789abcdef.user-test"
    script = 'env -i setsid sh -c \'echo $$ >"$1"; exec sleep 1000\' sh "$1" & echo $$ >"$1"; wait'
    async with Fifo(place / "signs") as signs, Watchdog(tag):
        signs.path.chmod(0o666)
        child = Child.start(
            ["/bin/sh", "-c", script, "sh", str(signs.path)],
            env={**ENV, RUNNER_TAG_VARIABLE: tag},
            cwd=Path("/"),
            launch_policy=LaunchPolicy(user=NOBODY),
        )
        pids = [await signs.pid(), await signs.pid()]
        assert all(map(is_there, pids))
    # The watchdog has killed both and ended.
    assert (await exit_of(child)).signal == "SIGKILL"
    for pid in pids:
        await gone(pid)


async def test_leftovers_of_an_earlier_process_are_killed(place: Path) -> None:
    tag = "0123456789abcdef.earlier-user-test"
    with with_rlimit_tag(rlimit_tag(tag, 1)):
        left = subprocess.Popen(  # noqa: ASYNC220 - it is left behind, and no child of the loop's
            ["sleep", "1000"], env={**ENV, RUNNER_TAG_VARIABLE: tag}, user=NOBODY.uid, group=NOBODY.gid, extra_groups=[]
        )
    module = "fsm_runner.process.leftovers.startup_cleanup"
    script = f"import sys; from {module} import kill_leftovers; print(kill_leftovers(sys.argv[1:]))"
    command = [sys.executable, "-c", script, tag]
    try:
        done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=60)
        assert done.stdout == "1\n", done.stderr
        assert left.wait(PATIENCE_S) == -9
    finally:
        left.kill()
        left.wait()


async def test_the_error_names_the_folder_that_denies_a_command(place: Path) -> None:
    closed = place / "closed"
    closed.mkdir(mode=0o700)
    command = closed / "command"
    command.write_text("#!/bin/sh\n")
    command.chmod(0o755)
    with pytest.raises(SpawnFailed) as raised:
        Child.start([str(command)], env=ENV, cwd=Path("/"), launch_policy=LaunchPolicy(user=NOBODY))
    assert str(raised.value) == (
        f"`{command}` cannot be started: nobody (uid 65534), the user of executors, may not enter or execute "
        f"{closed}: allow it (`chmod a+rx {closed}`)"
    )


def test_users_are_found_by_name_and_number() -> None:
    by_name = find_user("nobody")
    assert (by_name.name, by_name.uid) == ("nobody", 65534)
    assert by_name.gid in by_name.groups
    assert find_user("65534") == by_name
    named = find_user("nobody:0")
    assert (named.uid, named.gid, named.groups) == (65534, 0, ())
    unknown = find_user("54321:12345")
    assert (unknown.name, unknown.uid, unknown.gid, unknown.groups, unknown.home) == ("54321", 54321, 12345, (), "/")
    assert (str(by_name), str(unknown)) == ("nobody (uid 65534)", "54321")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("root", "is root: name another user"),
        ("0", "is root: name another user"),
        ("0:65534", "is root: name another user"),
        ("no-such-user", "there is no user 'no-such-user' here"),
        ("54321", "a uid without a user needs a group, as in UID:GID"),
        ("nobody:no-such-group", "there is no group 'no-such-group' here"),
        ("99999999999:1", "'99999999999' is not the number of a user or group"),
        ("4294967295:1", "is not the number of a user or group"),
        ("1:99999999999", "is not the number of a user or group"),
    ],
)
def test_invalid_users_are_rejected(text: str, reason: str) -> None:
    with pytest.raises(UsageError) as refused:
        find_user(text)
    assert str(refused.value).startswith("--run-as (RUN_AS): ")
    assert reason in str(refused.value)


def test_only_root_can_start_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(UsageError, match="only root can start executors as another user, and the runner is uid 1000"):
        find_user("nobody")


def test_the_error_names_the_capabilities_that_root_lacks_to_change_users(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(user, "lacks_capability", lambda number: number in (6, 7))
    with pytest.raises(UsageError, match="because it lacks CAP_SETGID, CAP_SETUID: add it"):
        find_user("nobody")


def test_permissions_are_checked_by_the_kernel(place: Path) -> None:
    (place / "closed").mkdir(mode=0o700)
    (place / "closed/within").mkdir(mode=0o777)
    (place / "a b\n* $(x)").mkdir()
    own, closed, within, odd = place, place / "closed", place / "closed/within", place / "a b\n* $(x)"
    wanted = [(own, "w"), (closed, "x"), (odd, "r"), (odd, "w"), (within, "d"), (place / "absent", "d")]
    assert denied_to(NOBODY, wanted) == [(closed, "x"), (odd, "w"), (within, "d"), (place / "absent", "d")]
    assert denied_to(NOBODY, []) == []


def test_groups_count_for_permissions(place: Path) -> None:
    (place / "group").mkdir()
    (place / "group").chmod(0o770)
    os.chown(place / "group", 0, 12345)
    assert denied_to(NOBODY, [(place / "group", "w")])
    member = RunUser(name="x", uid=65534, gid=65534, groups=(12345,), home="/")
    assert denied_to(member, [(place / "group", "w")]) == []


def test_the_folders_of_a_links_target_count_too(place: Path) -> None:
    closed = place / "closed"
    closed.mkdir(mode=0o700)
    (closed / "file").touch()
    (place / "link").symlink_to(closed / "file")
    assert first_denied(NOBODY, [(place / "link", "r")]) == (place / "link", closed, "x")
    closed.chmod(0o755)
    assert first_denied(NOBODY, [(place / "link", "r")]) is None
    (closed / "file").chmod(0o600)
    assert first_denied(NOBODY, [(place / "link", "r")]) == (place / "link", place / "link", "r")


async def test_work_with_a_users_permissions_follows_no_link_that_the_user_may_not_follow(place: Path) -> None:
    secret = place / "secret"
    secret.write_text("of the runner")
    secret.chmod(0o600)
    (place / "link").symlink_to(secret)
    with pytest.raises(PermissionError):
        await asyncio.to_thread(with_rights_of, NOBODY, (place / "link").read_text)
    assert await asyncio.to_thread(with_rights_of, None, (place / "link").read_text) == "of the runner"
    await asyncio.to_thread(with_rights_of, NOBODY, (place / "own").mkdir)
    assert ((place / "own").stat().st_uid, (place / "own").stat().st_gid) == (NOBODY.uid, NOBODY.gid)
    # All threads have their own permissions again.
    for _ in range(20):
        assert await asyncio.to_thread(secret.read_text) == "of the runner"
    (place / "ours").mkdir()
    assert (place / "ours").stat().st_uid == 0


async def test_permissions_are_restored_after_an_exception(place: Path) -> None:
    def fails_and_reads() -> str:
        with pytest.raises(ZeroDivisionError):
            with_rights_of(NOBODY, lambda: 1 // 0)
        secret = place / "secret"
        secret.touch(mode=0o600)
        return stat.filemode(secret.stat().st_mode) if secret.owner() == "root" else "not ours"

    assert await asyncio.to_thread(fails_and_reads) == "-rw-------"


def test_a_group_of_the_runner_gives_the_user_no_permission(place: Path) -> None:
    shared = place / "shared"
    shared.write_text("of a group of the runner")
    os.chown(shared, 0, 777)
    shared.chmod(0o640)
    groups = []

    def reads_in_that_group() -> None:
        user._set_groups_of_thread(ctypes.CDLL(None), [777])
        with pytest.raises(PermissionError):
            with_rights_of(NOBODY, shared.read_text)
        groups.extend(os.getgroups())

    with ThreadPoolExecutor(1) as pool:
        pool.submit(reads_in_that_group).result()
    assert groups == [777]


@pytest.mark.skipif(shutil.which("setpriv") is None, reason="needs `setpriv`")
def test_root_may_lack_capabilities() -> None:
    asked = "from fsm_runner.process.user import lacks_capability as lacks; print(lacks(19), lacks(7))"
    bound = ["setpriv", "--bounding-set=-sys_ptrace", sys.executable, "-c", asked]
    assert subprocess.run(bound, capture_output=True, text=True).stdout == "True False\n"


def test_a_limit_that_is_imprecise_is_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    limited = LaunchPolicy(ResourceLimits(memory_bytes=1), NOBODY)
    with log_lines() as lines:
        monkeypatch.setattr(launch_policy, "lacks_capability", lambda number: False)
        limited.warn_of_imprecise_limits()
        monkeypatch.setattr(launch_policy, "lacks_capability", lambda number: True)
        LaunchPolicy(ResourceLimits(cpu_s=1), NOBODY).warn_of_imprecise_limits()
        assert lines == []
        limited.warn_of_imprecise_limits()
    assert "CAP_SYS_PTRACE" in lines[0]


@pytest.mark.skipif(shutil.which("setpriv") is None, reason="needs `setpriv`")
def test_an_rlimit_tag_is_readable_without_capabilities() -> None:
    value = rlimit_tag("runner", 7)
    with with_rlimit_tag(value):
        child = subprocess.Popen(
            ["env", "-i", "sleep", "1000"], user=NOBODY.uid, group=NOBODY.gid, extra_groups=[], stdin=subprocess.DEVNULL
        )
    asked = (
        "import sys; from fsm_runner.process.tree.rlimit_tag import rlimit_tag_of; "
        "print(rlimit_tag_of(int(sys.argv[1])), rlimit_tag_of(1))"
    )
    bound = ["setpriv", "--bounding-set=-sys_ptrace,-sys_resource", sys.executable, "-c", asked, str(child.pid)]
    try:
        assert subprocess.run(bound, capture_output=True, text=True).stdout == f"{value} None\n"
    finally:
        child.kill()
        child.wait()
