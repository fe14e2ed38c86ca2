"""Real git repositories."""

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

from fsm_runner.executors.environment import executor_environment
from fsm_runner.process.user import RunUser

AUTHOR = {
    "GIT_AUTHOR_NAME": "A",
    "GIT_AUTHOR_EMAIL": "a@example.org",
    "GIT_COMMITTER_NAME": "C",
    "GIT_COMMITTER_EMAIL": "c@example.org",
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_NOSYSTEM": "1",
}


def git_environment(user: RunUser | None = None) -> Mapping[str, str]:
    """The environment of an executor, without the git configuration of this machine's users."""
    return {**executor_environment(os.environ, user=user), **AUTHOR}


def git(folder: Path, *arguments: str) -> str:
    """Run git and return its output."""
    command = ["git", "-c", "protocol.file.allow=always", "-c", "core.autocrlf=false", *arguments]
    done = subprocess.run(command, cwd=folder, env=git_environment(), capture_output=True, check=True, timeout=60)
    return done.stdout.decode(errors="surrogateescape").strip()


def commit_all(folder: Path, message: str = "m") -> None:
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--allow-empty", "--message", message)


def new_repository(folder: Path) -> Path:
    """Create a repository with one commit of `tracked`, `folder/other` and a `.gitignore` of `*.log`."""
    folder.mkdir(parents=True, exist_ok=True)
    git(folder, "init", "--quiet", "--initial-branch=main")
    (folder / "tracked").write_text("one\n")
    (folder / "folder").mkdir()
    (folder / "folder/other").write_text("two\n")
    (folder / ".gitignore").write_text("*.log\n")
    commit_all(folder)
    return folder
