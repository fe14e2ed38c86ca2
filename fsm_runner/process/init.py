"""Acts as init if this program is process 1 of a container, and hides the memory of this program.

Process 1 has to reap every orphan of the container, and the kernel discards each signal for which process 1 has no
handler yet. So process 1 forks: the program runs in the child, and process 1 only reaps orphans and forwards signals.
"""

import os
import signal
import sys
from contextlib import suppress

_PR_SET_DUMPABLE = 4


def fork_if_process_1() -> None:
    """If this is process 1, fork and return in the child. Process 1 exits with the exit code of the child.

    Call it before any other process is started and before signals are unblocked. If the fork fails, the program
    continues as process 1.
    """
    if os.getpid() != 1:
        return
    # A blocked signal stays pending, even if process 1 would discard it otherwise.
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    child = 0
    with suppress(OSError):
        child = os.fork()
        if child == 0:
            # Let Ctrl-C reach only this process: process 1 would forward the signal and so deliver it a second time.
            # Raises OSError if there is no terminal.
            os.setpgid(0, 0)
            os.tcsetpgrp(0, os.getpgrp())
    if child == 0:
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        return
    # Like the program, this process has credentials in its environment.
    hide_memory()
    os._exit(_exit_code_of(child))


def hide_memory() -> None:
    """Make `/proc/PID/environ` and `mem` readable for root only, and forbid debuggers and core dumps (Linux).

    Child processes are not hidden.
    """
    if sys.platform == "linux":
        import ctypes  # the slowest import of process 1 of a container

        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def _exit_code_of(child: int) -> int:
    """Reap orphans and forward signals until the child has ended. Return its exit code, or 128 + N after signal N."""
    while True:
        number = signal.sigwait(signal.valid_signals())
        if number != signal.SIGCHLD:
            with suppress(ProcessLookupError):
                os.kill(child, number)
            continue
        pid = -1
        while pid != 0:  # until no other child has ended
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == child:
                code = os.waitstatus_to_exitcode(status)
                return code if code >= 0 else 128 - code
