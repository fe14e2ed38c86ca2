"""Sockets of a runner in the folder of its journal, which its event loop serves to programs on the same machine."""

import asyncio
import contextlib
import errno
import os
import socket
import stat
import struct
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
from loguru import logger

from fsm_runner.http_server.acceptor import UNTIL_RESUMED, Acceptor
from fsm_runner.journal.identity import KEY_DIGITS
from fsm_runner.util.files import CHECK_INTERVAL_S, HeldFiles
from fsm_runner.util.tasks import log_defect

Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
"""Answers one connection."""

CONNECTIONS = 32
"""Connections of one socket at once. Further ones wait."""
CONNECT_LIMIT_S = 4.0
"""How long a client waits for its connection, on Linux."""
ADDRESS_LIMIT_BYTES = 100
"""The longest path that a socket can be bound to on every system: Linux allows 107 bytes, macOS 103."""
SINGLE_RUN_PREFIX = "fsm-runner-run-"
"""The beginning of the name of the temporary state directory of `fsm-runner run`."""
_OWN_DESCRIPTORS = Path("/proc/self/fd")
_OWNER_ONLY = 0o600


class LocalSocket(msgspec.Struct, frozen=True):
    """The description of a socket."""

    path: Path
    client: str
    """The command that connects to it, for the log."""
    longest_request_bytes: int = 1024


@asynccontextmanager
async def serve_socket(described: LocalSocket, answer: Answer) -> AsyncIterator[None]:
    """Answer the connections of a socket of this user until the context ends.

    If the socket cannot be created, the log says so, and the runner works without it. A socket that is deleted is
    created again.
    """
    name = f"{described.path.stem} socket"
    serving = asyncio.create_task(_serve_until_cancelled(described, answer), name=name)
    serving.add_done_callback(log_defect)
    try:
        await asyncio.sleep(0)  # the first step of the task creates the socket, or fails to
        yield
    finally:
        serving.cancel()
        await asyncio.wait([serving])


async def _serve_until_cancelled(described: LocalSocket, answer: Answer) -> None:
    was_reachable = True
    while True:
        try:
            async with _listening(described, answer) as held:
                if not was_reachable:
                    logger.info("`{}` reaches this runner again: {}", described.client, described.path)
                was_reachable = True
                while held.first_missing() is None:  # noqa: ASYNC110 - no event reports a deleted file
                    await asyncio.sleep(CHECK_INTERVAL_S)
        except OSError as fault:
            if was_reachable:
                logger.warning("`{}` cannot reach this runner: {}: {}", described.client, described.path, fault)
            was_reachable = False
            await asyncio.sleep(CHECK_INTERVAL_S)


@asynccontextmanager
async def _listening(described: LocalSocket, answer: Answer) -> AsyncIterator[HeldFiles]:
    """Listen on the socket. Yields its file as it was created."""
    path = described.path
    with contextlib.ExitStack() as stack:
        # The file was left by an earlier process, which is gone, since this one holds the journal's lock.
        path.unlink(missing_ok=True)
        listener = stack.enter_context(socket.socket(socket.AF_UNIX))
        with address_of(path) as address:
            listener.bind(address)
        path.chmod(_OWNER_ONLY)  # before it listens, so that no other user has connected
        listener.listen()
        held = HeldFiles([path])
        connections = _Connections(answer, described.longest_request_bytes)
        acceptor = Acceptor(listener, connections.new_protocol, name=str(path), limit=connections)
        connections.on_end = acceptor.resume
        acceptor.start()
        try:
            yield held
        finally:
            acceptor.stop()
            await acceptor.wait_set_up()
            await connections.aclose()
            if held.first_missing() is None:
                path.unlink(missing_ok=True)


class _Connections:
    """The tasks that answer the connections of one socket."""

    def __init__(self, answer: Answer, longest_request_bytes: int) -> None:
        self.on_end: Callable[[], None] = lambda: None
        self._answer = answer
        self._longest_request_bytes = longest_request_bytes
        self._tasks: set[asyncio.Task[None]] = set()

    def new_protocol(self) -> asyncio.BaseProtocol:
        return asyncio.StreamReaderProtocol(asyncio.StreamReader(limit=self._longest_request_bytes), self._start)

    def has_room(self, pending: int) -> bool:
        return len(self._tasks) + pending < CONNECTIONS

    def make_room(self) -> float:
        return UNTIL_RESUMED

    async def aclose(self) -> None:
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(set(self._tasks))

    def _start(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer), name="local request")
        self._tasks.add(task)
        task.add_done_callback(self._end)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with contextlib.suppress(OSError):  # the client has gone
                await self._answer(reader, writer)
        finally:
            writer.close()

    def _end(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        log_defect(task)
        self.on_end()


@contextlib.contextmanager
def address_of(path: Path) -> Iterator[str]:
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


def is_unreachable(state_dir: Path, socket_file: str) -> bool:
    """Return whether sockets below this directory have too long a path, and `/proc` offers no shorter one."""
    return _is_too_long(state_dir / ("0" * KEY_DIGITS) / socket_file) and not _OWN_DESCRIPTORS.is_dir()


def sockets(state_dir: Path, socket_file: str) -> list[Path]:
    """Return the sockets of all runners with journals in this directory, including those that were killed."""
    return sorted(state_dir.glob(f"*/{socket_file}"))


def sockets_of_single_runs(socket_file: str) -> list[Path]:
    """Return the sockets of all `fsm-runner run` of this user, including those that were killed.

    Every user may create folders beside theirs. So the folders must be as `fsm-runner run` creates them: this user's,
    and closed to others.
    """
    folders = Path(tempfile.gettempdir()).glob(f"{SINGLE_RUN_PREFIX}*")
    found = [path for folder in folders if _is_private(folder) for path in sockets(folder, socket_file)]
    return sorted(path for path in found if _is_private(path.parent))


def _is_private(folder: Path) -> bool:
    try:
        status = folder.lstat()
    except OSError:  # it has just been removed
        return False
    is_writable = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid() and not is_writable


def _connection_to(path: Path) -> socket.socket:
    """Block until there is a connection.

    asyncio does not wait if many connections wait already: it takes the socket for a connected one. In a thread, the
    system lets each client wait for its turn.
    """
    with contextlib.ExitStack() as undo:
        connection = undo.enter_context(socket.socket(socket.AF_UNIX))
        seconds, fraction = divmod(CONNECT_LIMIT_S, 1)
        limit = struct.pack("ll", int(seconds), int(fraction * 1_000_000))
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
        with address_of(path) as address:
            try:
                connection.connect(address)
            except BlockingIOError:
                raise OSError(errno.EAGAIN, "too many other connections wait") from None
        connection.setblocking(False)
        undo.pop_all()
    return connection


@asynccontextmanager
async def connected(
    path: Path, longest_answer_bytes: int
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Connect to a socket, which may take `CONNECT_LIMIT_S`. Raises `OSError`."""
    connection = await asyncio.to_thread(_connection_to, path)
    reader, writer = await asyncio.open_unix_connection(sock=connection, limit=longest_answer_bytes)
    try:
        yield reader, writer
    finally:
        writer.close()
