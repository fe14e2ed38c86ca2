"""Starts a command, or explains why it cannot be started."""

import errno
import os
import shutil
import stat
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from fsm_runner.process.child.executable import file_defect, noexec_mount
from fsm_runner.process.errors import SpawnFailed
from fsm_runner.process.limits.open_files import OPEN_FILES
from fsm_runner.process.tree.rlimit_tag import with_rlimit_tag
from fsm_runner.process.user import RIGHTS, RunUser, first_denied
from fsm_runner.util.text import escaped

_EXHAUSTED = {
    errno.EAGAIN: "too many processes: raise the limit (`ulimit -u`, a container's pids limit) or run fewer at once",
    errno.EMFILE: "too many open files: raise the limit (`ulimit -n`) or run fewer at once",
    errno.ENFILE: "too many open files on this machine: run fewer at once",
    errno.ENOMEM: "not enough memory to start a process",
}


def spawn(
    command: Sequence[str],
    *,
    env: Mapping[str, str],
    cwd: Path,
    stdin: int,
    stdout: int,
    stderr: int,
    rlimit_tag: int | None = None,
    user: RunUser | None = None,
    exec_prefix: Sequence[str] = (),
) -> "subprocess.Popen[bytes]":
    """Start `command` as the leader of a new session, and thus of a new process group.

    `stdin`, `stdout` and `stderr` are file descriptors or `subprocess.DEVNULL`. The child inherits no others. It and
    its descendants have the `rlimit_tag`. `user` None: this process's. `exec_prefix`: the words of a program that runs
    first and then executes the command in its place. Raises `SpawnFailed`; with an `exec_prefix`, only for reasons that
    can be found before the start.
    """
    if not command or not command[0]:
        raise SpawnFailed("there is no command to start: its name is empty")
    try:
        with OPEN_FILES.inherited() as limit_prefix, with_rlimit_tag(rlimit_tag):
            exec_prefix = [*limit_prefix, *exec_prefix]
            if exec_prefix:
                file = _executable(command[0], env, cwd)
                defect = _directory_fault(cwd) or (_not_found(env) if file is None else file_defect(file))
                if defect is not None:
                    raise SpawnFailed(f"`{command[0]}` cannot be started: {defect}")
            return subprocess.Popen(  # noqa: S603 - the caller chooses the command, and no shell parses it
                [*exec_prefix, *command],
                env=env,
                cwd=cwd,
                stdin=stdin,
                stdout=stdout,
                stderr=stderr,
                close_fds=True,
                start_new_session=True,
                user=None if user is None else user.uid,
                group=None if user is None else user.gid,
                extra_groups=None if user is None else user.groups,
            )
    except OSError as error:
        raise spawn_failed(error, command, env, cwd, user) from error
    except ValueError as error:  # NUL, `=` in a variable's name, text that cannot be encoded
        raise SpawnFailed(
            f"`{escaped(command[0])}` cannot be started: {_unencodable_part(command, env, cwd)}: {error}"
        ) from error


def spawn_failed(
    error: OSError, command: Sequence[str], env: Mapping[str, str], cwd: Path, user: RunUser | None = None
) -> SpawnFailed:
    """Return an error with the likely cause of `error`, which starting `command` raised, and what to do."""
    return SpawnFailed(f"`{command[0]}` cannot be started: {_reason(error, command, env, cwd, user)}")


def _reason(error: OSError, command: Sequence[str], env: Mapping[str, str], cwd: Path, user: RunUser | None) -> str:
    if error.errno in _EXHAUSTED:
        return _EXHAUSTED[error.errno]
    if error.errno == errno.E2BIG:
        lengths = [len(os.fsencode(argument)) for argument in command]
        environment_bytes = sum(len(os.fsencode(name)) + len(os.fsencode(value)) for name, value in env.items())
        return (
            f"its arguments are too long for this system ({sum(lengths):,} bytes, the longest {max(lengths):,}, and "
            f"{environment_bytes:,} bytes of environment): pass large values in a file"
        )
    if (fault := _directory_fault(cwd)) is not None:
        return fault
    file = _executable(command[0], env, cwd)
    if file is None:
        return _not_found(env)
    # On a `noexec` mount, the user seems to lack the permission too.
    if user is not None and error.errno == errno.EACCES and noexec_mount(file) is None:
        with suppress(OSError):  # the permissions cannot be checked
            if (denied := first_denied(user, [(file, "rx")])) is not None:
                _, place, right = denied
                return (
                    f"{user}, the user of executors, may not {RIGHTS[right]} {place}: allow it (`chmod a+rx {place}`)"
                )
    if (defect := file_defect(file)) is not None:
        return defect
    if error.errno == errno.ENOENT:
        return f"{file} exists, but the loader that it was built for does not: it is a program for another system"
    if error.errno == errno.ENOEXEC:
        return (
            f"{file} is neither a program for this machine nor a script: its first line lacks `#!` and an interpreter"
        )
    return f"{file}: {error.strerror}"


def _directory_fault(cwd: Path) -> str | None:
    try:
        mode = cwd.stat().st_mode
    except FileNotFoundError:
        return f"its working directory {cwd} does not exist"
    except OSError as error:
        return f"its working directory {cwd}: {error.strerror}"
    if not stat.S_ISDIR(mode):
        return f"its working directory {cwd} is not a directory"
    if not os.access(cwd, os.X_OK):
        return f"its working directory {cwd} may not be entered: check its permissions"
    return None


def _not_found(env: Mapping[str, str]) -> str:
    return f"command not found in PATH ({env.get('PATH', os.defpath)})"


def _executable(name: str, env: Mapping[str, str], cwd: Path) -> Path | None:
    """Return the file of a command, which may not exist, or None if no folder of PATH has one."""
    if "/" in name:
        return cwd / name
    found = shutil.which(name, mode=os.F_OK, path=env.get("PATH", os.defpath))
    return Path(found) if found else None


def _unencodable_part(command: Sequence[str], env: Mapping[str, str], cwd: Path) -> str:
    for position, argument in enumerate(command):
        if not _is_encodable(argument):
            return f"argument {position}" if position else "its name"
    for name, value in env.items():
        if not _is_encodable(name) or not _is_encodable(value) or "=" in name:
            return f"the environment variable {escaped(name)!r}"
    return f"its working directory {escaped(str(cwd))!r}"


def _is_encodable(text: str) -> bool:
    try:
        return b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:
        return False
