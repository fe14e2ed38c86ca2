"""What a child is held to: limits, and the user that it is started as."""

import math
import resource
import sys

import msgspec
from loguru import logger

from fsm_runner.process.limits.limits import NO_LIMITS, ResourceLimits
from fsm_runner.process.user import CAP_SYS_PTRACE, RunUser, lacks_capability

CPU_SLACK = 1.25
CPU_SLACK_S = 1
"""The kernel's own limit lies so much above the one that is watched, so that whoever it ends has exceeded that one: it
counts by the ticks of its clock, which on a busy machine can be an eighth more than what was used."""
CPU_KILL_S = 5
"""From SIGXCPU, which a process may ignore, to SIGKILL; in CPU time."""
_SHELL = "/bin/sh"


class LaunchPolicy(msgspec.Struct, frozen=True):
    limits: ResourceLimits = NO_LIMITS
    user: RunUser | None = None
    """None: that of this process."""

    def warn_of_imprecise_limits(self) -> None:
        """In the log, where this system or the runner's rights fall short of what is asked for."""
        if self.limits.memory_bytes is None:
            return
        if sys.platform != "linux" or (self.user is not None and lacks_capability(CAP_SYS_PTRACE)):
            logger.warning(
                "what processes share cannot be told here (it takes Linux, and CAP_SYS_PTRACE where executors have a "
                "user of their own): it counts as memory of each of them"
            )

    @property
    def exec_prefix(self) -> list[str]:
        """What is put before a command: a shell that sets the kernel's limits and becomes the command. May be empty.

        So nothing of the command has ever run without them, which a parent that sets them after the start cannot say;
        between fork and exec Python can do it in a `preexec_fn` alone, which may deadlock. Where a process is root's it
        can raise them.

        There is none of memory: RLIMIT_AS counts address space, of which Node.js, Go and others reserve far more than
        they use, and RLIMIT_DATA the stacks and heaps of all threads, used or not; either makes a program fail that
        is within its limit, in words that do not say so. There is none of processes: RLIMIT_NPROC counts all of a
        user's, of whatever run, and none of root's.
        """
        settings = [
            f"ulimit -{which} -{letter} {_at_most_as_now(number, value)}"
            for number, letter, soft, hard in self._kernel_limits
            for which, value in (("S", soft), ("H", hard))
        ]
        return [_SHELL, "-c", " && ".join([*settings, 'exec "$@"']), "sh"] if settings else []

    @property
    def _kernel_limits(self) -> list[tuple[int, str, int, int]]:
        """Number, letter in the shell, the limit that counts, and how far a process may raise it."""
        found = []
        if self.limits.open_files is not None:
            found.append((resource.RLIMIT_NOFILE, "n", self.limits.open_files, self.limits.open_files))
        if self.limits.cpu_s is not None:
            soft_s = math.ceil(self.limits.cpu_s * CPU_SLACK) + CPU_SLACK_S
            found.append((resource.RLIMIT_CPU, "t", soft_s, soft_s + CPU_KILL_S))
        return found


DEFAULT_LAUNCH_POLICY = LaunchPolicy()


def _at_most_as_now(number: int, value: int) -> int:
    """Root could set more than this process has, but is to be limited and not freed."""
    _, most = resource.getrlimit(number)
    return value if most == resource.RLIM_INFINITY else min(value, most)
