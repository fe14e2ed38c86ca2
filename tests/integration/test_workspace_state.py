"""The state of real git repositories, also of hostile ones."""

import asyncio
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from fsm_runner.process.limits.launch_policy import LaunchPolicy
from fsm_runner.process.user import find_user
from fsm_runner.runtime import workspace_state as module
from fsm_runner.runtime.git import Git
from fsm_runner.runtime.workspace_state import NoRepository, StateUnknown, WorkspaceState, workspace_state
from tests.support.repositories import commit_all, git, git_environment, new_repository
from tests.support.rights import open_place
from tests.support.watch import PATIENCE_S

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can start a process of another user")

GIT = Git(environment=git_environment())


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    return new_repository(tmp_path / "repository")


async def state(folder: Path) -> WorkspaceState:
    return await workspace_state(folder, GIT)


async def refusal(folder: Path, git: Git = GIT) -> str:
    with pytest.raises((NoRepository, StateUnknown)) as refused:
        await workspace_state(folder, git)
    return str(refused.value)


def rewrite(file: Path, text: str) -> None:
    """Write a text of the same length within the same second, which only its content shows."""
    before = file.stat()
    file.write_text(text)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def link(file: Path, target: str) -> None:
    file.unlink(missing_ok=True)
    file.symlink_to(target)


def refresh_index(folder: Path) -> None:
    (folder / "folder/other").touch()
    git(folder, "status")


def modified(folder: Path) -> None:
    """Leave work of all kinds in a repository."""
    (folder / "tracked").write_text("changed\n")
    (folder / "new").write_text("new\n")
    link(folder / "link", "nowhere")
    (folder / "staged").write_text("staged\n")
    git(folder, "add", "staged")
    new_repository(folder / "inner")
    new_repository(folder.parent / "module")
    git(folder, "submodule", "--quiet", "add", str(folder.parent / "module"), "module")
    git(folder, "worktree", "add", "--quiet", "-b", "side", "worktree")
    (folder / "module/tracked").write_text("dirty\n")
    (folder / "inner/tracked").write_text("dirty\n")


Change = Callable[[Path], object]

CHANGES: dict[str, Change] = {
    "content of a tracked file": lambda at: (at / "folder/other").write_text("2"),
    "content of the same length and age": lambda at: rewrite(at / "folder/other", "TWO\n"),
    "content of a modified file": lambda at: rewrite(at / "tracked", "CHANGED\n"),
    "content of an untracked file": lambda at: rewrite(at / "new", "NEW\n"),
    "new file": lambda at: (at / "folder/more").write_text(""),
    "deleted file": lambda at: (at / "tracked").unlink(),
    "deleted untracked file": lambda at: (at / "new").unlink(),
    "executable file": lambda at: (at / "tracked").chmod(0o755),
    "executable untracked file": lambda at: (at / "new").chmod(0o755),
    "target of a link": lambda at: link(at / "link", "elsewhere"),
    "link in place of a file": lambda at: link(at / "tracked", "new"),
    "what is staged": lambda at: git(at, "add", "new"),
    "commit": commit_all,
    "empty commit": lambda at: git(at, "commit", "--quiet", "--allow-empty", "-m", "m"),
    "branch": lambda at: git(at, "branch", "topic"),
    "checkout": lambda at: git(at, "checkout", "--quiet", "-b", "topic"),
    "detached HEAD": lambda at: git(at, "checkout", "--quiet", "--detach"),
    "unborn branch": lambda at: git(at, "symbolic-ref", "HEAD", "refs/heads/unborn"),
    "tag": lambda at: git(at, "tag", "v1"),
    "stash": lambda at: git(at, "stash", "--quiet"),
    "file of a submodule": lambda at: rewrite(at / "module/tracked", "DIRTY\n"),
    "branch of a submodule": lambda at: git(at / "module", "branch", "topic"),
    "commit in a submodule": lambda at: commit_all(at / "module"),
    "file of an inner repository": lambda at: rewrite(at / "inner/tracked", "DIRTY\n"),
    "branch of an inner repository": lambda at: git(at / "inner", "branch", "topic"),
    "file of an inner worktree": lambda at: (at / "worktree/tracked").write_text("side"),
    "no repository any more": lambda at: shutil.rmtree(at / "inner/.git"),
}

