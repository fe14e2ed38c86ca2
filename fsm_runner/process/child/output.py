"""Reads both output streams of a child until they end."""

import asyncio
from collections.abc import Callable

from fsm_runner.process.child.capture import BoundedCapture
from fsm_runner.process.child.pipes import OutputPipe


class ChildOutput:
    """The pipes from stdout and stderr. They are open while any process holds the child's ends, up to a time limit."""

    def __init__(
        self, stdout_limit_bytes: int, stderr_limit_bytes: int, on_stdout: Callable[[bytes], None] | None
    ) -> None:
        """Raises OSError if no file descriptor is left."""
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
        """The total of both streams since the last `forget`."""
        return self._stdout.capture.total_bytes + self._stderr.capture.total_bytes

    def start(self, on_end: Callable[[], None], on_read: Callable[[], None]) -> None:
        """Begin to read. Call `on_end` when both streams have ended, and `on_read` after each read. Raises OSError."""
        self._on_end = on_end
        self._stdout.start(self._note_end, on_read)
        self._stderr.start(self._note_end, on_read)

    def forget(self) -> None:
        """Drop the output captured so far."""
        self._stdout.forget()
        self._stderr.forget()

    def drain(self, limit_s: float) -> None:
        """Read what the pipes hold. After `limit_s`, close a stream that is still open and call `on_end`."""
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
