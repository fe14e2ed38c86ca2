"""Worktrees of real git repositories, also of hostile ones."""

import os
import shutil
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest

from fsm_runner.process.limits.launch_policy import LaunchPolicy
from fsm_runner.process.user import find_user
from fsm_runner.runtime.git import Git
from fsm_runner.runtime.workflow.worktrees import FOLDER, Worktree, WorktreeFailed, Worktrees, worktree_name
from tests.support.repositories import commit_all, git, git_environment, new_repository
from tests.support.rights import open_place

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can start a process of another user")

GIT = Git(environment=git_environment())
NAME = "run_1-work-1-0"


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    return new_repository(tmp_path / "repository")


@pytest.fixture
def worktrees(repository: Path) -> Worktrees:
    return Worktrees(GIT, repository)


def branches(repository: Path) -> list[str]:
    return git(repository, "branch", "--format=%(refname:short)").split()


def listed(repository: Path) -> list[str]:
    return [line.split()[0] for line in git(repository, "worktree", "list").splitlines()[1:]]


def names(folder: Path) -> list[str]:
    return [file.name for file in folder.iterdir()]


async def test_a_worktree_has_the_files_of_the_commit_on_a_branch_of_its_own(
    worktrees: Worktrees, repository: Path
) -> None:
    (repository / "tracked").write_text("not committed\n")
    added = await worktrees.add(NAME)
    assert added.path == added.folder == str(repository / FOLDER / NAME)
    assert added.base == git(repository, "rev-parse", "HEAD")
    assert git(Path(added.path), "branch", "--show-current") == added.branch == f"fsm-runner/{NAME}"
    assert (Path(added.path) / "tracked").read_text() == "one\n"
    assert git(repository, "status", "--porcelain").strip() == "M tracked"


async def test_a_project_directory_in_a_repository_is_the_same_folder_of_the_worktree(repository: Path) -> None:
    added = await Worktrees(GIT, repository / "folder").add(NAME)
    assert added.folder == str(repository / "folder" / FOLDER / NAME / "folder")
    assert (Path(added.folder) / "other").read_text() == "two\n"


async def test_worktrees_stand_beside_each_other(worktrees: Worktrees, repository: Path) -> None:
    first, second = [await worktrees.add(f"{NAME}{number}") for number in range(2)]
    (Path(first.path) / "tracked").write_text("first\n")
    assert (Path(second.path) / "tracked").read_text() == "one\n"
    assert await worktrees.settle(first) == first
    assert await worktrees.settle(second) is None
    assert listed(repository) == [first.path] and branches(repository) == [first.branch, "main"]


def uncommitted(added: Worktree) -> None:
    (Path(added.path) / "tracked").write_text("changed\n")


def untracked(added: Worktree) -> None:
    (Path(added.path) / "new").write_text("")


def committed(added: Worktree) -> None:
    untracked(added)
    commit_all(Path(added.path))


def committed_and_left(added: Worktree) -> None:
    committed(added)
    git(Path(added.path), "checkout", "--quiet", "--detach", added.base)


def detached(added: Worktree) -> None:
    git(Path(added.path), "checkout", "--quiet", "--detach")
    committed(added)


@pytest.mark.parametrize("change", [uncommitted, untracked, committed, committed_and_left, detached])
async def test_a_worktree_with_changes_stays(
    worktrees: Worktrees, repository: Path, change: Callable[[Worktree], None]
) -> None:
    added = await worktrees.add(NAME)
    change(added)
    assert await worktrees.settle(added) == added
    assert listed(repository) == [added.path] and added.branch in branches(repository)


async def test_ignored_files_are_no_changes(worktrees: Worktrees, repository: Path) -> None:
    added = await worktrees.add(NAME)
    (Path(added.path) / "some.log").write_text("ignored")
    assert await worktrees.settle(added) is None
    assert names(repository / FOLDER) == [] and listed(repository) == [] and branches(repository) == ["main"]
    assert await worktrees.settle(added) is None  # after an interruption


async def test_the_branch_of_a_deleted_worktree_stays_if_it_has_commits(worktrees: Worktrees, repository: Path) -> None:
    added = await worktrees.add(NAME)
    committed(added)
    shutil.rmtree(added.path)
    assert await worktrees.settle(added) == added
    assert added.branch in branches(repository)


async def test_an_unfinished_worktree_is_created_again(worktrees: Worktrees, repository: Path) -> None:
    added = await worktrees.add(NAME)
    (Path(added.path) / "tracked").unlink()
    git(repository, "worktree", "lock", added.path)
    assert await worktrees.add(NAME) == added
    assert (Path(added.path) / "tracked").exists()


