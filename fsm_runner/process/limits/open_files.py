"""Raises the limit of open files (`ulimit -n`, RLIMIT_NOFILE) for this process only, and divides it among its parts.

A runner needs several descriptors for each run, so it raises its soft limit to the hard one. Child processes get the
original soft limit, because programs that use select() fail with descriptors above 1,023, and some programs close every
possible descriptor one by one.

One half of the descriptors, less `OWN_DESCRIPTORS`, is for processes of runs. The other half is for connections, and
each part of the program has a share of it. So a claimed run can always reach gateway, journal and coordinator.
"""

import fcntl
import os
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

MOST_DESCRIPTORS = 1 << 20
"""The limit is not raised above this value, because a hard limit may be infinite."""
PORTABLE_DESCRIPTORS = 10_240
"""The highest limit that macOS allows if the hard limit is infinite."""
OWN_DESCRIPTORS = 32
"""Reserved for the journal, reports to the coordinator, name resolution and the start of a process."""
SIXTEENTHS = 16
GATEWAY_SHARE, MCP_SHARE, PASSED_ON_SHARE, BUNDLED_COORDINATOR_SHARE = 2, 1, 2, 3
"""Shares of the connections in sixteenths of all descriptors: from executors to the gateway and to the MCP server, from
the runner to the coordinator for calls that these two forward, and to a bundled coordinator."""
COORDINATOR_SHARE = 8
"""The share of a coordinator that is a process of its own (`fsm-runner coordinator`)."""
LEAST_SHARE = 4
LOW_NUMBERS = 16
"""How many descriptor numbers below the original limit must be free to start a process under that limit."""


class OpenFiles:
    """The limit of this process. Call `raise_limit` once, before any other process is started."""

    def __init__(self) -> None:
        self._inherited: int | None = None
        """The soft limit of child processes; None: the same as that of this process."""

    @property
    def limit(self) -> int:
        """The number of descriptors that this process may open."""
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        return MOST_DESCRIPTORS if soft == resource.RLIM_INFINITY else soft

    @property
    def in_use(self) -> int:
        """The number of open descriptors."""
        try:
            if sys.platform == "linux" and (size := os.stat("/proc/self/fd").st_size):  # noqa: PTH116 - called often
                return size  # since Linux 6.2 the number of its entries
            return len(os.listdir("/dev/fd")) - 1  # noqa: PTH208 - called often; listing it opens one more
        except OSError:  # none is left
            return self.limit

    @property
    def for_runs(self) -> int:
        """The number of open descriptors up to which a further run may be claimed."""
        return self.limit // 2 - OWN_DESCRIPTORS

    def share(self, most: int, sixteenths: int) -> int:
        """Return the number of connections that a part of the program may have: its share, but at most `most`."""
        return min(most, max(LEAST_SHARE, self.limit * sixteenths // SIXTEENTHS))

    def raise_limit(self) -> None:
        """Raise the soft limit to the hard one, for this process only."""
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft == resource.RLIM_INFINITY:
            return
        most = MOST_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, MOST_DESCRIPTORS)
        for wanted in (most, min(most, PORTABLE_DESCRIPTORS)):
            if wanted > soft:
                with suppress(OSError, ValueError):
                    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
                    self._inherited = soft
                    return

    @contextmanager
    def inherited(self) -> Iterator[list[str]]:
        """Start a process with the original soft limit inside this context, with the yielded words before its command.

        Usually there are no words, and the limit of this process is lowered until the context ends. If too few low
        descriptor numbers are free for that, the words start a shell that lowers its own limit and then executes the
        command. Raises OSError if no descriptor is left.
        """
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if self._inherited is None or self._inherited >= soft:
            yield []
        elif _are_low_numbers_free(self._inherited):
            resource.setrlimit(resource.RLIMIT_NOFILE, (self._inherited, hard))
            try:
                yield []
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        else:
            yield shell_prefix(f"ulimit -S -n {self._inherited}")


def shell_prefix(*settings: str) -> list[str]:
    """The words before a command by which a shell changes its settings and then executes the command in its place."""
    return ["/bin/sh", "-c", " && ".join([*settings, 'exec "$@"']), "sh"]


def _are_low_numbers_free(limit: int) -> bool:
    """Return True if (most of) the `LOW_NUMBERS` descriptor numbers below the limit are free.

    The system assigns the lowest free number. So if the first of them is free, few of the others can be taken.
    """
    first = limit - min(LOW_NUMBERS, limit // 2)
    descriptor = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    try:
        lowest = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, first)
        os.close(lowest)
    finally:
        os.close(descriptor)
    return lowest == first


OPEN_FILES = OpenFiles()
"""The only instance, because the limit belongs to the process."""
