"""Reaps a child that has exited. Only then can its process id be reused."""

import os
import signal
import subprocess

import msgspec

LOST_STATUS_CODE = 255
"""The exit code of a child whose status the kernel dropped because this process ignores SIGCHLD."""
SIGNAL_CODE_BASE = 128
"""A process that signal N killed has the exit code 128 + N, as in a shell."""


class Reaped(msgspec.Struct, frozen=True):
    code: int
    """128 + N if signal N killed it."""
    signal: str | None = None
    cpu_s: float = 0.0
    """CPU time of the process and of the processes that it has waited for."""


def reap(process: "subprocess.Popen[bytes]") -> Reaped:
    """Wait for the exit, reap the child, and set `returncode`, without which `Popen` would warn."""
    try:
        _, status, used = os.wait4(process.pid, 0)
    except ChildProcessError:
        process.returncode = LOST_STATUS_CODE
        return Reaped(LOST_STATUS_CODE)
    cpu_s = used.ru_utime + used.ru_stime
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode >= 0:
        return Reaped(process.returncode, cpu_s=cpu_s)
    number = -process.returncode
    return Reaped(SIGNAL_CODE_BASE + number, signal_name(number), cpu_s)


def signal_name(number: int) -> str:
    """The name of a signal, such as SIGKILL."""
    try:
        return signal.Signals(number).name
    except ValueError:  # a realtime signal
        return f"signal {number}"
