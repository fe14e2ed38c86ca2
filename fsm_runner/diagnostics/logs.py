"""The log of the program: lines on stderr, without secrets."""

import asyncio
import logging
import math
import os
import sys
from typing import TYPE_CHECKING

from loguru import logger

from fsm_runner.diagnostics.redaction import Redactor
from fsm_runner.util.text import escaped

if TYPE_CHECKING:
    from loguru import Record

MESSAGE_LIMIT_CHARS = 8_000
"""The longest message. The whole text of an error is in the report and in the journal."""

_FORMAT = "<dim>{time:HH:mm:ss.SSS}</dim> <level>{level: <7}</level> {message}"
_FORMAT_WITH_DATE = "{time:YYYY-MM-DDTHH:mm:ss.SSSZ} {level: <7} {message}"


def configure_logs(redactor: Redactor, *, verbose: bool, quiet: bool = False) -> None:
    """Log INFO and above; with `verbose` all levels; with `quiet` only warnings and errors."""
    logger.remove()
    logger.configure(patcher=lambda record: _sanitize(record, redactor))
    level = "DEBUG" if verbose else "WARNING" if quiet else "INFO"
    sink = LogSink(sys.stderr.fileno(), redactor)
    form = _FORMAT if sink.isatty() else _FORMAT_WITH_DATE
    # With `diagnose`, a traceback would show the values of variables, such as parameters and credentials.
    logger.add(sink, level=level, format=form, diagnose=False, backtrace=False)
    logging.basicConfig(handlers=[_LibraryHandler()], level=logging.WARNING, force=True)


class _LibraryHandler(logging.Handler):
    """Passes messages of libraries to this log: warnings as DEBUG, because callers can cause any number of them."""

    def emit(self, record: logging.LogRecord) -> None:
        level = "ERROR" if record.levelno >= logging.ERROR else "DEBUG"
        logger.opt(exception=record.exc_info).log(level, "{}: {}", record.name, record.getMessage())


def _sanitize(record: "Record", redactor: Redactor) -> None:
    """Make text of other programs in a message harmless: it cannot control a terminal or imitate another message."""
    # Before truncation, because half of a secret would not be recognized.
    text = redactor.text(record["message"])
    if len(text) > MESSAGE_LIMIT_CHARS:
        text = f"{text[:MESSAGE_LIMIT_CHARS]}… ({len(text) - MESSAGE_LIMIT_CHARS:,} more characters)"
    record["message"] = escaped(text).replace("\n", "\n    ")


class LogSink:
    """Writes lines to a descriptor, and never raises: a full disk or a closed pipe must not end the program.

    Lost lines are counted, and the count is written once writing works again. Nothing is buffered, because the
    interpreter would try to write a buffer at its exit, and fail again.
    """

    def __init__(self, descriptor: int, redactor: Redactor) -> None:
        self._descriptor = descriptor
        self._redactor = redactor
        self._lost_lines = 0
        self._reason = ""
        self._is_incomplete = False
        """Whether the last line was written only in part."""

    def isatty(self) -> bool:
        """The logging library asks, too, to decide on colours."""
        return os.isatty(self._descriptor)

    def write(self, text: str) -> None:
        try:
            if self._lost_lines:
                self._put(f"… {self._lost_lines:,} lines of this log could not be written: {self._reason} …\n")
                self._lost_lines = 0
            self._put(self._redactor.text(text))
        except OSError as error:
            self._lost_lines += 1
            self._reason = error.strerror or str(error)

    def _put(self, text: str) -> None:
        left = memoryview((f"\n{text}" if self._is_incomplete else text).encode("utf-8", "backslashreplace"))
        while left:
            written = os.write(self._descriptor, left)
            self._is_incomplete = written < len(left)
            left = left[written:]


class RareWarning:
    """A warning that `log` writes at most once per `interval_s`."""

    def __init__(self, interval_s: float) -> None:
        self._interval_s = interval_s
        self._logged_at_s = -math.inf

    def log(self, message: str, *values: object) -> None:
        now_s = asyncio.get_running_loop().time()
        if now_s >= self._logged_at_s + self._interval_s:
            self._logged_at_s = now_s
            logger.warning(message, *values)
