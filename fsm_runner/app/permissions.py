"""Checks the permissions of the user that executors run as: access to their files, none to the journal."""

import stat
from collections.abc import Iterable, Mapping
from pathlib import Path

from fsm_runner.errors import UsageError
from fsm_runner.executors.environment import SDK_FOLDER
from fsm_runner.executors.program import UV, ExecutorProgram
from fsm_runner.process.user import RIGHTS, RUN_AS, RunUser, denied_to, first_denied

SDK_FILE = SDK_FOLDER / "fsm_executor" / "__init__.py"


def check_program(user: RunUser, path: Path, program: ExecutorProgram) -> None:
    """Check that `user` may start the executor in the file `path`. Blocks.

    Raises `UsageError`, which names the folder or file, and `OSError`.
    """
    _check_open(user, [(Path(program.command[0]), "x"), (path.parent, "rx"), (path, "r"), (SDK_FILE, "r")])
    if Path(program.command[0]).name == UV:
        _check_cache(user, program.environment)


def check_folder(user: RunUser, folder: Path, commands: list[Path]) -> None:
    """Check that `user` may start the commands of a procedural executor. Blocks. Raises `UsageError` and `OSError`."""
    _check_open(user, [(folder, "rx"), *((command, "rx") for command in commands)])


def _check_open(user: RunUser, paths: Iterable[tuple[Path, str]]) -> None:
    denied = first_denied(user, paths)
    if denied is None:
        return
    path, place, right = denied
    purpose = "" if path == place else f", which {path} needs"
    letters = "x" if path != place else "r" if right == "r" and not place.is_dir() else "rx"
    raise UsageError(
        f"{RUN_AS}: {user} may not {RIGHTS[right]} {place}{purpose}: open it to that user "
        f"(`chmod a+{letters} {place}`), or keep it elsewhere"
    )


def _check_cache(user: RunUser, environment: Mapping[str, str]) -> None:
    """Check that `user` may write to the cache of `uv`."""
    named = environment.get("UV_CACHE_DIR")
    cache = Path(named) if named else Path(environment.get("HOME", "/"), ".cache", "uv")
    # The cache, or the folder in which it can be created.
    place = next(each for each in (cache, *cache.parents) if each.is_dir())
    if denied_to(user, [(place, "w"), (place, "x")]):
        raise UsageError(
            f"{RUN_AS}: the executor is started by uv, which caches downloads in {cache}, and {user} may not "
            "write there: set UV_CACHE_DIR to a folder of that user"
        )


def check_journal(user: RunUser, folder: Path) -> None:
    """Check that `user` can neither read this runner's journal nor replace it. Blocks.

    Raises `UsageError`, which names the folder, and `OSError`.
    """
    above = [each for each in folder.parents if not each.stat().st_mode & stat.S_ISVTX]
    wanted = [(folder, "r"), (folder, "w"), (folder, "x"), *((each, "w") for each in above)]
    denied = denied_to(user, wanted)
    allowed = next((each for each in wanted if each not in denied), None)
    if allowed is not None:
        place, right = allowed
        raise UsageError(
            f"{RUN_AS}: the runner's journal is in {folder}, and {user} may {RIGHTS[right]} {place}: close it to that "
            "user, or use another --state-dir"
        )
