"""The runner's ends of a child's standard streams, read and written on the event loop without blocking it."""

import asyncio
import os
from collections.abc import Callable

from fsm_runner.process.child.capture import BoundedCapture
from fsm_runner.process.errors import InputClosed

READ_BYTES = 64 * 1024
READS_PER_WAKE = 4
"""After so many reads the loop has its turn, whatever is left: one noisy child must not starve the others."""
LAST_READS = 32
"""How many reads are given, once, to what is left in a pipe that is about to be closed."""


class OutputPipe:
    """Reads a child's stdout or stderr into a capture until it ends or is closed."""

    def __init__(self, limit_bytes: int, on_chunk: Callable[[bytes], None] | None = None) -> None:
        """`on_chunk` is given everything as it comes, kept or not. Raises OSError where no file descriptor is left."""
        self._loop = asyncio.get_running_loop()
        self._on_end: Callable[[], None] | None = None
        self._limit_bytes = limit_bytes
        self._on_chunk = on_chunk
        self.on_read: Callable[[], None] | None = None
        """Called when anything was read."""
        self.capture = BoundedCapture(limit_bytes)
        self._fd, self.child_end = os.pipe()
        os.set_blocking(self._fd, False)

    @property
    def is_open(self) -> bool:
        return self._fd >= 0

    def start(self, on_end: Callable[[], None]) -> None:
        """Begins to read; `on_end` is called when every process that could write has closed its end."""
        self.close_child_end()
        self._on_end = on_end
        self._loop.add_reader(self._fd, self._wake)

    def forget(self) -> None:
        """What was captured so far is of no interest any more."""
        self.capture = BoundedCapture(self._limit_bytes)

    def read_rest(self) -> None:
        """Reads what is there already. Closes the pipe where that is its end; tells nobody."""
        self._read(LAST_READS)

    def close_child_end(self) -> None:
        if self.child_end >= 0:
            os.close(self.child_end)
            self.child_end = -1

    def close(self) -> None:
        """May be repeated. What was not read is lost."""
        self.close_child_end()
        if self._fd < 0:
            return
        if self._on_end is not None and not self._loop.is_closed():
            self._loop.remove_reader(self._fd)
        os.close(self._fd)
        self._fd = -1

    def _wake(self) -> None:
        self._read(READS_PER_WAKE)
        if not self.is_open and self._on_end is not None:
            self._on_end()

    def _read(self, times: int) -> None:
        for _ in range(times):
            if self._fd < 0:
                return
            try:
                chunk = os.read(self._fd, READ_BYTES)
            except BlockingIOError:
                return
            if not chunk:
                self.close()
                return
            self.capture.add(chunk)
            if self._on_chunk is not None:
                self._on_chunk(chunk)
            if self.on_read is not None:
                self.on_read()


class InputPipe:
    """Writes to a child's stdin. One write follows another, however many tasks write."""

    def __init__(self) -> None:
        """Raises OSError where no file descriptor is left."""
        self._loop = asyncio.get_running_loop()
        self._turn = asyncio.Lock()
        self._room: asyncio.Future[None] | None = None
        self.child_end, self._fd = os.pipe()
        os.set_blocking(self._fd, False)

    async def write(self, data: bytes) -> None:
        """Returns when the pipe has taken all of `data`; a cancelled write may have written a part.

        Raises `InputClosed` when the child has ended or closed its stdin.
        """
        async with self._turn:
            rest = memoryview(data)
            while rest:
                if self._fd < 0:
                    raise InputClosed("the process has ended, or its standard input was closed")
                try:
                    rest = rest[os.write(self._fd, rest) :]
                except BlockingIOError:
                    await self._until_there_is_room()
                except BrokenPipeError as error:
                    self.close()
                    raise InputClosed("the process has closed its standard input") from error

    async def _until_there_is_room(self) -> None:
        self._room = self._loop.create_future()
        self._loop.add_writer(self._fd, self._wake)
        try:
            await self._room
        finally:
            self._stop_waiting()

    def _wake(self) -> None:
        if self._room is not None and not self._room.done():
            self._room.set_result(None)

    def _stop_waiting(self) -> None:
        if self._room is not None and self._fd >= 0 and not self._loop.is_closed():
            self._loop.remove_writer(self._fd)
        self._room = None

    def close_child_end(self) -> None:
        if self.child_end >= 0:
            os.close(self.child_end)
            self.child_end = -1

    def close(self) -> None:
        """The child reads the end of its stdin. May be repeated; a write that waits for room fails."""
        self.close_child_end()
        if self._fd < 0:
            return
        if not self._loop.is_closed():
            self._wake()
        self._stop_waiting()
        os.close(self._fd)
        self._fd = -1
