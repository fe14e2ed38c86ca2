"""Takes the exit status of a child that has exited; only then can its process id be given away."""

import os
import signal
import subprocess

import msgspec

LOST_STATUS_CODE = 255
"""The exit code of a child whose status the kernel threw away, because SIGCHLD is ignored in this process."""
SIGNAL_CODE_BASE = 128
"""A process that signal N killed has the exit code 128 + N, as in a shell."""


class Reaped(msgspec.Struct, frozen=True):
    code: int
    """As a shell says it: 128 + the signal's number for a death by signal."""
    signal: str | None = None
    cpu_s: float = 0.0
    """CPU time that it has used, with those that it has waited for."""


def reap(process: "subprocess.Popen[bytes]") -> Reaped:
    """Waits where it has not exited yet. Tells `Popen` too, which would warn of a child it has not seen end."""
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
