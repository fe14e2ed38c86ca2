"""Reserves standard input and output for the protocol."""

from __future__ import annotations

import fcntl
import os
import sys
from collections.abc import Callable

from fsm_executor.errors import ExecutorError

_STDIN, _STDOUT, _STDERR = 0, 1, 2


def claim_stdin() -> Callable[[int], bytes]:
    """Return a function that reads standard input, and make descriptor 0 empty, so that no child consumes a turn."""
    own = os.dup(_STDIN)
    _redirect(os.open(os.devnull, os.O_RDONLY), _STDIN)
    return lambda size_bytes: os.read(own, size_bytes)


def claim_stdout() -> Callable[[str], None]:
    """Return a function that writes a line to standard output, and redirect descriptor 1 to stderr.

    So the output of `print` and of children does not mix with the lines of the protocol. The returned function raises
    `ExecutorError` if the write fails. Raises `ExecutorError` if the parent closed standard output.
    """
    if fcntl.fcntl(_STDOUT, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
        raise ExecutorError("standard output is closed: a runner reads the end of each turn there")
    own = os.dup(_STDOUT)
    os.dup2(_STDERR, _STDOUT)
    if sys.stdout is not None:
        # The declared type TextIO lacks `reconfigure`, but the interpreter's stdout has it.
        sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    return lambda line: _write(own, line.encode() + b"\n")


def print_line(line: str) -> None:
    """Write a line to standard output, unbuffered. Raises `ExecutorError` if that fails."""
    _write(_STDOUT, line.encode() + b"\n")


def _redirect(source: int, target: int) -> None:
    os.dup2(source, target)
    os.close(source)


def _write(descriptor: int, data: bytes) -> None:
    """Raises `ExecutorError`, for example if the reader has closed the pipe."""
    rest = memoryview(data)
    try:
        while rest:
            rest = rest[os.write(descriptor, rest) :]
    except OSError as fault:
        raise ExecutorError(f"standard output cannot be written to: {fault.strerror}") from fault
