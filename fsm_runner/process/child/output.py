"""Both of a child's output streams, read until they end."""

import asyncio
from collections.abc import Callable

from fsm_runner.process.child.capture import BoundedCapture
from fsm_runner.process.child.pipes import OutputPipe


class ChildOutput:
    """The pipes to stdout and stderr; open until nobody holds the child's ends, or for a limited time."""

    def __init__(
        self, stdout_limit_bytes: int, stderr_limit_bytes: int, on_stdout: Callable[[bytes], None] | None
    ) -> None:
        """Raises OSError where no file descriptor is left."""
        self._loop = asyncio.get_running_loop()
        self._limit: asyncio.TimerHandle | None = None
        self._on_end: Callable[[], None] = lambda: None
        self.stdout_ended = asyncio.Event()
        self._stdout = OutputPipe(stdout_limit_bytes, on_stdout)
        try:
            self._stderr = OutputPipe(stderr_limit_bytes)
        except OSError:
            self._stdout.close()
            raise

    @property
    def child_ends(self) -> tuple[int, int]:
        """The descriptors that are the child's stdout and stderr."""
        return self._stdout.child_end, self._stderr.child_end

    @property
    def captures(self) -> tuple[BoundedCapture, BoundedCapture]:
        return self._stdout.capture, self._stderr.capture

    @property
    def is_open(self) -> bool:
        return self._stdout.is_open or self._stderr.is_open

    @property
    def total_bytes(self) -> int:
        """Of both streams together, since the last time that they were forgotten."""
        return self._stdout.capture.total_bytes + self._stderr.capture.total_bytes

    def start(self, on_end: Callable[[], None], on_read: Callable[[], None] | None = None) -> None:
        """Begins to read; `on_end` is called when both streams have ended, `on_read` when anything was read.

        Raises OSError.
        """
        self._on_end = on_end
        self._stdout.on_read = self._stderr.on_read = on_read
        self._stdout.start(self._note_end)
        self._stderr.start(self._note_end)

    def forget(self) -> None:
        """What was captured so far is of no interest any more."""
        self._stdout.forget()
        self._stderr.forget()

    def drain(self, limit_s: float) -> None:
        """Reads what is there already; what is still open after `limit_s` is closed, and `on_end` called."""
        self._stdout.read_rest()
        self._stderr.read_rest()
        if self.is_open:
            self._limit = self._loop.call_later(limit_s, self._give_up)

    def close(self) -> None:
        """May be repeated."""
        if self._limit is not None:
            self._limit.cancel()
        for pipe in (self._stdout, self._stderr):
            pipe.read_rest()
            pipe.close()
        self.stdout_ended.set()

    def _note_end(self) -> None:
        if not self._stdout.is_open:
            self.stdout_ended.set()
        if not self.is_open:
            self._on_end()

    def _give_up(self) -> None:
        self.close()
        self._on_end()
