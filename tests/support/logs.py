"""What the program says in its log."""

from collections.abc import Iterator
from contextlib import contextmanager

from loguru import logger


@contextmanager
def log_lines(level: str = "DEBUG") -> Iterator[list[str]]:
    """The messages of this level and above, as they are logged while this is entered."""
    lines: list[str] = []
    sink = logger.add(lambda message: lines.append(message.record["message"]), level=level)
    try:
        yield lines
    finally:
        logger.remove(sink)
