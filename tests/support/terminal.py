"""Commands on a terminal, as a person sees them."""

import asyncio
import os
import pty
import re
import signal
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from tests.support.watch import PATIENCE_S, Watch

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_READ_BYTES = 64 * 1024


class OnTerminal:
    """A shell command whose input and output are one terminal."""

    def __init__(self, process: asyncio.subprocess.Process, terminal: int) -> None:
        self._process = process
        self._terminal = terminal
        self._seen = bytearray()
        self._watch = Watch(self.text)
        asyncio.get_running_loop().add_reader(terminal, self._read)

    def text(self) -> str:
        """All that it has shown, without colours."""
        return _COLOURS.sub("", self._seen.decode(errors="replace").replace("\r\n", "\n"))

    async def shows(self, text: str) -> None:
        await self._watch.until(lambda: text in self.text(), repr(text))

    async def ends(self) -> str:
        """All that it has shown when it has ended."""
        async with asyncio.timeout(PATIENCE_S):
            await self._process.wait()
        await self._watch.until(lambda: self._terminal < 0, "the end of the terminal's output")
        return self.text()

    async def terminate(self) -> None:
        if self._process.returncode is None:
            os.killpg(self._process.pid, signal.SIGTERM)
        await self.ends()

    def _read(self) -> None:
        try:
            data = os.read(self._terminal, _READ_BYTES)
        except OSError:  # the last process that had the terminal has ended
            data = b""
        if not data:
            self.close()
        self._seen += data
        self._watch.changed()

    def close(self) -> None:
        if self._terminal >= 0:
            asyncio.get_running_loop().remove_reader(self._terminal)
            os.close(self._terminal)
            self._terminal = -1


@asynccontextmanager
async def on_terminal(command: str, cwd: Path, env: Mapping[str, str]) -> AsyncIterator[OnTerminal]:
    """Start a shell command on a terminal of its own; it is killed at the end if it is still running."""
    ours, theirs = pty.openpty()
    try:
        process = await asyncio.create_subprocess_shell(
            command, cwd=cwd, env=env, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
        )
    finally:
        os.close(theirs)
    running = OnTerminal(process, ours)
    try:
        yield running
    finally:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
        running.close()
