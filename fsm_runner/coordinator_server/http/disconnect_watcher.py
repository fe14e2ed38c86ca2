"""Notices when the client of a held request disconnects."""

import asyncio
from collections.abc import Callable

from starlette.types import Receive

TURNS_UNTIL_NOTICED = 3
"""Turns of the event loop from reading the end of a connection to the watcher: the transport closes, the protocol gets
`connection_lost`, the watcher wakes up."""


class DisconnectWatcher:
    """Watches one connection while it is entered. Calls `on_disconnect` when the client has disconnected."""

    def __init__(self, receive: Receive, on_disconnect: Callable[[], None]) -> None:
        self._receive = receive
        self._on_disconnect = on_disconnect
        self._watching: asyncio.Task[None] | None = None
        self.has_noticed = False
        """Whether the watcher knows of the disconnect."""

    async def __aenter__(self) -> "DisconnectWatcher":
        self._watching = asyncio.create_task(self._watch(), name="coordinator-disconnect")
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.wait([self._watching])

    async def is_disconnected(self) -> bool:
        """Return whether the event loop has read the end of the connection.

        If not, a response that is sent without another await goes to a connection of which no end is known.
        """
        for _ in range(TURNS_UNTIL_NOTICED):
            await asyncio.sleep(0)
        return self.has_noticed

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.has_noticed = True
        self._on_disconnect()
