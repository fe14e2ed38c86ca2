"""The state of a workspace's git repository: what a run may have changed in it. Nothing is written to it."""

import asyncio
import hashlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from fsm_runner.errors import FsmRunnerError
from fsm_runner.process.child.child import Exit
from fsm_runner.process.errors import SpawnFailed
from fsm_runner.process.user import with_rights_of
from fsm_runner.runtime.git import OUTPUT_LIMIT_BYTES, Git, TooManyFilters, said
from fsm_runner.runtime.workspace_files import REPOSITORY, FileReader, ReadingTooSlow
from fsm_runner.util.threads import in_thread

LIST_LIMIT_BYTES = 64 * 1024 * 1024
"""The longest list of changed and untracked files, which is held in memory."""
_SUBMODULE_MODE = b"160000 "

_NO_REPOSITORY = "not a git repository"


class NoRepository(FsmRunnerError):
    """The workspace is in no git repository."""


class StateUnknown(FsmRunnerError):
    """The state of the workspace cannot be read. The text says why."""


class WorkspaceState(msgspec.Struct, frozen=True):
    """The state of a git repository at one time."""

    repository: str
    """Its top folder; of a bare repository, the workspace itself."""
    digest: str
    """Equal for equal states of one repository: its files except ignored ones, what is staged, HEAD and all refs."""


async def workspace_state(folder: Path, git: Git) -> WorkspaceState:
    """Return the state of the repository that contains `folder`. Raises `NoRepository`, `StateUnknown`."""
    try:
        async with asyncio.timeout(git.limit_s):
            return await _Reading(git).state_of(folder)
    except SpawnFailed as fault:
        raise StateUnknown(f"the git repository of {folder} cannot be read: {fault}") from fault
    except TooManyFilters as fault:
        raise StateUnknown(str(fault)) from fault
    except (TimeoutError, ReadingTooSlow):
        raise StateUnknown(
            f"the state of the git repository of {folder} cannot be read within {git.limit_s:g} s: "
            "let it ignore large files (.gitignore)"
        ) from None


class _Reading:
    """One reading of a repository, and of the repositories in it: submodules, and untracked ones."""

    def __init__(self, git: Git) -> None:
        self._git = git
        self._deadline_s = time.monotonic() + git.limit_s
        self._digest = hashlib.blake2b(digest_size=32)
        self._read: set[Path] = set()
        """The repositories that were read. A link in a hostile one may lead back to another."""

    async def state_of(self, folder: Path) -> WorkspaceState:
        top = await self._top_of(folder)
        await self._add_refs(folder)
        if top is None:
            return WorkspaceState(str(folder), self._digest.hexdigest())
        pending = await self._add_work_tree(top)
        while pending:
            inner = pending.pop()
            inner_top = await self._top_of(inner)
            await self._add_refs(inner)
            if inner_top is not None:
                pending += await self._add_work_tree(inner_top)
        return WorkspaceState(str(top), self._digest.hexdigest())

    async def _top_of(self, folder: Path) -> Path | None:
        """Return the top folder of a repository's files; None if it is bare. Raises `NoRepository`."""
        questions = ("--is-bare-repository", "--is-inside-work-tree", "--show-toplevel")
        ended = await self._git.run(folder, "rev-parse", *questions)
        answers = ended.stdout.bytes()
        if answers.startswith(b"true\n"):
            return None
        if ended.code != 0:
            if _NO_REPOSITORY in ended.stderr.text():
                raise NoRepository(f"{folder} is in no git repository (`git init` creates one)")
            raise self._unknown(folder, ended)
        return Path(os.fsdecode(answers.split(b"\n", 2)[2].removesuffix(b"\n")))

    async def _add_refs(self, folder: Path) -> None:
        form = "--format=%(HEAD) %(objectname) %(refname) %(symref)"
        await self._succeeded(folder, "for-each-ref", form, on_stdout=self._digest.update)

    async def _add_work_tree(self, top: Path) -> list[Path]:
        """Add a repository's HEAD, index and files. Return the folders of the repositories in it."""
        if top in self._read:
            return []
        self._read.add(top)
        self._add(os.fsencode(top))
        status = await self._succeeded(
            top,
            *await self._git.without_filters(top),
            "status",
            "--porcelain=v2",
            "--branch",
            "--no-ahead-behind",
            "--untracked-files=all",
            "--ignore-submodules=dirty",  # git would look into them with their own filters
            "--no-renames",
            "-z",
            limit_bytes=LIST_LIMIT_BYTES,
        )
        if status.stdout.truncated:
            raise StateUnknown(
                f"the git repository {top} has too many changed and untracked files: their list has "
                f"{status.stdout.total_bytes:,} bytes, and no more than {LIST_LIMIT_BYTES:,} are read"
            )
        listed = status.stdout.bytes()
        self._add(listed)
        paths = [*_unsettled_paths(listed), *await self._submodules_of(top)]
        reader = FileReader(self._deadline_s)
        try:
            contents = await in_thread(with_rights_of, self._git.launch_policy.user, reader.contents_of, top, paths)
        except asyncio.CancelledError:
            reader.cancel()
            raise
        for path, content in zip(paths, contents, strict=True):
            self._add(path, content)
        return [top / os.fsdecode(path) for path, content in zip(paths, contents, strict=True) if content == REPOSITORY]

    async def _submodules_of(self, top: Path) -> list[bytes]:
        """Return the paths of all submodules, also of those without files."""
        found: list[bytes] = []
        rest = b""

        def take(chunk: bytes) -> None:
            nonlocal rest
            *entries, rest = (rest + chunk).split(b"\0")
            found.extend(entry.partition(b"\t")[2] for entry in entries if entry.startswith(_SUBMODULE_MODE))

        await self._succeeded(top, "ls-files", "--stage", "-z", on_stdout=take)
        return found

    async def _succeeded(
        self,
        folder: Path,
        *arguments: str,
        on_stdout: Callable[[bytes], None] | None = None,
        limit_bytes: int = OUTPUT_LIMIT_BYTES,
    ) -> Exit:
        ended = await self._git.run(folder, *arguments, on_stdout=on_stdout, limit_bytes=limit_bytes)
        if not ended.succeeded:
            raise self._unknown(folder, ended)
        return ended

    def _unknown(self, folder: Path, ended: Exit) -> StateUnknown:
        return StateUnknown(f"git cannot read the repository of {folder}{self._git.who}: {said(ended)}")

    def _add(self, *parts: bytes) -> None:
        for part in parts:
            self._digest.update(b"%d:" % len(part))
            self._digest.update(part)


def _unsettled_paths(listed: bytes) -> Iterator[bytes]:
    """Return the paths of a status (`--porcelain=v2 -z`) whose content it does not tell."""
    for entry in listed.split(b"\0"):
        match entry[:2]:
            case b"1 " if entry[3:4] != b".":
                yield entry.split(b" ", 8)[8]
            case b"u ":
                yield entry.split(b" ", 10)[10]
            case b"? ":
                yield entry[2:].rstrip(b"/")
