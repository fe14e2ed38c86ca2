"""A named pipe between a test and a command that a run executes."""

import asyncio
import os
from pathlib import Path
from types import TracebackType

from tests.support.watch import PATIENCE_S


class Fifo:
    """An async context manager. Both ends are open while it is entered, so that no reader meets an end of file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd = -1
        self._reader = asyncio.StreamReader()
        self._transport: asyncio.ReadTransport | None = None

    async def __aenter__(self) -> "Fifo":
        os.mkfifo(self.path)
        self._fd = os.open(self.path, os.O_RDWR | os.O_NONBLOCK)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._transport is not None:
            self._transport.close()
        os.close(self._fd)

    async def line(self) -> str:
        """The next line that a command writes."""
        if self._transport is None:
            await self._listen()
        async with asyncio.timeout(PATIENCE_S):
            return (await self._reader.readline()).decode().rstrip("\n")

    async def pid(self) -> int:
        """The process id that a command writes when it has started."""
        return int(await self.line())

    def write_line(self, text: str = "go") -> None:
        """For a command that reads a line, now or later."""
        os.write(self._fd, f"{text}\n".encode())

    async def _listen(self) -> None:
        end = os.fdopen(os.dup(self._fd), "rb", buffering=0)
        protocol = asyncio.StreamReaderProtocol(self._reader)
        self._transport, _ = await asyncio.get_running_loop().connect_read_pipe(lambda: protocol, end)
