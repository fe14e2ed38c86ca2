"""A session's events at the coordinator, as far as they say that something has happened (section 1.3)."""

import asyncio
import time
from collections.abc import Callable

import httpx
from loguru import logger

from fsm_runner.coordinator_client.api import CoordinatorApi
from fsm_runner.coordinator_client.errors import CoordinatorError
from fsm_runner.coordinator_client.response_body import READ_FAULTS, chunks_of
from fsm_runner.coordinator_client.transport import path_segment
from fsm_runner.mcp_server.sse import EventParser
from fsm_runner.util.retry import RetryPolicy, Waits

_EVENT_STREAM = "text/event-stream"


class NoStream(Exception):
    """The coordinator offers no stream of events here."""


class Listener:
    """Calls `changed` when the stream opens or ends, and for each batch of events. `run` it as a task."""

    def __init__(
        self,
        api: CoordinatorApi,
        session_id: str,
        changed: Callable[[], None],
        policy: RetryPolicy,
    ) -> None:
        self._api = api
        self._path = f"/sse/sessions?session_id={path_segment(session_id)}"
        self._changed = changed
        self._policy = policy
        self.hears = False
        """Whether events would be heard of now."""

    async def run(self) -> None:
        """Listen until cancelled, also when the stream breaks or is not offered yet."""
        waits = Waits(self._policy)
        while True:
            began = time.monotonic()
            try:
                await self._follow()
            except (CoordinatorError, *READ_FAULTS, NoStream) as fault:
                logger.debug("mcp: no events from {}: {}", self._path, fault)
            finally:
                self._hear(hears=False)
            if time.monotonic() - began > self._policy.cap_s:
                waits.reset()
            await asyncio.sleep(waits.next_s())

    async def _follow(self) -> None:
        async with self._api.forward("GET", self._path, [("accept", _EVENT_STREAM)], None) as response:
            offered = response.headers.get("content-type", "").partition(";")[0].strip().lower()
            if response.status_code != httpx.codes.OK or offered != _EVENT_STREAM:
                raise NoStream(f"HTTP {response.status_code}, {offered or 'no content type'}")
            self._hear(hears=True)
            parser = EventParser()
            async for chunk in chunks_of(response):
                if parser.feed(chunk):
                    self._changed()

    def _hear(self, *, hears: bool) -> None:
        if hears != self.hears:
            self.hears = hears
            self._changed()
