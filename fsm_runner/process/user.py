"""The user that executors run as (`--run-as`), and that user's permissions."""

import contextlib
import ctypes
import errno
import functools
import os
import platform
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import ParamSpec, TypeVar

import msgspec

from fsm_runner.errors import UsageError

Value = TypeVar("Value")
Parameters = ParamSpec("Parameters")

RUN_AS = "--run-as (RUN_AS)"
_CHECKS = """i=0
while [ $# -gt 1 ]; do
    [ "$1" "$2" ] || echo "$i"
    i=$((i + 1))
    shift 2
done
"""
"""Prints the numbers of the tests that fail."""
RIGHTS = {"d": "see", "r": "read", "w": "write to", "x": "enter or execute"}
"""What a process may do with a path, by the letter of the right."""
_CHECK_LIMIT_S = 30.0

_NEEDED_CAPABILITIES = {5: "CAP_KILL", 6: "CAP_SETGID", 7: "CAP_SETUID"}
_SETGROUPS_CALLS = {"x86_64": 116, "aarch64": 159, "riscv64": 159, "ppc64le": 81, "s390x": 206}
"""The number of the system call `setgroups`, by processor."""
CAP_SYS_PTRACE = 19
"""The capability to read any process."""


class RunUser(msgspec.Struct, frozen=True, kw_only=True):
    """A user other than root."""

    name: str
    """The uid if it has no name on this machine."""
    uid: int
    gid: int
    groups: tuple[int, ...]
    """The supplementary groups."""
    home: str

    def __str__(self) -> str:
        return self.name if self.name == str(self.uid) else f"{self.name} (uid {self.uid})"


def find_user(text: str) -> RunUser:
    """Find a user by `USER` or `USER:GROUP`, each a name or a number.

    Without a group, the user keeps its supplementary groups; otherwise it has none.

    Raises `UsageError` if the user does not exist or is root, or if this process cannot change users.
    """
    if os.geteuid() != 0:
        raise UsageError(
            f"{RUN_AS}: {text!r}: only root can start executors as another user, and the runner is uid {os.geteuid()}: "
            "omit the setting, or start the runner as that user"
        )
    if lacking := [name for number, name in _NEEDED_CAPABILITIES.items() if lacks_capability(number)]:
        raise UsageError(
            f"{RUN_AS}: {text!r}: root cannot start and stop processes of another user here, because it lacks "
            f"{', '.join(lacking)}: add it (a container's `cap_add`), or omit the setting"
        )
    import grp
    import pwd

    user_text, colon, group_text = text.partition(":")
    try:
        entry = pwd.getpwuid(_id(user_text)) if user_text.isdecimal() else pwd.getpwnam(user_text)
    except (KeyError, ValueError):
        entry = None
    if entry is None and not (user_text.isdecimal() and group_text):
        hint = ": a uid without a user needs a group, as in UID:GID" if user_text.isdecimal() else ""
        raise UsageError(f"{RUN_AS}: there is no user {user_text!r} here{hint}")
    uid = _id(user_text) if entry is None else entry.pw_uid
    if uid == 0:
        raise UsageError(f"{RUN_AS}: {text!r} is root: name another user, or omit the setting")
    if entry is not None and not colon:
        groups = tuple(os.getgrouplist(entry.pw_name, entry.pw_gid))
        return RunUser(name=entry.pw_name, uid=uid, gid=entry.pw_gid, groups=groups, home=entry.pw_dir)
    try:
        gid = _id(group_text) if group_text.isdecimal() else grp.getgrnam(group_text).gr_gid
    except (KeyError, ValueError):
        raise UsageError(f"{RUN_AS}: there is no group {group_text!r} here") from None
    name, home = (str(uid), "/") if entry is None else (entry.pw_name, entry.pw_dir)
    return RunUser(name=name, uid=uid, gid=gid, groups=(), home=home)


def _id(text: str) -> int:
    if not re.fullmatch("[0-9]{1,10}", text) or int(text) > 2**32 - 2:
        raise UsageError(f"{RUN_AS}: {text!r} is not the number of a user or group")
    return int(text)


