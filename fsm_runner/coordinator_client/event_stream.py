"""A session's event stream at the coordinator (protocol.md, section 1.3), as a signal that something has changed."""

import asyncio
import time
from collections.abc import Callable

import httpx
from loguru import logger

from fsm_runner.coordinator_client.api import CoordinatorApi
from fsm_runner.coordinator_client.errors import CoordinatorError
from fsm_runner.coordinator_client.response_body import READ_ERRORS, chunks_of
from fsm_runner.protocol.urls import path_segment
from fsm_runner.util.retry import RetryPolicy, Waits

LINE_LIMIT_BYTES = 64 * 1024
"""Longer lines are truncated: only the arrival of an event matters here."""

_EVENT_STREAM = "text/event-stream"


class NoStream(Exception):
    """The coordinator's response is not an event stream."""


class SessionEvents:
    """Calls `on_change` when the stream opens or ends and when events arrive. Run `follow` as a task."""

    def __init__(
        self, api: CoordinatorApi, session_id: str, on_change: Callable[[], None], policy: RetryPolicy
    ) -> None:
        self._api = api
        self._path = f"/sse/sessions?session_id={path_segment(session_id)}"
        self._on_change = on_change
        self._policy = policy
        self.is_open = False

    async def follow(self) -> None:
        """Read the stream until cancelled. A stream that ends or is refused is opened again."""
        waits = Waits(self._policy)
        while True:
            began = time.monotonic()
            try:
                await self._read_stream()
            except (CoordinatorError, *READ_ERRORS, NoStream) as fault:
                logger.debug("no events from {}: {}", self._path, fault)
            finally:
                if self.is_open:
                    self.is_open = False
                    self._on_change()
            if time.monotonic() - began > self._policy.cap_s:
                waits.reset()
            await asyncio.sleep(waits.next_s())

    async def _read_stream(self) -> None:
        async with self._api.forward("GET", self._path, [("accept", _EVENT_STREAM)], None) as response:
            content_type = response.headers.get("content-type", "").partition(";")[0].strip().lower()
            if response.status_code != httpx.codes.OK or content_type != _EVENT_STREAM:
                raise NoStream(f"HTTP {response.status_code}, {content_type or 'no content type'}")
            self.is_open = True
            self._on_change()
            parser = EventParser()
            async for chunk in chunks_of(response):
                if parser.feed(chunk):
                    self._on_change()


class EventParser:
    """An incremental parser that counts server-sent events."""

    def __init__(self, line_limit_bytes: int = LINE_LIMIT_BYTES) -> None:
        self._line_limit_bytes = line_limit_bytes
        self._line = bytearray()
        self._after_cr = False
        self._has_data = False

    @property
    def buffered_bytes(self) -> int:
        return len(self._line)

    def feed(self, chunk: bytes) -> int:
        """Return the number of events that end in this chunk. Comments, such as keep-alives, are not events."""
        if self._after_cr and chunk:
            # A line ends with CR, LF or both; here the CR was the last byte of the chunk before.
            chunk = chunk.removeprefix(b"\n")
            self._after_cr = False
        self._after_cr = self._after_cr or chunk.endswith(b"\r")
        *ended, begun = chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        events = 0
        for part in ended:
            self._buffer(part)
            if not self._line:
                events += self._has_data
                self._has_data = False
            elif self._line.partition(b":")[0] == b"data":
                self._has_data = True
            self._line.clear()
        self._buffer(begun)
        return events

    def _buffer(self, part: bytes) -> None:
        self._line += part[: self._line_limit_bytes - len(self._line)]
