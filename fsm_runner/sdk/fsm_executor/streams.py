"""Standard input and output, kept apart for the protocol."""

from __future__ import annotations

import fcntl
import os
import sys
from collections.abc import Callable

from fsm_executor.errors import ExecutorError

_STDIN, _STDOUT, _STDERR = 0, 1, 2


def claim_stdin() -> Callable[[int], bytes]:
    """What reads it. From now on descriptor 0 is empty, so that no child of the executor takes a turn away."""
    own = os.dup(_STDIN)
    _redirect(os.open(os.devnull, os.O_RDONLY), _STDIN)
    return lambda size_bytes: os.read(own, size_bytes)


def claim_stdout() -> Callable[[str], None]:
    """What writes a line to it. From now on descriptor 1 is stderr.

    So neither a `print` nor what a child writes gets between the lines of the protocol.
    Raises `ExecutorError` where it was closed by the parent, or cannot be written to.
    """
    if fcntl.fcntl(_STDOUT, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
        raise ExecutorError("standard output is closed: a runner reads the end of each turn there")
    own = os.dup(_STDOUT)
    os.dup2(_STDERR, _STDOUT)
    if sys.stdout is not None:
        # A TextIO to the type checker, which knows no `reconfigure`; the interpreter's own stdout has it.
        sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    return lambda line: _write(own, line.encode() + b"\n")


def print_line(line: str) -> None:
    """On standard output, unbuffered. Raises `ExecutorError` where it cannot be written to."""
    _write(_STDOUT, line.encode() + b"\n")


def _redirect(source: int, target: int) -> None:
    os.dup2(source, target)
    os.close(source)


def _write(descriptor: int, data: bytes) -> None:
    """Raises `ExecutorError` where nobody reads any more."""
    rest = memoryview(data)
    try:
        while rest:
            rest = rest[os.write(descriptor, rest) :]
    except OSError as fault:
        raise ExecutorError(f"standard output cannot be written to: {fault.strerror}") from fault
