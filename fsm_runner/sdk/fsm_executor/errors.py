"""What ends an executor with exit code 1 and a line on stderr that begins with `Error: `."""

from __future__ import annotations


class ExecutorError(Exception):
    """Its text is the run's error, shown without a traceback. An executor raises it too, to fail with a reason."""


class ProtocolError(ExecutorError):
    """What came on standard input is not what the protocol says (section 2)."""


class GatewayError(ExecutorError):
    """The gateway could not be reached, or did not accept what it was told."""

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        """Of HTTP; None where there was no answer."""
