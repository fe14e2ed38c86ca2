"""Whether a run can work in its project directory."""

import errno
import os
import shlex
import stat
from pathlib import Path

from fsm_runner.executors.port import RunRefused

NO_SUCH_DIRECTORY = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP})


def check_workspace(folder: Path) -> None:
    """Raises `RunRefused` with what to do, and `OSError` where it may pass: a network's file system may come back."""
    if not folder.is_absolute() or "\0" in str(folder):
        raise RunRefused(f"project directory {str(folder)!r}: not an absolute path")
    try:
        status = folder.stat()
    except PermissionError:
        raise RunRefused(f"{_denied(folder)} see it: open the directories above it (chmod a+x)") from None
    except OSError as fault:
        if fault.errno not in NO_SUCH_DIRECTORY:
            raise
        raise RunRefused(f"project directory {folder}: there is no such directory on this runner") from None
    if not stat.S_ISDIR(status.st_mode):
        raise RunRefused(f"project directory {folder}: it is a file, not a directory, on this runner")
    if os.statvfs(folder).f_flag & os.ST_RDONLY:
        raise RunRefused(f"{_denied(folder)} write to it: its file system is read-only; mount it writable")
    if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        raise RunRefused(_not_open(folder, status))


def _not_open(folder: Path, status: os.stat_result) -> str:
    owner = f"it belongs to uid {status.st_uid}, mode {stat.filemode(status.st_mode)}"
    shown = shlex.quote(str(folder))
    fix = f"`chmod u+rwx {shown}`"
    if status.st_uid != os.getuid():
        fix = f"`chown {os.getuid()} {shown}`, or `chmod 777 {shown}`"
    return f"{_denied(folder)} read, write and enter it ({owner}): {fix}"


def _denied(folder: Path) -> str:
    return f"Permission denied on workspace {folder}: the runner (uid {os.getuid()}) may not"
