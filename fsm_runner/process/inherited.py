"""Normalizes the state that a program inherits from its parent: standard streams and signals.

A parent can close descriptors 0 to 2 and ignore or block signals, and all of that survives `exec`.
"""

import errno
import io
import os
import select
import signal
import sys
from types import FrameType
from typing import TextIO

_STDIN, _STDOUT, _STDERR = 0, 1, 2

_RESET_IN_CHILDREN = frozenset({signal.SIGPIPE, signal.SIGXFSZ})
"""Python ignores these, and `subprocess` restores their default in each child."""
_JOB_CONTROL = frozenset({signal.SIGTTIN, signal.SIGTTOU})
"""These stay ignored: with a handler, a read or write of the terminal by a background job would be restarted forever.
Children cannot receive them, because each child has a session of its own, without a terminal."""
_NEVER_IGNORED = frozenset({signal.SIGCHLD, signal.SIGTERM})
"""The kernel discards the exit codes of children while SIGCHLD is ignored. SIGTERM must always end the program."""


def normalize_streams() -> None:
    """Open those of descriptors 0 to 2 that are closed, so that no socket and no database file gets one of them.

    A closed standard input is empty afterwards, a closed standard error discards its output, and a write to a closed
    standard output fails, because a result that cannot be delivered is an error. A write to standard error never fails,
    not even on a full disk, because a message that cannot be shown must not end a command.
    """
    # In ascending order: the system gives out the lowest free descriptor.
    for descriptor, mode in ((_STDIN, os.O_RDONLY), (_STDOUT, os.O_RDONLY), (_STDERR, os.O_WRONLY)):
        try:
            os.fstat(descriptor)
        except OSError:  # it is closed
            os.set_inheritable(os.open(os.devnull, mode), True)
    sys.stdin = sys.stdin or open(_STDIN, closefd=False)  # noqa: SIM115 - open as long as the program runs
    sys.stdout = _text_stream(_Results(_STDOUT, "w", closefd=False), sys.stdout)
    sys.stderr = _text_stream(_Diagnostics(_STDERR, "w", closefd=False), sys.stderr)


class _Results(io.FileIO):
    """Standard output. Its errors name the stream. On a non-blocking descriptor, a write waits until it is possible."""

    # The type of the parameter, `ReadableBuffer`, exists for type checkers alone.
    def write(self, content: "bytes | bytearray | memoryview", /) -> int:  # type: ignore[override]
        try:
            while (written := super().write(content)) is None:
                select.select([], [self], [])
        except OSError as fault:
            reason = "it is closed" if fault.errno == errno.EBADF else fault.strerror
            raise OSError(fault.errno, reason, "standard output") from fault
        return written


class _Diagnostics(io.FileIO):
    """Standard error. Drops output that cannot be written, for example because of a full disk or a closed pipe."""

    # See `_Results.write`.
    def write(self, content: "bytes | bytearray | memoryview", /) -> int:  # type: ignore[override]
        try:
            return super().write(content) or len(content)
        except OSError:
            return len(content)


def _text_stream(raw: io.FileIO, inherited: TextIO | None) -> io.TextIOWrapper:
    """Return a text stream with the settings of the interpreter's own stream (PYTHONIOENCODING, line buffering)."""
    buffer = io.BufferedWriter(raw)
    if inherited is None:
        return io.TextIOWrapper(buffer, errors="backslashreplace")
    return io.TextIOWrapper(buffer, inherited.encoding, inherited.errors, line_buffering=bool(inherited.line_buffering))


def normalize_signals() -> None:
    """Unblock all signals, and still ignore those that the parent ignored, but do not let children inherit that.

    `nohup` ignores SIGHUP, and a shell ignores SIGINT for its background jobs: these stay ignored. They get a handler
    that does nothing. `exec` resets handlers but not ignored signals, so children start with default actions.
    """
    for number in signal.valid_signals():
        if signal.getsignal(number) is signal.SIG_IGN and number not in _RESET_IN_CHILDREN | _JOB_CONTROL:
            signal.signal(number, signal.SIG_DFL if number in _NEVER_IGNORED else _ignore)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def is_ignored(number: signal.Signals) -> bool:
    """Return True if the parent ignored this signal, so that the program has to ignore it too."""
    return signal.getsignal(number) in (signal.SIG_IGN, _ignore)


def _ignore(number: int, frame: FrameType | None) -> None:
    pass
