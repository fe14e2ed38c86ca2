"""Listening sockets."""

import asyncio
import errno
import socket

from fsm_runner.errors import UsageError

BACKLOG_CONNECTIONS = 2048


class PortInUse(UsageError):
    """Another program listens on the port."""


async def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket; port 0 takes a free one. Raises `UsageError` that names host and port."""
    if not 0 <= port <= 65535:
        raise UsageError(f"port {port}: is not a number from 0 to 65535")
    try:
        try:
            # A numeric address needs no resolver, and therefore no thread.
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
        except socket.gaierror:
            found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
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


def url_of(listener: socket.socket) -> str:
    """Return the URL for clients on this machine."""
    host, port = listener.getsockname()[:2]
    if host in ("0.0.0.0", "::"):  # noqa: S104 - compared, not bound
        host = "127.0.0.1" if host == "0.0.0.0" else "::1"  # noqa: S104
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
