"""Errors that end an executor with a line `Error: …` on stderr, and the exit codes of executors."""

from __future__ import annotations

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130


class ExecutorError(Exception):
    """Fails the run with this message, without a traceback. Executors can raise it to fail with a reason."""


class ProtocolError(ExecutorError):
    """The standard input violates the protocol (section 2)."""


class GatewayError(ExecutorError):
    """The gateway could not be reached, or rejected a message."""

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        """The HTTP status; None if there was no response."""
