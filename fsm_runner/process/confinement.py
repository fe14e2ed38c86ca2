"""What a child is held to: limits, and the user that it is started as."""

import math
import resource

import msgspec
from loguru import logger

from fsm_runner.process.limits import NO_LIMITS, ResourceLimits
from fsm_runner.process.user import RunUser, warn_of_missing_rights

CPU_SLACK_S = 1
"""The kernel's own limit lies so much above the one that is watched, so that whoever it ends has exceeded that one."""
CPU_KILL_S = 5
"""From SIGXCPU, which a process may ignore, to SIGKILL; in CPU time."""


class Confinement(msgspec.Struct, frozen=True):
    limits: ResourceLimits = NO_LIMITS
    user: RunUser | None = None
    """None: that of this process."""

    def tell_what_is_lost(self) -> None:
        """In the log, where this system or the runner's rights fall short of what is asked for."""
        if self.user is not None:
            warn_of_missing_rights(self.user, limits_files=self.limits.open_files is not None)
        if not hasattr(resource, "prlimit") and (self.limits.open_files is not None or self.limits.cpu_s is not None):
            logger.warning(
                "this system cannot set limits of a process that was started: open files are not limited, and a "
                "process that uses too much CPU time is ended when it is looked at, twice a second"
            )

    def set_kernel_limits(self, pid: int) -> None:
        """Of a child that was started just now, and of what it starts from now on.

        What it has started before this call has them not; that is a matter of microseconds, and setting them between
        fork and exec would take a `preexec_fn`, which may deadlock. Where the process is root's it can raise them.

        There is none of memory: RLIMIT_AS counts address space, of which Node.js, Go and others reserve far more than
        they use, and RLIMIT_DATA the stacks and heaps of all threads, used or not; either makes a program fail that
        is within its limit, in words that do not say so. There is none of processes: RLIMIT_NPROC counts all of a
        user's, of whatever run, and none of root's.
        """
        if self.limits.open_files is not None:
            _set(pid, "RLIMIT_NOFILE", self.limits.open_files, self.limits.open_files)
        if self.limits.cpu_s is not None:
            soft_s = math.ceil(self.limits.cpu_s) + CPU_SLACK_S
            _set(pid, "RLIMIT_CPU", soft_s, soft_s + CPU_KILL_S)


UNCONFINED = Confinement()


def _set(pid: int, name: str, soft: int, hard: int) -> None:
    """Never more than it has already."""
    if not hasattr(resource, "prlimit"):
        return
    number = getattr(resource, name)
    try:
        most = resource.prlimit(pid, number)[1]
        if most != resource.RLIM_INFINITY:
            soft, hard = min(soft, most), min(hard, most)
        resource.prlimit(pid, number, (soft, hard))
    except ProcessLookupError:
        return
    except OSError as fault:  # a setuid program; another user's, in a container without CAP_SYS_RESOURCE
        logger.warning("process {} goes without {}: {}", pid, name, fault.strerror)
