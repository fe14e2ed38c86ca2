"""The runner's ends of a child's standard streams, which are read and written without blocking the event loop."""

import asyncio
import math
import os
from collections.abc import Callable
from typing import NamedTuple

from fsm_runner.process.child.capture import BoundedCapture
from fsm_runner.process.errors import InputClosed

READ_BYTES = 64 * 1024
READS_PER_WAKE = 4
"""The most reads before other tasks get their turn, so that one noisy child does not starve the others."""
LAST_READS = 32
"""The most reads from a pipe that is about to be closed."""


class LastRead(NamedTuple):
    """When bytes of a child were last read."""

    at_s: float
    """By the clock of the event loop; minus infinity if the child has written nothing."""
    stream: str
    """`stdout` or `stderr`."""


class _Pipe:
    def __init__(self, own_end: int, child_end: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._fd, self.child_end = own_end, child_end
        os.set_blocking(own_end, False)

    @property
    def is_open(self) -> bool:
        return self._fd >= 0

    def close_child_end(self) -> None:
        if self.child_end >= 0:
            os.close(self.child_end)
            self.child_end = -1

    def close(self) -> None:
        """Drop what was not read or written. May be repeated."""
        self.close_child_end()
        if self.is_open:
            if not self._loop.is_closed():
                self._detach()
            os.close(self._fd)
            self._fd = -1

    def _detach(self) -> None:
        """Stop waiting for the pipe on the event loop."""
        raise NotImplementedError


class OutputPipe(_Pipe):
    """Reads a child's stdout or stderr into a capture until it ends or is closed."""

    def __init__(self, limit_bytes: int, on_chunk: Callable[[bytes], None] | None = None) -> None:
        """`on_chunk` gets every chunk, including bytes that are not kept. Raises OSError if no descriptor is left."""
        super().__init__(*os.pipe())
        self._on_end: Callable[[], None] | None = None
        self._on_chunk = on_chunk
        self._on_read: Callable[[], None] | None = None
        self.limit_bytes = limit_bytes
        self.capture = BoundedCapture(limit_bytes)
        self.read_at_s = -math.inf
        """When bytes were last read, by the clock of the event loop."""

    def start(self, on_end: Callable[[], None], on_read: Callable[[], None]) -> None:
        """Begin to read. Call `on_end` when every process has closed its end, and `on_read` after each read."""
        self.close_child_end()
        self._on_end, self._on_read = on_end, on_read
        self._loop.add_reader(self._fd, self._wake)

    def read_rest(self) -> None:
        """Read what the pipe holds. Close it at its end, without calling `on_end`."""
        self._read(LAST_READS)

    def _detach(self) -> None:
        if self._on_end is not None:
            self._loop.remove_reader(self._fd)

    def _wake(self) -> None:
        self._read(READS_PER_WAKE)
        if not self.is_open and self._on_end is not None:
            self._on_end()

    def _read(self, times: int) -> None:
        for _ in range(times):
            if not self.is_open:
                return
            try:
                chunk = os.read(self._fd, READ_BYTES)
            except BlockingIOError:
                return
            if not chunk:
                self.close()
                return
            self.read_at_s = self._loop.time()
            self.capture.add(chunk)
            if self._on_chunk is not None:
                self._on_chunk(chunk)
            if self._on_read is not None:
                self._on_read()


class ChildOutput:
    """The pipes from stdout and stderr. They are open while any process holds the child's ends, up to a time limit."""

    def __init__(self, limit_bytes: int, on_stdout: Callable[[bytes], None] | None) -> None:
        """`limit_bytes`: how much of each stream is kept. Raises OSError if no file descriptor is left."""
        self._loop = asyncio.get_running_loop()
        self._drain_timer: asyncio.TimerHandle | None = None
        self._on_end: Callable[[], None] = lambda: None
        self.stdout_ended = asyncio.Event()
        """Set when no process can write to stdout any more, which may be before the child ends."""
        self._stdout = OutputPipe(limit_bytes, on_stdout)
        try:
            self._stderr = OutputPipe(limit_bytes)
        except OSError:
            self._stdout.close()
            raise

    @property
    def child_ends(self) -> tuple[int, int]:
        """The descriptors that are the child's stdout and stderr."""
        return self._stdout.child_end, self._stderr.child_end

    @property
    def captures(self) -> tuple[BoundedCapture, BoundedCapture]:
        """What was read from stdout and from stderr since the last `forget`."""
        return self._stdout.capture, self._stderr.capture

    @property
    def last_read(self) -> LastRead:
        """`forget` does not change it."""
        return max(LastRead(self._stdout.read_at_s, "stdout"), LastRead(self._stderr.read_at_s, "stderr"))

    @property
    def is_open(self) -> bool:
        return self._stdout.is_open or self._stderr.is_open

    def start(self, on_end: Callable[[], None], on_read: Callable[[], None]) -> None:
        """Begin to read. Call `on_end` when both streams have ended, and `on_read` after each read. Raises OSError."""
        self._on_end = on_end
        self._stdout.start(self._note_end, on_read)
        self._stderr.start(self._note_end, on_read)

    def forget(self) -> None:
        """Drop the output captured so far."""
        for pipe in (self._stdout, self._stderr):
            pipe.capture = BoundedCapture(pipe.limit_bytes)

    def drain(self, limit_s: float) -> None:
        """Read what the pipes hold. After `limit_s`, close a stream that is still open and call `on_end`."""
        self._stdout.read_rest()
        self._stderr.read_rest()
        if self.is_open:
            self._drain_timer = self._loop.call_later(limit_s, self._give_up)

    def close(self) -> None:
        """May be repeated."""
        if self._drain_timer is not None:
            self._drain_timer.cancel()
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


class InputPipe(_Pipe):
    """Writes to a child's stdin. Concurrent writes follow one another. Closing it lets a pending write fail."""

    def __init__(self) -> None:
        """Raises OSError if no file descriptor is left."""
        own_end, child_end = reversed(os.pipe())
        super().__init__(own_end, child_end)
        self._lock = asyncio.Lock()
        self._writable = asyncio.Event()

    async def write(self, data: bytes) -> None:
        """Return when the pipe holds all of `data`. A cancelled write may have written a part.

        Raises `InputClosed` if the child has ended or closed its stdin.
        """
        async with self._lock:
            rest = memoryview(data)
            while rest:
                if not self.is_open:
                    raise InputClosed("the process has ended, or its stdin was closed")
                try:
                    rest = rest[os.write(self._fd, rest) :]
                except BlockingIOError:
                    await self._wait_until_writable_or_closed()
                except OSError as error:
                    self.close()
                    raise InputClosed(f"the process has closed its stdin: {error.strerror}") from error

    async def _wait_until_writable_or_closed(self) -> None:
        self._writable.clear()
        self._loop.add_writer(self._fd, self._writable.set)
        try:
            await self._writable.wait()
        finally:
            if self.is_open and not self._loop.is_closed():
                self._loop.remove_writer(self._fd)

    def _detach(self) -> None:
        self._loop.remove_writer(self._fd)
        self._writable.set()
