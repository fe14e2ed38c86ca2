"""The health check of a runner: a socket in the folder of its journal, which its event loop serves."""

import asyncio
import contextlib
import os
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
from loguru import logger

from fsm_runner.http_server.acceptor import Acceptor
from fsm_runner.journal.identity import KEY_DIGITS
from fsm_runner.protocol.json_text import encode_json
from fsm_runner.util.files import CHECK_INTERVAL_S, HeldFiles
from fsm_runner.util.tasks import log_defect

Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

SOCKET_FILE = "health.sock"
ANSWER_LIMIT_S = 3.0
"""A healthy runner answers at once. One that has not answered after this time hangs."""
LONGEST_ANSWER_BYTES = 64 * 1024

ADDRESS_LIMIT_BYTES = 100
"""The longest path that a socket can be bound to on every system: Linux allows 107 bytes, macOS 103."""
_OWN_DESCRIPTORS = Path("/proc/self/fd")


class Health(msgspec.Struct, frozen=True):
    """The answer of a runner."""

    state: str
    """The state of the runner's machine."""
    runs: int
    """The number of runs that the runner holds."""
    problem: str | None = None
    """A message for the operator about a fault that makes the runner unhealthy in any state."""
    is_unhealthy_state: bool = False
    """True if the state has the tag `unhealthy`."""
    waiting: int = 0
    """The number of runs that wait for a limit of their provider."""
    limited_until: str | None = None
    """When the runner tests the limit of its credential, like `2026-03-01 15:00:00 UTC`. None if the limit is not
    reached, or if that time has passed."""

    @property
    def is_healthy(self) -> bool:
        return not self.is_unhealthy_state and self.problem is None

    def __str__(self) -> str:
        text = f"{self.state.replace('_', ' ')}, {self.runs} {'run' if self.runs == 1 else 'runs'} held"
        if self.waiting:
            text += f", {self.waiting} of them waiting for a provider's limit"
        if self.limited_until is not None:
            text += f", next attempt at {self.limited_until}"
        return text if self.problem is None else f"{text}; {self.problem}"


class Hanging:
    """A runner that does not answer."""

    is_healthy = False

    def __str__(self) -> str:
        return f"does not answer within {ANSWER_LIMIT_S:g} s"


@asynccontextmanager
async def serve_health(folder: Path, health: Callable[[], Health]) -> AsyncIterator[None]:
    """Answer `fsm-runner health` on a socket in `folder` until the context ends.

    If the socket cannot be created, the log says so, and the runner works without it. A socket that is deleted is
    created again.
    """

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            writer.write(encode_json(health()) + b"\n")
            await writer.drain()
        writer.close()

    serving = asyncio.create_task(_serve_until_cancelled(folder / SOCKET_FILE, answer), name="health socket")
    serving.add_done_callback(log_defect)
    try:
        await asyncio.sleep(0)  # the first step of the task creates the socket, or fails to
        yield
    finally:
        serving.cancel()
        await asyncio.wait([serving])


async def _serve_until_cancelled(path: Path, answer: Answer) -> None:
    was_reachable = True
    while True:
        try:
            async with _listening(path, answer) as held:
                if not was_reachable:
                    logger.info("`fsm-runner health` reaches this runner again: {}", path)
                was_reachable = True
                while held.first_missing() is None:  # noqa: ASYNC110 - no event reports a deleted file
                    await asyncio.sleep(CHECK_INTERVAL_S)
        except OSError as fault:
            if was_reachable:
                logger.warning("`fsm-runner health` cannot reach this runner: {}: {}", path, fault)
            was_reachable = False
            await asyncio.sleep(CHECK_INTERVAL_S)


@asynccontextmanager
async def _listening(path: Path, answer: Answer) -> AsyncIterator[HeldFiles]:
    """Listen on the socket. Yields its file as it was created."""
    with contextlib.ExitStack() as stack:
        # The file was left by an earlier process, which is gone, since this one holds the journal's lock.
        _remove(path)
        listener = stack.enter_context(socket.socket(socket.AF_UNIX))
        with _address(path) as address:
            listener.bind(address)
        listener.listen()
        held = HeldFiles([path])
        acceptor = Acceptor(
            listener, lambda: asyncio.StreamReaderProtocol(asyncio.StreamReader(), answer), name=str(path)
        )
        acceptor.start()
        try:
            yield held
        finally:
            acceptor.stop()
            await acceptor.wait_set_up()
            if held.first_missing() is None:
                _remove(path)


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)


@contextlib.contextmanager
def _address(path: Path) -> Iterator[str]:
    """Yield the address of the socket at `path`. If the path is too long, it goes through a descriptor of the folder.

    Raises `OSError` if the folder cannot be opened.
    """
    if not _is_too_long(path) or not _OWN_DESCRIPTORS.is_dir():
        yield str(path)
        return
    descriptor = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield str(_OWN_DESCRIPTORS / str(descriptor) / path.name)
    finally:
        os.close(descriptor)


def _is_too_long(path: Path) -> bool:
    return len(os.fsencode(path)) > ADDRESS_LIMIT_BYTES


def is_unreachable(state_dir: Path) -> bool:
    """Return whether health sockets below this directory have too long a path, and `/proc` offers no shorter one."""
    return _is_too_long(state_dir / ("0" * KEY_DIGITS) / SOCKET_FILE) and not _OWN_DESCRIPTORS.is_dir()


def sockets(state_dir: Path) -> list[Path]:
    """Return the sockets of all runners with journals in this directory, including those that were killed."""
    return sorted(state_dir.glob(f"*/{SOCKET_FILE}"))


async def query_all(paths: Iterable[Path]) -> dict[str, Health | Hanging]:
    """Return the answers of the running runners, by the names of their folders."""
    answers = {path.parent.name: await _query(path) for path in paths}
    return {name: answer for name, answer in answers.items() if answer is not None}


async def _query(path: Path) -> Health | Hanging | None:
    """Return the answer of the runner at this socket; None if no process serves it."""
    try:
        async with asyncio.timeout(ANSWER_LIMIT_S):
            with _address(path) as address:
                reader, writer = await asyncio.open_unix_connection(address, limit=LONGEST_ANSWER_BYTES)
            try:
                if not _is_here(writer.get_extra_info("socket")):
                    return None
                return msgspec.json.decode(await reader.readline(), type=Health)
            finally:
                writer.close()
    except (ConnectionRefusedError, FileNotFoundError):
        return None
    except (TimeoutError, OSError, ValueError, msgspec.MsgspecError):
        return Hanging()


def _is_here(connection: socket.socket) -> bool:
    """Return False if the other end is in another container, which shares the state directory and is asked there."""
    if not hasattr(socket, "SO_PEERCRED"):  # macOS: no container to be in
        return True
    form = "3i"
    pid, _, _ = struct.unpack(form, connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize(form)))
    return bool(pid)
