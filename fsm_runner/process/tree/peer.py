"""Who is at the other end of a local socket, and whether a run of any runner has started that process.

On Linux, the kernel keeps the orphans of runs below their runner (`tree.subreaper`), so a process of a run has its
runner among its ancestors while that lives, whatever it does to its environment, its session or its limits. Each runner
has a tag of its own, by which the others recognize it. The tags of processes are checked too, because a system may not
report orphans, and a runner that has ended may have left processes behind.

Without Linux' /proc (macOS), there are no rlimit tags and no orphans, so a process of a run that has cleared its
environment and lost its parent is not recognized. Before Linux 6.5 and on macOS, neither is one whose id another
process has taken over between its connection and this check.
"""

import errno
import os
import pwd
import signal
import socket
import struct
import sys
from collections.abc import Hashable
from itertools import pairwise
from types import ModuleType

import msgspec

from fsm_runner.process.errors import PeerUnknown
from fsm_runner.process.tree import procfs
from fsm_runner.process.tree.process_tree import RUNNER_TAG_VARIABLE, TREE_TAG_VARIABLE
from fsm_runner.process.tree.procfs import Process
from fsm_runner.process.tree.rlimit_tag import rlimit_tag_of

READS = 10
"""How often the ancestors of a process are read again if they change meanwhile."""

_SO_PEERPIDFD = 77
"""Linux 6.5: a handle of the process that connected, which no other process can take over."""
_SOL_LOCAL, _LOCAL_PEERCRED, _LOCAL_PEERPID = 0, 1, 2
"""The options of macOS. Python has no names for them."""
_XUCRED_BYTES = 76
_TAG_ENTRIES = tuple(f"{name}=".encode() for name in (RUNNER_TAG_VARIABLE, TREE_TAG_VARIABLE))


class Peer(msgspec.Struct, frozen=True):
    """The process that has connected to a local socket, and its effective user at that time."""

    pid: int
    uid: int

    @property
    def user_name(self) -> str:
        """The name of its user, or `uid N` without one."""
        try:
            return pwd.getpwuid(self.uid).pw_name
        except KeyError:
            return f"uid {self.uid}"


def peer_of(connection: socket.socket) -> Peer:
    """Raises `PeerUnknown` if the process is in another container, and OSError if the system does not name it."""
    if sys.platform == "darwin":
        _, uid = struct.unpack("II", connection.getsockopt(_SOL_LOCAL, _LOCAL_PEERCRED, _XUCRED_BYTES)[:8])
        (pid,) = struct.unpack("i", connection.getsockopt(_SOL_LOCAL, _LOCAL_PEERPID, 4))
    else:
        form = "iII"
        credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize(form))
        pid, uid, _ = struct.unpack(form, credentials)
    if pid <= 0:
        raise PeerUnknown("its process is in another container")
    return Peer(pid, uid)


def is_own_user(peer: Peer) -> bool:
    """Return whether the peer is of this process's user, or root."""
    return peer.uid in (0, os.geteuid())


class RunProcesses:
    """Recognizes the processes that runs have started, those of this runner and of others.

    Create it in the runner's process. If that is part of a run of another runner, the tags of that run say nothing.
    """

    def __init__(self) -> None:
        self._table: ModuleType = procfs
        if not procfs.offers_processes():
            from fsm_runner.process.tree import psutil_backend  # psutil takes long to import

            self._table = psutil_backend
        self._own_tags = {tag for each in self._read_ancestry(os.getpid()) for tag in self._tags(each)}

    def has_started(self, peer: Peer, connection: socket.socket) -> bool:
        """Return whether the process that connected belongs to a run. Blocks for less than a millisecond.

        Raises `PeerUnknown` if it has ended, because another process may have its id now, and OSError if no descriptor
        is left.
        """
        # Quick, because the processes of a run may ask again and again.
        if not self._own_tags.issuperset(_rlimit_tags(peer.pid)):
            return True
        handle = _handle(peer, connection)
        try:
            ancestry = self._ancestry(peer.pid)
            belongs = any(self._is_below(*pair) for pair in pairwise(ancestry)) or any(
                not self._tags(each) <= self._own_tags for each in ancestry
            )
            if handle is not None:
                _require_alive(handle)
        finally:
            if handle is not None:
                os.close(handle)
        return belongs

    def _ancestry(self, pid: int) -> list[Process]:
        """Return the process and all its ancestors, which are the same in two successive reads."""
        before = self._read_ancestry(pid)
        for _ in range(READS):
            now = self._read_ancestry(pid)
            if [(each.identity, each.parent) for each in now] == [(each.identity, each.parent) for each in before]:
                if not now:
                    break
                return now
            before = now
        raise PeerUnknown("its process has ended, or its ancestors cannot be read")

    def _read_ancestry(self, pid: int) -> list[Process]:
        """A parent that this user may not see (`hidepid`) ends the list."""
        found: list[Process] = []
        while pid > 0 and (process := self._table.read_process(pid)) is not None:
            found.append(process)
            pid = process.parent
        return found

    @staticmethod
    def _is_below(process: Process, parent: Process) -> bool:
        """Return whether `process` leads a run, or is an orphan of one. Other children share this process's session."""
        return parent.pid == os.getpid() and process.session != os.getsid(0)

    def _tags(self, process: Process) -> set[Hashable]:
        """The tags that runners have given to the process, of both kinds. Raises OSError if no descriptor is left."""
        entries: list[bytes] = self._table.environment(process.pid)
        return {each for each in entries if each.startswith(_TAG_ENTRIES)} | _rlimit_tags(process.pid)


def _rlimit_tags(pid: int) -> set[Hashable]:
    value = rlimit_tag_of(pid)
    return set() if value is None else {value}


def _handle(peer: Peer, connection: socket.socket) -> int | None:
    """Return a pidfd of the process; None if the system has none. Raises `PeerUnknown` if it has ended, and OSError."""
    if not hasattr(os, "pidfd_open"):
        return None
    try:
        (handle,) = struct.unpack("i", connection.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD, 4))
        return int(handle)
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):
            raise
        if error.errno != errno.ENOPROTOOPT:
            raise PeerUnknown("its process has ended") from None
    try:  # an older kernel
        return os.pidfd_open(peer.pid)
    except ProcessLookupError:
        raise PeerUnknown("its process has ended") from None


def _require_alive(handle: int) -> None:
    try:
        signal.pidfd_send_signal(handle, 0)
    except ProcessLookupError:
        raise PeerUnknown("its process has ended") from None
    except PermissionError:  # another user's, which exists
        return