@functools.cache
def lacks_capability(number: int) -> bool:
    """Return True if this process lacks a capability, as root may in a container. False if the system has none."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return False
    found = re.search(r"^CapEff:\s*([0-9a-f]+)$", status, re.MULTILINE)
    return found is not None and not int(found[1], 16) >> number & 1


def give_pipes(user: RunUser, ends: Iterable[int]) -> None:
    """Make the user the owner of a child's ends of its pipes, without which the child could not reopen /dev/stderr."""
    for end in ends:
        with contextlib.suppress(PermissionError):  # root without CAP_CHOWN: then the child can only use what is open
            os.fchown(end, user.uid, user.gid)


def denied_to(user: RunUser, wanted: Iterable[tuple[Path, str]]) -> list[tuple[Path, str]]:
    """Return the pairs of a path and a right (a letter of `RIGHTS`) that the user lacks.

    A process of that user asks the kernel, because access lists and network file systems have their own rules. Blocks
    for a few milliseconds. Raises OSError if that process cannot be started.
    """
    pairs = list(wanted)
    arguments = [word for path, right in pairs for word in (f"-{right}", str(path))]
    try:
        asked = subprocess.run(  # noqa: S603 - a script of our own
            ["/bin/sh", "-c", _CHECKS, "sh", *arguments],
            env={},
            cwd="/",
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_CHECK_LIMIT_S,
            check=True,
            user=user.uid,
            group=user.gid,
            extra_groups=user.groups,
        )
    except subprocess.SubprocessError as fault:
        raise OSError(f"cannot check the permissions of {user}: {fault}") from fault
    return [pairs[int(number)] for number in asked.stdout.split()]


def first_denied(user: RunUser, paths: Iterable[tuple[Path, str]]) -> tuple[Path, Path, str] | None:
    """Return the first path that the user lacks a right for, the place that denies it, and the right.

    `paths`: each with the rights that it needs, such as `rx`. The place is the path or a folder above it. Raises
    OSError.
    """
    steps = []
    for path, rights in paths:
        # From the root folder on, including the folders of a link's target.
        folders = (*reversed(path.parents), *reversed(path.resolve().parents))
        steps += [(path, folder, "x") for folder in folders] + [(path, path, right) for right in rights]
    denied = set(denied_to(user, {(place, right): None for _, place, right in steps}))
    return next((step for step in steps if step[1:] in denied), None)


def with_rights_of(
    user: RunUser | None, work: Callable[Parameters, Value], *args: Parameters.args, **kwargs: Parameters.kwargs
) -> Value:
    """Call `work` with the file permissions of the user, who may have placed links in the files that it handles.

    Call it only in a thread of its own, because the permissions are the thread's. With None, and on systems other than
    Linux, `work` keeps the permissions of this process. Raises PermissionError if the thread cannot take them on.
    """
    if user is None or sys.platform != "linux":
        return work(*args, **kwargs)
    libc = ctypes.CDLL(None)
    libc.setfsuid.restype = ctypes.c_uint
    groups = os.getgroups()
    _set_groups_of_thread(libc, user.groups)
    libc.setfsgid(user.gid)
    libc.setfsuid(user.uid)
    try:
        if libc.setfsuid(-1) != user.uid:  # the only way to check it
            raise PermissionError(errno.EPERM, f"cannot take on the permissions of {user}")
        return work(*args, **kwargs)
    finally:
        libc.setfsuid(os.geteuid())
        libc.setfsgid(os.getegid())
        _set_groups_of_thread(libc, groups)


def _set_groups_of_thread(libc: ctypes.CDLL, groups: Sequence[int]) -> None:
    """Set the supplementary groups of this thread alone; the C library's own function sets those of all threads.

    On a processor that is not in the table, the thread keeps its groups. Raises PermissionError.
    """
    number = _SETGROUPS_CALLS.get(platform.machine())
    if number is not None and libc.syscall(number, len(groups), (ctypes.c_uint32 * len(groups))(*groups)) != 0:
        raise PermissionError(errno.EPERM, "cannot set the supplementary groups of a thread")
