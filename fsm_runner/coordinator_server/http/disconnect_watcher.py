"""Whether the client of a held request is still there."""

import asyncio
from collections.abc import Callable
from types import TracebackType

from starlette.types import Receive

TURNS_TO_HEAR_OF_IT = 3
"""Turns of the event loop from the end of a connection being read to the watch knowing it: the transport closes, the
protocol is told that the connection is lost, the watch wakes up."""


class DisconnectWatcher:
    """Watches one connection while it is entered. `on_hangup` is called when the client is gone."""

    def __init__(self, receive: Receive, on_hangup: Callable[[], None]) -> None:
        self._receive = receive
        self._on_hangup = on_hangup
        self._watch: asyncio.Task[None] | None = None
        self._gone = False

    async def __aenter__(self) -> "DisconnectWatcher":
        self._watch = asyncio.create_task(self._wait(), name="coordinator-hangup")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.wait([self._watch])

    @property
    def was_noticed(self) -> bool:
        """Whether the watch knows already that the client is gone."""
        return self._gone

    async def happened(self) -> bool:
        """As far as this process can know at this moment.

        What follows without an await is then sent on a connection whose end the event loop has not seen.
        """
        for _ in range(TURNS_TO_HEAR_OF_IT):
            await asyncio.sleep(0)
        return self._gone

    async def _wait(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._gone = True
        self._on_hangup()
