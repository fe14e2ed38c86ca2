"""What the program says of itself: lines on stderr."""

import os
import sys

from loguru import logger

from fsm_runner.redaction import Redactor

_FORMAT = "<dim>{time:HH:mm:ss.SSS}</dim> <level>{level: <7}</level> {message}"
_FORMAT_WITH_DATE = "{time:YYYY-MM-DDTHH:mm:ss.SSSZ} {level: <7} {message}"


def configure_logs(redactor: Redactor, *, verbose: bool, quiet: bool = False) -> None:
    """INFO and above; `verbose`: everything; `quiet`: warnings and errors alone. Secrets are not shown."""
    logger.remove()
    if sys.stderr is None:  # closed by whoever started the program
        return
    level = "DEBUG" if verbose else "WARNING" if quiet else "INFO"
    sink = LogSink(sys.stderr.fileno(), redactor)
    logger.add(
        sink,
        level=level,
        format=_FORMAT if sink.isatty() else _FORMAT_WITH_DATE,
        # A traceback with the values of variables would show parameters and credentials.
        diagnose=False,
        backtrace=False,
    )


class LogSink:
    """Writes lines to a descriptor. Never raises: a log that takes none (a full disk, a reader that has gone) is no
    reason for the program to end. What it did not take is counted, and the count is written when it takes lines again.

    Nothing is buffered: what is left in a buffer would be tried again, and fail again, at the program's exit.
    """

    def __init__(self, descriptor: int, redactor: Redactor) -> None:
        self._descriptor = descriptor
        self._redactor = redactor
        self._lost_lines = 0
        self._why = ""
        self._is_cut = False
        """Whether the last line ends in its middle."""

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)

    def write(self, text: str) -> None:
        try:
            if self._lost_lines:
                self._put(f"… {self._lost_lines:,} lines of this log could not be written: {self._why} …\n")
                self._lost_lines = 0
            self._put(self._redactor.text(text))
        except OSError as fault:
            self._lost_lines += 1
            self._why = fault.strerror or str(fault)

    def _put(self, text: str) -> None:
        left = memoryview((f"\n{text}" if self._is_cut else text).encode("utf-8", "backslashreplace"))
        while left:
            written = os.write(self._descriptor, left)
            self._is_cut = written < len(left)
            left = left[written:]
