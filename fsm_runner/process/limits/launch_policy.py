"""How a child is started: its limits, its user and its priority."""

import math
import os
import resource
import sys
from contextlib import suppress

import msgspec
from loguru import logger

from fsm_runner.process.limits.limits import NO_LIMITS, ResourceLimits
from fsm_runner.process.limits.open_files import shell_prefix
from fsm_runner.process.user import CAP_SYS_PTRACE, RunUser, lacks_capability

CPU_SLACK = 1.25
CPU_SLACK_S = 1
"""The kernel's CPU limit exceeds the measured one by this factor and time. It counts clock ticks, which on a busy
machine can be an eighth more than the time used. So a process that it kills has exceeded the measured limit too."""
CPU_KILL_S = 5
"""CPU time from SIGXCPU, which a process may ignore, to SIGKILL."""
LOWERED_BY = 5
"""Steps of the nice value. When processors are short, each step gives the runner about a quarter more CPU time, so five
steps give it three times as much. When a processor is free, executors lose nothing."""


class LaunchPolicy(msgspec.Struct, frozen=True):
    limits: ResourceLimits = NO_LIMITS
    user: RunUser | None = None
    """None: this process's user."""

    def warn_of_imprecise_limits(self) -> None:
        """Log a warning if this system, or a lack of permissions, makes a limit less precise."""
        if self.limits.memory_bytes is None:
            return
        if sys.platform != "linux" or (self.user is not None and lacks_capability(CAP_SYS_PTRACE)):
            logger.warning(
                "shared memory counts once for each process: measuring it needs Linux, and CAP_SYS_PTRACE if executors "
                "run as another user"
            )

    @property
    def exec_prefix(self) -> list[str]:
        """The words before a command that start a shell, which sets the kernel's limits and executes it. May be empty.

        So the command never runs without its limits, as it would if the parent set them after the start. Between fork
        and exec, Python could only set them in a `preexec_fn`, which may deadlock. Root can raise its limits.

        The kernel does not limit memory: RLIMIT_AS counts address space, of which Node.js, Go and others reserve far
        more than they use, and RLIMIT_DATA counts unused stacks and heaps; a program within its limit would fail, and
        not say why. Nor does it limit processes: RLIMIT_NPROC counts all processes of a user, and none of root's.
        """
        settings = []
        if self.limits.open_files is not None:
            settings += _ulimits(resource.RLIMIT_NOFILE, "n", self.limits.open_files, self.limits.open_files)
        if self.limits.cpu_s is not None:
            soft_s = math.ceil(self.limits.cpu_s * CPU_SLACK) + CPU_SLACK_S
            settings += _ulimits(resource.RLIMIT_CPU, "t", soft_s, soft_s + CPU_KILL_S)
        return shell_prefix(*settings) if settings else []


DEFAULT_LAUNCH_POLICY = LaunchPolicy()


def _ulimits(number: int, letter: str, soft: int, hard: int) -> list[str]:
    """The shell commands for one limit. Root could set a higher one than this process has; they never raise it."""
    _, most = resource.getrlimit(number)
    if most != resource.RLIM_INFINITY:
        soft, hard = min(soft, most), min(hard, most)
    return [f"ulimit -S -{letter} {soft}", f"ulimit -H -{letter} {hard}"]


def lower_priority(group: int) -> None:
    """Lower the priority of a process group that was just started, so that busy executors do not slow the runner.

    Its later children inherit it. The runner cannot raise its own priority without permissions that a container seldom
    has. Executors of another user keep their priority if the runner lacks CAP_SYS_NICE.
    """
    with suppress(OSError):  # it has ended, or its priority may not be changed
        own = os.getpriority(os.PRIO_PROCESS, 0)
        os.setpriority(os.PRIO_PGRP, group, min(own + LOWERED_BY, 19))  # 19 is the lowest priority
