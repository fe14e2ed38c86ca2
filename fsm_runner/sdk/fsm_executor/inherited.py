"""Normalizes the state that an executor inherits from its parent: standard streams and signals."""

from __future__ import annotations

import os
import signal
import sys

_STDIN, _STDOUT, _STDERR = 0, 1, 2

_NEVER_IGNORED = (signal.SIGCHLD, signal.SIGTERM)
"""If SIGCHLD is ignored, the exit codes of children are lost. A runner stops executors with SIGTERM."""


def normalize() -> None:
    """Open descriptors 0 to 2 if they are closed, so that no socket gets one of them, and unblock all signals.

    Afterwards a closed standard input is empty, a closed standard error discards its output, and writing to a closed
    standard output fails.
    """
    for descriptor, mode in ((_STDIN, os.O_RDONLY), (_STDOUT, os.O_RDONLY), (_STDERR, os.O_WRONLY)):
        if _is_closed(descriptor):
            os.set_inheritable(os.open(os.devnull, mode), True)
    sys.stdout = sys.stdout or open(_STDOUT, "w", closefd=False)  # noqa: SIM115 - open as long as the program runs
    sys.stderr = sys.stderr or open(_STDERR, "w", closefd=False)  # noqa: SIM115
    for number in _NEVER_IGNORED:
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _is_closed(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return True
    return False