async def test_a_folder_in_the_place_of_a_worktree_is_replaced(worktrees: Worktrees, repository: Path) -> None:
    (repository / FOLDER / NAME / "deep").mkdir(parents=True)
    added = await worktrees.add(NAME)
    assert not (Path(added.path) / "deep").exists()


async def test_a_worktree_that_was_deleted_but_is_registered_is_created_again(
    worktrees: Worktrees, repository: Path
) -> None:
    added = await worktrees.add(NAME)
    shutil.rmtree(added.path)
    assert await worktrees.add(NAME) == added


async def refusal(folder: Path) -> str:
    with pytest.raises(WorktreeFailed) as refused:
        await Worktrees(GIT, folder).add(NAME)
    return str(refused.value)


async def test_a_folder_without_a_repository_is_refused(tmp_path: Path) -> None:
    assert "is in no git repository" in await refusal(tmp_path)
    assert names(tmp_path) == []


async def test_a_repository_without_a_commit_is_refused(tmp_path: Path) -> None:
    git(tmp_path, "init", "--quiet")
    assert "has no commit yet" in await refusal(tmp_path)


async def test_a_link_in_the_place_of_the_folder_is_refused(repository: Path, tmp_path: Path) -> None:
    (elsewhere := tmp_path / "elsewhere").mkdir()
    (repository / FOLDER.parent).symlink_to(elsewhere)
    assert "is a link: remove it" in await refusal(repository)
    assert names(elsewhere) == []


async def test_a_file_in_the_place_of_the_folder_is_refused(repository: Path) -> None:
    (repository / FOLDER.parent).write_text("")
    assert "File exists" in await refusal(repository)


async def test_a_branch_in_the_place_of_the_branches_is_refused(repository: Path) -> None:
    git(repository, "branch", "fsm-runner")
    assert "refs/heads/fsm-runner" in await refusal(repository)
    assert listed(repository) == []


async def test_a_hostile_repository_starts_no_program(worktrees: Worktrees, repository: Path, tmp_path: Path) -> None:
    proof = tmp_path / "proof"
    program = tmp_path / "program"
    program.write_text(f'#!/bin/sh\necho "$0" >> "{proof}"\ncat\n')
    program.chmod(0o755)
    for name in ("post-checkout", "reference-transaction", "post-index-change", "pre-commit"):
        shutil.copy(program, repository / ".git/hooks" / name)
    for key in ("core.fsmonitor", "filter.x.smudge", "filter.x.clean", "filter.a=b.process", "core.sshCommand"):
        git(repository, "-c", "core.hooksPath=/dev/null", "config", key, str(program))
    for key in ("filter.x.required", "filter.a=b.required"):
        git(repository, "config", key, "true")
    (repository / ".git/info/attributes").write_text("* filter=x\nfolder/* filter=a=b\n")
    proof.unlink(missing_ok=True)
    added = await worktrees.add(NAME)
    assert (Path(added.path) / "tracked").read_text() == "one\n"
    assert await worktrees.settle(added) is None
    assert not proof.exists()
    with suppress(subprocess.CalledProcessError):
        git(repository, "checkout", "--quiet", "-b", "other")
    assert proof.exists(), "otherwise the repository is not hostile"


@as_root
async def test_git_and_files_have_the_rights_of_the_user_of_executors() -> None:
    user = find_user("nobody")
    with open_place() as place:
        repository = new_repository(place / "repository")
        for each in (repository, *repository.rglob("*")):
            os.lchown(each, user.uid, user.gid)
        policy = Git(environment=git_environment(user), launch_policy=LaunchPolicy(user=user))
        worktrees = Worktrees(policy, repository)
        added = await worktrees.add(NAME)
        made = (repository / FOLDER, repository / FOLDER.parent / ".gitignore", Path(added.path) / "tracked")
        assert [each.stat().st_uid for each in made] == [user.uid] * 3
        assert await worktrees.settle(added) is None
        denied = msgspec.structs.replace(worktrees, project_dir=new_repository(place / "of-root"))
        with pytest.raises(WorktreeFailed, match="dubious ownership"):
            await denied.add(NAME)


def test_names_are_safe_and_differ() -> None:
    assert worktree_name("run_a1", "review", 3, 0) == "run_a1-review-3-0"
    hostile = [worktree_name(run_id, "s", 1, 0) for run_id in ("../../x", "..-..-x", "a b", "a\nb", "x" * 1_000)]
    assert len(set(hostile)) == len(hostile)
    assert all(set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-_") and len(name) < 100 for name in hostile)
