"""Listening sockets."""

import asyncio
import errno
import socket
from typing import Any

from fsm_runner.errors import UsageError

BACKLOG_CONNECTIONS = 2048
HIGHEST_PORT = 65535


class PortInUse(UsageError):
    """Another program listens on the port."""


async def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket; port 0 takes a free one. Raises `UsageError` that names host and port."""
    if not 0 <= port <= HIGHEST_PORT:
        raise UsageError(f"port {port}: is not a number from 0 to {HIGHEST_PORT}")
    try:
        found = await _addresses(host, port)
    except (OSError, UnicodeError) as error:
        raise UsageError(f"cannot listen on host {host!r}: {error}") from None
    family, kind, protocol, _, address = found[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG_CONNECTIONS)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise PortInUse(f"port {port} on {host} is in use by another program") from None
        raise UsageError(f"cannot listen on {host}, port {port}: {error.strerror}") from None
    return listener


async def _addresses(host: str, port: int) -> list[tuple[int, int, int, str, Any]]:
    try:
        # A numeric address needs no resolver, and therefore no thread.
        return [*socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)]
    except socket.gaierror:
        return [*await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)]


def url_of(listener: socket.socket) -> str:
    """Return the URL for clients on this machine."""
    host, port = listener.getsockname()[:2]
    if host in ("0.0.0.0", "::"):  # noqa: S104 - compared, not bound
        host = "127.0.0.1" if host == "0.0.0.0" else "::1"  # noqa: S104
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
