"""What the program says of itself: lines on stderr."""

import logging
import os
import sys
from typing import TYPE_CHECKING

from loguru import logger

from fsm_runner.diagnostics.redaction import Redactor
from fsm_runner.util.text import escaped

if TYPE_CHECKING:
    from loguru import Record

MESSAGE_LIMIT_CHARS = 8_000
"""The longest message; what is left out stands in a report or in the journal."""

_FORMAT = "<dim>{time:HH:mm:ss.SSS}</dim> <level>{level: <7}</level> {message}"
_FORMAT_WITH_DATE = "{time:YYYY-MM-DDTHH:mm:ss.SSSZ} {level: <7} {message}"


def configure_logs(redactor: Redactor, *, verbose: bool, quiet: bool = False) -> None:
    """INFO and above; `verbose`: everything; `quiet`: warnings and errors alone. Secrets are not shown."""
    logger.remove()
    logger.configure(patcher=lambda record: _make_plain(record, redactor))
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
    logging.basicConfig(handlers=[_OfLibraries()], level=logging.WARNING, force=True)


class _OfLibraries(logging.Handler):
    """Brings what libraries say into this log, where secrets are hidden and control characters written out.

    Their warnings are about what callers have sent, as often as those like to: they are for who looks for details.
    """

    def emit(self, record: logging.LogRecord) -> None:
        level = "ERROR" if record.levelno >= logging.ERROR else "DEBUG"
        logger.opt(exception=record.exc_info).log(level, "{}: {}", record.name, record.getMessage())


def _make_plain(record: "Record", redactor: Redactor) -> None:
    """What others have written stands in messages, such as the names of runs: it controls no terminal, and no line of
    it looks like the beginning of another message."""
    # Before it is cut: half of a secret would not be known for one.
    text = redactor.text(record["message"])
    if len(text) > MESSAGE_LIMIT_CHARS:
        text = f"{text[:MESSAGE_LIMIT_CHARS]}… ({len(text) - MESSAGE_LIMIT_CHARS:,} more characters)"
    record["message"] = escaped(text).replace("\n", "\n    ")


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
