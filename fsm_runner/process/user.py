"""The user that executors are started as, and what the machine looks like with that user's eyes."""

import contextlib
import ctypes
import errno
import functools
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import ParamSpec, TypeVar

import msgspec

from fsm_runner.errors import UsageError

Value = TypeVar("Value")
Parameters = ParamSpec("Parameters")

RUN_AS = "--run-as (RUN_AS)"
_SHELL = "/bin/sh"
_TESTS = """i=0
while [ $# -gt 1 ]; do
    [ "$1" "$2" ] || echo "$i"
    i=$((i + 1))
    shift 2
done
"""
"""Prints the numbers of the tests that do not hold."""
RIGHTS = {"d": "see", "r": "read", "w": "write to", "x": "enter or execute"}
_LOOK_LIMIT_S = 30.0

_NEEDED_CAPABILITIES = {5: "CAP_KILL", 6: "CAP_SETGID", 7: "CAP_SETUID"}
CAP_SYS_PTRACE = 19
"""To look into any process."""


class RunUser(msgspec.Struct, frozen=True, kw_only=True):
    """One that is not root."""

    name: str
    """Its number, where it has no name here."""
    uid: int
    gid: int
    groups: tuple[int, ...]
    """The supplementary ones."""
    home: str

    def __str__(self) -> str:
        return self.name if self.name == str(self.uid) else f"{self.name} (uid {self.uid})"


def find_user(text: str) -> RunUser:
    """Of `USER` or `UID:GID`, each a name or a number. With its supplementary groups where no group is named.

    Raises `UsageError` where there is no such user, it is root, or this process is not root and so cannot be another.
    """
    if os.geteuid() != 0:
        raise UsageError(
            f"{RUN_AS}: {text!r}: only root can start executors as another user, and the runner is uid {os.geteuid()}: "
            "leave it out, or start the runner as that user"
        )
    lacking = [name for number, name in _NEEDED_CAPABILITIES.items() if lacks_capability(number)]
    if lacking:
        raise UsageError(
            f"{RUN_AS}: {text!r}: this root may not start and stop what is another user's, as it lacks "
            f"{', '.join(lacking)}: give it that (a container's `cap_add`), or leave the setting out"
        )
    import grp
    import pwd

    user_text, colon, group_text = text.partition(":")
    try:
        entry = pwd.getpwuid(_number(user_text)) if user_text.isdecimal() else pwd.getpwnam(user_text)
    except (KeyError, ValueError):
        entry = None
    if entry is None and not (user_text.isdecimal() and group_text):
        hint = ": a number that is no user's needs a group, as in UID:GID" if user_text.isdecimal() else ""
        raise UsageError(f"{RUN_AS}: there is no user {user_text!r} here{hint}")
    uid = _id(user_text) if entry is None else entry.pw_uid
    if uid == 0:
        raise UsageError(f"{RUN_AS}: {text!r} is root itself: name another user, or leave it out")
    if entry is not None and not colon:
        groups = tuple(os.getgrouplist(entry.pw_name, entry.pw_gid))
        return RunUser(name=entry.pw_name, uid=uid, gid=entry.pw_gid, groups=groups, home=entry.pw_dir)
    try:
        gid = _id(group_text) if group_text.isdecimal() else grp.getgrnam(group_text).gr_gid
    except (KeyError, ValueError):
        raise UsageError(f"{RUN_AS}: there is no group {group_text!r} here") from None
    name, home = (str(uid), "/") if entry is None else (entry.pw_name, entry.pw_dir)
    return RunUser(name=name, uid=uid, gid=gid, groups=(), home=home)


def _number(text: str) -> int:
    if not re.fullmatch("[0-9]{1,10}", text) or int(text) > 2**32 - 2:
        raise ValueError(text)
    return int(text)


def _id(text: str) -> int:
    try:
        return _number(text)
    except ValueError:
        raise UsageError(f"{RUN_AS}: {text!r} is not the number of a user or group") from None


@functools.cache
def lacks_capability(number: int) -> bool:
    """Whether this process is without that right of root's, as it may be in a container. False where there is none."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return False
    found = re.search(r"^CapEff:\s*([0-9a-f]+)$", status, re.MULTILINE)
    return found is not None and not int(found[1], 16) >> number & 1


def give_pipes(user: RunUser, ends: Iterable[int]) -> None:
    """Of a child that is about to be started as that user: so it may open /dev/stderr anew, which is a file of whoever
    has made the pipe."""
    for end in ends:
        with contextlib.suppress(PermissionError):  # a root without CAP_CHOWN: then it uses what it has open
            os.fchown(end, user.uid, user.gid)


def denied_to(user: RunUser, wanted: Iterable[tuple[Path, str]]) -> list[tuple[Path, str]]:
    """Those pairs of a path and a right (`d`irectory that can be seen, `r`ead, `w`rite, e`x`ecute) that the user has
    not.

    The kernel is asked, by a process of that user, since access lists and file systems of a network have rules of
    their own. Blocks for a few milliseconds. Raises OSError where that process cannot be started.
    """
    pairs = list(wanted)
    arguments = [word for path, right in pairs for word in (f"-{right}", str(path))]
    try:
        asked = subprocess.run(  # noqa: S603 - a script of our own
            [_SHELL, "-c", _TESTS, "sh", *arguments],
            env={},
            cwd="/",
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_LOOK_LIMIT_S,
            check=True,
            user=user.uid,
            group=user.gid,
            extra_groups=user.groups,
        )
    except subprocess.SubprocessError as fault:
        raise OSError(f"what {user} may do cannot be found out: {fault}") from fault
    return [pairs[int(number)] for number in asked.stdout.split()]


def first_denied(user: RunUser, paths: Iterable[tuple[Path, str]]) -> tuple[Path, Path, str] | None:
    """`paths` with the rights that each needs, as `rx`. The first path that the user has not all rights for, and what
    denies it: the path itself or a folder above it, and the right. Raises OSError.
    """
    steps = [(path, place, right) for path, rights in paths for place, right in _steps(path, rights)]
    denied = set(denied_to(user, {(place, right): None for _, place, right in steps}))
    return next((step for step in steps if step[1:] in denied), None)


def with_rights_of(
    user: RunUser | None, work: Callable[Parameters, Value], *args: Parameters.args, **kwargs: Parameters.kwargs
) -> Value:
    """What `work` returns, which works on files that the user may have had its hands on: a link of theirs must lead
    nowhere that they may not go. In a thread of its own alone, whose rights these are. None: with our own.

    Only Linux has such rights of a thread; elsewhere it is done with our own.
    """
    if user is None or sys.platform != "linux":
        return work(*args, **kwargs)
    libc = ctypes.CDLL(None)
    libc.setfsuid.restype = ctypes.c_uint
    libc.setfsgid(user.gid)
    libc.setfsuid(user.uid)
    try:
        if libc.setfsuid(-1) != user.uid:  # it tells no other way
            raise PermissionError(errno.EPERM, f"the rights of {user} cannot be taken on")
        return work(*args, **kwargs)
    finally:
        libc.setfsuid(os.geteuid())
        libc.setfsgid(os.getegid())


def _steps(path: Path, rights: str) -> Iterator[tuple[Path, str]]:
    """What has to be allowed for it, from the top on; also on the way to where a link leads."""
    for folder in (*reversed(path.parents), *reversed(path.resolve().parents)):
        yield folder, "x"
    for right in rights:
        yield path, right
