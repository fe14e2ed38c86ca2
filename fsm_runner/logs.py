"""What the program says of itself: lines on stderr."""

import sys

from loguru import logger

_FORMAT = "<dim>{time:HH:mm:ss.SSS}</dim> <level>{level: <7}</level> {message}"
_FORMAT_WITH_DATE = "{time:YYYY-MM-DDTHH:mm:ss.SSSZ} {level: <7} {message}"


def configure_logs(*, verbose: bool, quiet: bool = False) -> None:
    """INFO and above; `verbose`: everything; `quiet`: warnings and errors alone."""
    logger.remove()
    if sys.stderr is None:  # closed by whoever started the program
        return
    level = "DEBUG" if verbose else "WARNING" if quiet else "INFO"
    logger.add(
        sys.stderr,
        level=level,
        format=_FORMAT if sys.stderr.isatty() else _FORMAT_WITH_DATE,
        # A traceback with the values of variables would show parameters and credentials.
        diagnose=False,
        backtrace=False,
    )
