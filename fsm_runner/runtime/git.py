"""Runs git in hostile repositories.

A repository is hostile, because executors write to it, and its configuration can name programs. So git starts as
executors do: as their user, with their environment and limits. What can be switched off in it is switched off.
"""

import os
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from fsm_runner.errors import FsmRunnerError
from fsm_runner.process.child.child import Child, Exit
from fsm_runner.process.limits.launch_policy import DEFAULT_LAUNCH_POLICY, LaunchPolicy
from fsm_runner.util.text import excerpt

GIT_LIMIT_S = 60.0
"""How long the state of one workspace may take to read, or a worktree to check out."""
OUTPUT_LIMIT_BYTES = 64 * 1024
"""The longest output that is kept, unless the caller asks for more."""
MESSAGE_LIMIT_CHARS = 1_000
"""The most of git's own message that is quoted."""

_SETTINGS = (
    "core.fsmonitor=",
    "core.hooksPath=/dev/null",
    "gc.auto=0",
    "maintenance.auto=false",
    "submodule.recurse=false",
)
_ENVIRONMENT = {
    "LC_ALL": "C",  # its messages are in English, and one of them is compared
    "GIT_OPTIONAL_LOCKS": "0",
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_NO_LAZY_FETCH": "1",
    "GIT_ALLOW_PROTOCOL": "none",  # older versions have no GIT_NO_LAZY_FETCH
    "FSM_RUNNER_NOTHING": "",
}
_NOTHING = "FSM_RUNNER_NOTHING"
"""The variable from which `--config-env` takes an empty value. With `-c`, a key could not contain `=`."""
_FILTERS = r"^filter\..*\.(clean|smudge|process|required)$"


class TooManyFilters(FsmRunnerError):
    """A repository's configuration names more filters than can be switched off."""


class Git(msgspec.Struct, frozen=True, kw_only=True):
    """How git is started: like an executor."""

    environment: Mapping[str, str]
    launch_policy: LaunchPolicy = DEFAULT_LAUNCH_POLICY
    limit_s: float = GIT_LIMIT_S
    """The time limit, which the callers of `run` apply."""

    async def run(
        self,
        folder: Path,
        *arguments: str,
        on_stdout: Callable[[bytes], None] | None = None,
        limit_bytes: int = OUTPUT_LIMIT_BYTES,
    ) -> Exit:
        """Run git in a folder until its end. `limit_bytes`: how much of its output is kept. Raises `SpawnFailed`.

        A cancelled call kills it.
        """
        limits = msgspec.structs.replace(self.launch_policy.limits, output_bytes=None)
        settings = [word for setting in _SETTINGS for word in ("-c", setting)]
        child = Child.start(
            ["git", "--no-pager", *settings, *arguments],
            env={**self.environment, **_ENVIRONMENT},
            cwd=folder,
            output_limit_bytes=limit_bytes,
            on_stdout=on_stdout,
            launch_policy=msgspec.structs.replace(self.launch_policy, limits=limits),
            label=f"git in {folder}",
        )
        try:
            return await child.wait()
        finally:
            await child.stop(term_grace_s=0)

    async def without_filters(self, folder: Path) -> list[str]:
        """Return the options that switch off all filters, which are programs that the repository names.

        Raises `SpawnFailed`, `TooManyFilters`.
        """
        ended = await self.run(folder, "config", "--includes", "--name-only", "-z", "--get-regexp", _FILTERS)
        if ended.stdout.truncated:
            raise TooManyFilters(f"the git repository {folder} has too many filters in its configuration")
        names = {os.fsdecode(name) for name in ended.stdout.bytes().split(b"\0") if name}
        return [f"--config-env={name}={_NOTHING}" for name in sorted(names)]

    @property
    def who(self) -> str:
        """Words such as " as alice (uid 1001), the user of executors", or none."""
        user = self.launch_policy.user
        return "" if user is None else f" as {user}, the user of executors"


def said(ended: Exit) -> str:
    """Return the message of a git that has failed, on one line."""
    return excerpt(ended.exceeded or ended.stderr.text().strip() or f"exit code {ended.code}", MESSAGE_LIMIT_CHARS)
