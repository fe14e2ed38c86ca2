"""The first process of a container, where the container has no init of its own.

The kernel gives process 1 every orphan of the container, which it has to reap, and discards each signal for which
process 1 has no handler yet. So the program goes on as a child, as any other process, and process 1 does nothing but
reap orphans and pass signals on.
"""

import contextlib
import os
import signal

from fsm_runner.process.hidden import hide_memory


def go_on_below_init() -> None:
    """Where this is process 1, return in a child of it, and end process 1 with the exit code of that child.

    To be called first: nothing may be started, and no signal unblocked, before. Without a process to spare the program
    goes on as process 1.
    """
    if os.getpid() != 1:
        return
    # Blocked signals wait, also those that process 1 would discard.
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        child = os.fork()
    except OSError:
        child = 0
    else:
        if child == 0:
            _take_terminal()
    if child == 0:
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        return
    # This process has the same credentials in its environment as the program.
    hide_memory()
    os._exit(_exit_code_of(child))


def _take_terminal() -> None:
    """Ctrl-C is for this process alone: the one that passes signals on must not pass it on once more."""
    with contextlib.suppress(OSError):  # process 1 leads no session: it has no terminal
        os.setpgid(0, 0)
        os.tcsetpgrp(0, os.getpgrp())


def _exit_code_of(child: int) -> int:
    """Reap and pass on until the child has ended. Its exit code as a shell has it: 128 + the number of a signal."""
    while True:
        number = signal.sigwait(signal.valid_signals())
        if number != signal.SIGCHLD:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, number)
            continue
        for pid, status in iter(_reaped, None):
            if pid == child:
                code = os.waitstatus_to_exitcode(status)
                return code if code >= 0 else 128 - code


def _reaped() -> tuple[int, int] | None:
    """The id and the status of a child that has ended; None where there is none."""
    try:
        pid, status = os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        return None
    return (pid, status) if pid else None
