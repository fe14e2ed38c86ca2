"""What a child is held to: limits, and the user that it is started as."""

import math
import resource
import sys
from collections.abc import Sequence

import msgspec
from loguru import logger

from fsm_runner.process.limits import NO_LIMITS, ResourceLimits
from fsm_runner.process.user import CAP_SYS_PTRACE, CAP_SYS_RESOURCE, RunUser, lacks_capability

CPU_SLACK = 1.25
CPU_SLACK_S = 1
"""The kernel's own limit lies so much above the one that is watched, so that whoever it ends has exceeded that one: it
counts by the ticks of its clock, which on a busy machine can be an eighth more than what was used."""
CPU_KILL_S = 5
"""From SIGXCPU, which a process may ignore, to SIGKILL; in CPU time."""
_SHELL = "/bin/sh"


class Confinement(msgspec.Struct, frozen=True):
    limits: ResourceLimits = NO_LIMITS
    user: RunUser | None = None
    """None: that of this process."""

    def tell_what_is_lost(self) -> None:
        """In the log, where this system or the runner's rights fall short of what is asked for."""
        if self.limits.memory_bytes is None:
            return
        if sys.platform != "linux" or (self.user is not None and lacks_capability(CAP_SYS_PTRACE)):
            logger.warning(
                "what processes share cannot be told here (it takes Linux, and CAP_SYS_PTRACE where executors have a "
                "user of their own): it counts as memory of each of them"
            )

    def command(self, command: Sequence[str]) -> Sequence[str]:
        """What is to be started in place of `command`: itself, or a shell that sets the kernel's limits and becomes it.

        Only where they cannot be set from here, for then it is the shell that says what is wrong with a command.
        """
        if not self._limits_itself:
            return command
        lines = [
            f"ulimit -{which} -{letter} {value}"
            for _, letter, soft, hard in self._kernel_limits
            for which, value in (("S", soft), ("H", hard))
        ]
        # Where there is less already it is left as it is.
        script = "; ".join(f"{line} 2>/dev/null" for line in lines)
        return [_SHELL, "-c", f'{script}; exec "$@"', "sh", *command]

    def set_kernel_limits(self, pid: int) -> None:
        """Of a child that was started just now, and of what it starts from now on.

        What it has started before this call has them not; that is a matter of microseconds, and setting them between
        fork and exec would take a `preexec_fn`, which may deadlock. Where the process is root's it can raise them.

        There is none of memory: RLIMIT_AS counts address space, of which Node.js, Go and others reserve far more than
        they use, and RLIMIT_DATA the stacks and heaps of all threads, used or not; either makes a program fail that
        is within its limit, in words that do not say so. There is none of processes: RLIMIT_NPROC counts all of a
        user's, of whatever run, and none of root's.
        """
        if not self._limits_itself:
            for name, _, soft, hard in self._kernel_limits:
                _set(pid, name, soft, hard)

    @property
    def _kernel_limits(self) -> list[tuple[str, str, int, int]]:
        """Name, letter in the shell, the limit that counts, and how far a process may raise it."""
        found = []
        if self.limits.open_files is not None:
            found.append(("RLIMIT_NOFILE", "n", self.limits.open_files, self.limits.open_files))
        if self.limits.cpu_s is not None:
            soft_s = math.ceil(self.limits.cpu_s * CPU_SLACK) + CPU_SLACK_S
            found.append(("RLIMIT_CPU", "t", soft_s, soft_s + CPU_KILL_S))
        return found

    @property
    def _limits_itself(self) -> bool:
        """On macOS, and where we have not all of root's rights: then another user's limits are not ours to set."""
        if not self._kernel_limits:
            return False
        return not hasattr(resource, "prlimit") or (self.user is not None and lacks_capability(CAP_SYS_RESOURCE))


UNCONFINED = Confinement()


def _set(pid: int, name: str, soft: int, hard: int) -> None:
    """Never more than it has already."""
    number = getattr(resource, name)
    try:
        most = resource.prlimit(pid, number)[1]
        if most != resource.RLIM_INFINITY:
            soft, hard = min(soft, most), min(hard, most)
        resource.prlimit(pid, number, (soft, hard))
    except ProcessLookupError:
        return
    except OSError as fault:  # as a rule a setuid program
        logger.warning("process {} goes without {}: {}", pid, name, fault.strerror)
