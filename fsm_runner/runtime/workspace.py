"""Checks that a run can work in its project directory."""

import errno
import os
import shlex
import stat
from pathlib import Path

from fsm_runner.executors.interface import RunRefused
from fsm_runner.process.user import RunUser, denied_to

NO_SUCH_DIRECTORY = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP})

_NEEDED = frozenset("drwx")
"""The rights to see, read, write and enter a directory."""


def check_workspace(folder: Path, user: RunUser | None = None) -> None:
    """Raise `RunRefused` with the remedy if `user`, or this process, cannot work in a directory.

    Raises `OSError` if the reason may be temporary, such as a network file system that does not answer.
    """
    if not folder.is_absolute() or "\0" in str(folder):
        raise RunRefused(f"project directory {str(folder)!r}: not an absolute path")
    who = f"the runner (uid {os.getuid()})" if user is None else f"{user}, the user of executors,"
    denied = f"Permission denied on workspace {folder}: {who} may not"
    hidden = f"{denied} see it: open the directories above it (chmod a+x)"
    try:
        status = folder.stat()
    except PermissionError:
        raise RunRefused(hidden) from None
    except OSError as fault:
        if fault.errno not in NO_SUCH_DIRECTORY:
            raise
        raise RunRefused(f"project directory {folder}: there is no such directory on this runner") from None
    if not stat.S_ISDIR(status.st_mode):
        raise RunRefused(f"project directory {folder}: it is a file, not a directory, on this runner")
    if os.statvfs(folder).f_flag & os.ST_RDONLY:
        raise RunRefused(f"{denied} write to it: its file system is read-only; mount it writable")
    if user is None:
        rights = _NEEDED if os.access(folder, os.R_OK | os.W_OK | os.X_OK) else frozenset("d")
    else:
        rights = _NEEDED - {right for _, right in denied_to(user, ((folder, right) for right in _NEEDED))}
    if "d" not in rights:
        raise RunRefused(hidden)
    if rights != _NEEDED:
        owner = f"it belongs to uid {status.st_uid}, mode {stat.filemode(status.st_mode)}"
        uid, shown = os.getuid() if user is None else user.uid, shlex.quote(str(folder))
        fix = f"`chmod u+rwx {shown}`" if status.st_uid == uid else f"`chown {uid} {shown}`, or `chmod 777 {shown}`"
        raise RunRefused(f"{denied} read, write and enter it ({owner}): {fix}")