NO_CHANGES: dict[str, Change] = {
    "nothing": lambda at: None,
    "time of a file": lambda at: (at / "folder/other").touch(),
    "ignored file": lambda at: (at / "x.log").write_text("x"),
    "there and back": lambda at: [(at / "folder/other").write_text(text) for text in ("2", "two\n")],
    "branch and back": lambda at: [git(at, "branch", "topic"), git(at, "branch", "-D", "topic")],
    "refreshed index": refresh_index,
    "empty folder": lambda at: (at / "empty").mkdir(),
    "garbage collection": lambda at: git(at, "gc", "--quiet"),
    "named pipe": lambda at: os.mkfifo(at / "pipe"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
async def test_a_change_is_seen(repository: Path, change: Change) -> None:
    modified(repository)
    before = await state(repository)
    change(repository)
    after = await state(repository)
    assert (after.repository, before.repository) == (str(repository), str(repository))
    assert after.digest != before.digest


@pytest.mark.parametrize("change", NO_CHANGES.values(), ids=NO_CHANGES)
async def test_what_changes_nothing_is_not_seen(repository: Path, change: Change) -> None:
    modified(repository)
    before = await state(repository)
    change(repository)
    assert await state(repository) == before


async def test_nothing_is_written_to_the_repository(repository: Path) -> None:
    modified(repository)
    os.utime(repository / "folder/other")

    def files() -> dict[Path, tuple[int, int]]:
        found = (path for path in repository.rglob("*") if path.is_file())
        return {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in found}

    before = files()
    await state(repository)
    assert files() == before


async def test_a_subfolder_has_the_state_of_the_whole_repository(repository: Path) -> None:
    before = await state(repository / "folder")
    assert before == await state(repository)
    (repository / "tracked").write_text("changed")
    assert (await state(repository / "folder")).digest != before.digest


async def test_a_repository_that_is_created_in_a_subfolder_is_another_one(repository: Path) -> None:
    before = await state(repository / "folder")
    git(repository / "folder", "init", "--quiet")
    after = await state(repository / "folder")
    assert (after.repository, after == before) == (str(repository / "folder"), False)


async def test_a_repository_without_commits_and_a_bare_one_have_states(tmp_path: Path) -> None:
    unborn, bare = tmp_path / "unborn", tmp_path / "bare"
    for folder, option in ((unborn, "--quiet"), (bare, "--bare")):
        folder.mkdir()
        git(folder, "init", "--quiet", option)
    before = await state(unborn), await state(bare)
    assert before == (await state(unborn), await state(bare))
    commit_all(unborn)
    git(unborn, "push", "--quiet", str(bare), "HEAD:refs/heads/main")
    after = await state(unborn), await state(bare)
    assert [one.repository for one in after] == [str(unborn), str(bare)]
    assert all(one.digest != other.digest for one, other in zip(before, after, strict=True))


async def test_linked_worktrees_have_states_of_their_own(repository: Path) -> None:
    first, second = repository.parent / "first", repository.parent / "second"
    for folder in (first, second):
        git(repository, "worktree", "add", "--quiet", "--detach", str(folder))
    before = await state(first), await state(second)
    (first / "tracked").write_text("changed")
    after = await state(first), await state(second)
    assert (before[0] == after[0], before[1] == after[1]) == (False, True)


NAMES = [b"a b", b'"', b"line\nbreak", b"-dash", b"caf\xe9", "é".encode(), b"1 .M N... x", b"?", b"back\\slash"]


@pytest.mark.linux(reason="file names that are not UTF-8")
@pytest.mark.parametrize("name", NAMES)
async def test_files_may_have_any_name(repository: Path, name: bytes) -> None:
    folder = repository / os.fsdecode(name)
    folder.mkdir()
    file = folder / os.fsdecode(name)
    file.write_text("1")
    before = await state(folder)
    assert before.repository == str(repository)
    rewrite(file, "2")
    assert (await state(folder)).digest != before.digest


async def test_a_repository_may_have_any_name(tmp_path: Path) -> None:
    repository = new_repository(tmp_path / "a\n b")
    assert (await state(repository)).repository == str(repository)


async def test_a_folder_without_a_repository_is_refused(tmp_path: Path) -> None:
    assert await refusal(tmp_path) == f"{tmp_path} is in no git repository (`git init` creates one)"


async def test_a_folder_that_git_cannot_read_is_refused_with_the_reason(repository: Path) -> None:
    inside = repository / ".git"
    assert await refusal(inside) == (
        f"git cannot read the repository of {inside}: fatal: this operation must be run in a work tree"
    )
    (repository / ".git/config").write_text("[core\n")
    assert "bad config line 1" in await refusal(repository)


async def test_a_missing_git_is_reported(repository: Path, tmp_path: Path) -> None:
    missing = Git(environment={"PATH": str(tmp_path)})
    assert await refusal(repository, missing) == (
        f"the git repository of {repository} cannot be read: `git` cannot be started: command not found in PATH "
        f"({tmp_path})"
    )


@as_root
async def test_a_repository_of_another_user_is_refused_with_what_git_advises(repository: Path) -> None:
    for path in (repository, repository / ".git"):
        os.chown(path, 54_321, 54_321)
    reason = await refusal(repository)
    assert "dubious ownership" in reason
    assert f"git config --global --add safe.directory {repository}" in reason
    trusted = {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "safe.directory", "GIT_CONFIG_VALUE_0": str(repository)}
    found = await workspace_state(repository, Git(environment={**git_environment(), **trusted}))
    assert found.repository == str(repository)


async def test_too_many_changed_files_are_refused(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LIST_LIMIT_BYTES", 1_000)
    for number in range(200):
        (repository / f"file {number}").touch()
    assert re.fullmatch(
        f"the git repository {repository} has too many changed and untracked files: their list has [0-9,]+ bytes, "
        "and no more than 1,000 are read",
        await refusal(repository),
    )


async def test_too_many_filters_are_refused(repository: Path) -> None:
    with (repository / ".git/config").open("a") as config:
        config.writelines(f'[filter "{number:099}"]\nclean = cat\n' for number in range(1_000))
    assert await refusal(repository) == f"the git repository {repository} has too many filters in its configuration"


def processes_in(folder: Path) -> list[psutil.Process]:
    return [process for process in psutil.process_iter(["cwd"]) if process.info["cwd"] == str(folder)]


@pytest.mark.linux(reason="the working directories of processes")
async def test_a_repository_that_blocks_git_is_refused_and_leaves_no_process(repository: Path) -> None:
    os.mkfifo(repository / ".git/pipe")
    git(repository, "config", "core.excludesFile", str(repository / ".git/pipe"))
    reason = await refusal(repository, Git(environment=git_environment(), limit_s=0.5))
    assert reason == (
        f"the state of the git repository of {repository} cannot be read within 0.5 s: let it ignore large files "
        "(.gitignore)"
    )
    assert processes_in(repository) == []


async def test_a_file_that_takes_too_long_to_read_is_refused(repository: Path) -> None:
    with (repository / "huge").open("wb") as file:
        file.truncate(1 << 40)
    assert "within 0.5 s" in await refusal(repository, Git(environment=git_environment(), limit_s=0.5))


async def test_a_cancelled_reading_leaves_no_thread(repository: Path) -> None:
    """The program could not end before the thread."""
    with (repository / "huge").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5):
            await state(repository)
    async with asyncio.timeout(PATIENCE_S / 2):
        await asyncio.get_running_loop().shutdown_default_executor()


async def test_a_cancelled_reading_leaves_no_process(repository: Path) -> None:
    pipe = repository / ".git/pipe"
    os.mkfifo(pipe)
    git(repository, "config", "include.path", str(pipe))
    reading = asyncio.create_task(state(repository))
    async with asyncio.timeout(PATIENCE_S):
        end = await asyncio.to_thread(os.open, pipe, os.O_WRONLY)  # waits until git has opened the other end
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    os.close(end)
    assert processes_in(repository) == []


def make_hostile(repository: Path, proof: Path) -> None:
    """Name programs wherever git's configuration permits it. Each of them would write `proof`."""
    program = repository / "program"
    program.write_text(f'#!/bin/sh\nid -u >> "{proof}"\ncat\n')
    program.chmod(0o755)
    for name in ("post-index-change", "reference-transaction", "post-checkout"):
        shutil.copy(program, repository / ".git/hooks" / name)
    for key in (
        "core.fsmonitor",
        "core.sshCommand",
        "core.askPass",
        "core.pager",
        "core.editor",
        "core.alternateRefsCommand",
        "credential.helper",
        "diff.external",
        "diff.x.command",
        "diff.x.textconv",
        "filter.x.clean",
        "filter.a=b.process",
        "filter.included.clean",
        "alias.status",
        "alias.rev-parse",
        "interactive.diffFilter",
        "remote.origin.uploadpack",
    ):
        git(repository, "config", key, f"!{program}" if key.startswith("alias") else str(program))
    git(repository, "config", "filter.a=b.required", "false")
    git(repository, "config", "remote.origin.url", str(repository))
    git(repository, "config", "remote.origin.promisor", "true")
    git(repository, "config", "extensions.partialClone", "origin")
    (repository / ".git/info/attributes").write_text("* filter=x diff=x\nfolder/* filter=a=b\n")
    for file in (repository / "tracked", repository / "folder/other"):
        rewrite(file, file.read_text().upper())


async def test_a_hostile_repository_starts_no_program(repository: Path, tmp_path: Path) -> None:
    proof = tmp_path / "proof"
    make_hostile(repository, proof)
    before = await state(repository)
    assert not proof.exists()
    (repository / "tracked").write_text("other")
    assert (await state(repository)).digest != before.digest
    assert not proof.exists()
    git(repository, "-c", "core.fsmonitor=", "status")
    assert proof.exists(), "otherwise the repository is not hostile"


async def test_a_missing_object_is_not_fetched(repository: Path, tmp_path: Path) -> None:
    make_hostile(repository, proof := tmp_path / "proof")
    tree = git(repository, "-c", "core.fsmonitor=", "rev-parse", "HEAD^{tree}")
    (repository / ".git/objects" / tree[:2] / tree[2:]).unlink()
    assert "git cannot read the repository" in await refusal(repository)
    assert not proof.exists()


@pytest.fixture
def place() -> Iterator[Path]:
    with open_place() as folder:
        yield folder


@as_root
async def test_git_runs_as_the_user_of_executors(place: Path) -> None:
    repository, proof = new_repository(place / "repository"), place / "proof"
    module_ = new_repository(place / "module")
    git(repository, "submodule", "--quiet", "add", str(module_), "module")
    commit_all(repository)
    (repository / "module/.git").unlink()
    shutil.move(repository / ".git/modules/module", repository / "module/.git")
    git(repository / "module", "config", "--unset", "core.worktree")
    make_hostile(repository / "module", proof)
    proof.touch(0o666)
    proof.chmod(0o666)
    user = find_user("nobody")
    for path in (repository, *repository.rglob("*")):
        os.chown(path, user.uid, user.gid, follow_symlinks=False)
    as_user = Git(environment=git_environment(user), launch_policy=LaunchPolicy(user=user))
    before = await workspace_state(repository, as_user)
    assert before == await workspace_state(repository, as_user)
    assert proof.read_text() == ""
    (repository / ".git/config").chmod(0o000)
    reason = await refusal(repository, as_user)
    assert f"git cannot read the repository of {repository} as {user}, the user of executors: " in reason
    assert "Permission denied" in reason


@as_root
async def test_files_are_read_with_the_rights_of_the_user(place: Path) -> None:
    repository = new_repository(place / "repository")
    for path in (repository, *repository.rglob("*")):
        os.chown(path, 65534, 65534, follow_symlinks=False)
    secret = repository / "secret"
    secret.write_text("1")
    secret.chmod(0o600)
    user = find_user("nobody")
    as_user = Git(environment=git_environment(user), launch_policy=LaunchPolicy(user=user))
    before = await workspace_state(repository, as_user)
    rewrite(secret, "2")
    assert await workspace_state(repository, as_user) == before, "the content must not be visible"
    os.utime(secret)
    assert await workspace_state(repository, as_user) != before
