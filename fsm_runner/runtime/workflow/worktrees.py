"""Git worktrees: each child of a workflow can work in files of its own, on a branch of its own.

Git runs as in `runtime/git.py`, without hooks and filters, and files are touched with the rights of executors.
"""

import asyncio
import hashlib
import os
import re
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path

import msgspec
from loguru import logger

from fsm_runner.errors import FsmRunnerError
from fsm_runner.process.child.child import Exit
from fsm_runner.process.errors import SpawnFailed
from fsm_runner.process.user import RunUser, with_rights_of
from fsm_runner.runtime.git import Git, TooManyFilters, said
from fsm_runner.util.threads import in_thread

FOLDER = Path(".fsm-runner/worktrees")
"""Where worktrees are, relative to the project directory."""
BRANCH_PREFIX = "fsm-runner/"
LIMIT_S = 300.0
"""How long it may take to create or to remove a worktree."""
_RUN_ID_CHARS = 60
_NO_REPOSITORY = "not a git repository"


class WorktreeFailed(FsmRunnerError):
    """A worktree cannot be created. The text says why, and what to do."""


class Worktree(msgspec.Struct, frozen=True):
    """A worktree that was created for one child."""

    branch: str
    path: str
    """Its top folder."""
    folder: str
    """The folder in it that corresponds to the project directory, which may be a part of its repository."""
    base: str
    """The commit at which its branch began."""


def worktree_name(run_id: str, state: str, visit: int, index: int) -> str:
    """Return a name for the worktree and the branch of a child, which contains letters, digits, `-` and `_`."""
    run = re.sub(r"[^A-Za-z0-9_-]", "-", run_id)[:_RUN_ID_CHARS]
    if run != run_id:
        run += "-" + hashlib.blake2b(run_id.encode(errors="replace"), digest_size=4).hexdigest()
    return f"{run}-{state}-{visit}-{index}"


class Worktrees(msgspec.Struct, frozen=True):
    """The worktrees of the repository that contains a project directory."""

    git: Git
    project_dir: Path

    async def add(self, name: str) -> Worktree:
        """Create a worktree at the commit that is checked out, instead of an unfinished one. Raises `WorktreeFailed`.

        Call it only while no child has begun to work in it.
        """
        async with self._limited("created"):
            prefix, base = await self._place()
            path = await in_thread(with_rights_of, self._user, _new_path, self.project_dir, name)
            worktree = Worktree(BRANCH_PREFIX + name, str(path), str(path / prefix), base)
            await self._clear(path)
            try:
                filters = await self.git.without_filters(self.project_dir)
                add = ("worktree", "add", "--quiet", "-B", worktree.branch, str(path), base)
                await self._succeeded(self.project_dir, *filters, *add)
                return worktree
            except WorktreeFailed:
                await self._clear(path)
                raise

    async def settle(self, worktree: Worktree) -> Worktree | None:
        """Remove a worktree whose child has succeeded without changes, and its branch. Return None if it is gone."""
        try:
            async with self._limited("removed"):
                if await self._commit_of(self.project_dir, f"refs/heads/{worktree.branch}") not in (worktree.base, ""):
                    return worktree
                if await in_thread(os.path.lexists, worktree.path):
                    if await self._has_changes(worktree):
                        return worktree
                    remove = ("worktree", "remove", "--force", "--force", worktree.path)
                    await self._succeeded(self.project_dir, *remove)
                await self.git.run(self.project_dir, "branch", "--quiet", "-D", worktree.branch)
                return None
        except WorktreeFailed as fault:
            logger.warning("{}", fault)
            return worktree

    async def _place(self) -> tuple[str, str]:
        """Return the path of the project directory in its repository, and the commit that is checked out."""
        ended = await self.git.run(self.project_dir, "rev-parse", "--show-prefix")
        if _NO_REPOSITORY in ended.stderr.text():
            raise WorktreeFailed(f"{self.project_dir} is in no git repository, so it has no worktrees (`git init`)")
        if not ended.succeeded:
            raise self._failure(ended)
        base = await self._commit_of(self.project_dir, "HEAD")
        if not base:
            raise WorktreeFailed(
                f"the git repository of {self.project_dir} has no commit yet, from which a worktree could begin: "
                "run `git commit`"
            )
        return os.fsdecode(ended.stdout.bytes().removesuffix(b"\n")), base

    async def _has_changes(self, worktree: Worktree) -> bool:
        path = Path(worktree.path)
        if await self._commit_of(path, "HEAD") != worktree.base:
            return True
        filters = await self.git.without_filters(path)
        # Git would look into submodules with their own filters.
        status = ("status", "--porcelain", "--untracked-files=normal", "--ignore-submodules=dirty", "--no-renames")
        return (await self._succeeded(path, *filters, *status)).stdout.total_bytes > 0

    async def _commit_of(self, folder: Path, revision: str) -> str:
        """Return an empty text if there is no such commit."""
        ended = await self.git.run(folder, "rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}")
        return ended.stdout.text().strip() if ended.succeeded else ""

    async def _clear(self, path: Path) -> None:
        """Remove a worktree that may be incomplete or deleted, if there is one."""
        await self.git.run(self.project_dir, "worktree", "remove", "--force", "--force", str(path))
        await in_thread(with_rights_of, self._user, partial(shutil.rmtree, ignore_errors=True), path)
        await self.git.run(self.project_dir, "worktree", "prune")

    @property
    def _user(self) -> RunUser | None:
        return self.git.launch_policy.user

    async def _succeeded(self, folder: Path, *arguments: str) -> Exit:
        ended = await self.git.run(folder, *arguments)
        if not ended.succeeded:
            raise self._failure(ended)
        return ended

    def _failure(self, ended: Exit) -> WorktreeFailed:
        return WorktreeFailed(f"git in {self.project_dir}{self.git.who}: {said(ended)}")

    @asynccontextmanager
    async def _limited(self, what: str) -> AsyncIterator[None]:
        """Raise `WorktreeFailed` for each fault, and when it takes too long."""
        failed = f"the worktree in {self.project_dir} cannot be {what}"
        try:
            async with asyncio.timeout(LIMIT_S):
                yield
        except TimeoutError:
            raise WorktreeFailed(f"{failed} within {LIMIT_S:g} s") from None
        except OSError as fault:
            raise WorktreeFailed(f"{failed}: {fault}") from fault
        except (SpawnFailed, TooManyFilters, WorktreeFailed) as fault:
            raise WorktreeFailed(f"{failed}: {fault}") from fault


def _new_path(project_dir: Path, name: str) -> Path:
    """Create the folder of worktrees, which git ignores, and return the path of a new one. Raises OSError."""
    folder = project_dir / FOLDER
    for each in (folder.parent, folder):
        each.mkdir(exist_ok=True)
        if each.is_symlink():
            raise WorktreeFailed(f"{each} is a link: remove it")
    with suppress(FileExistsError), (folder.parent / ".gitignore").open("x") as ignored:
        ignored.write("*\n")
    return folder / name
