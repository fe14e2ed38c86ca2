"""A proxy between a runner and its coordinator that injects random faults."""

import asyncio
import random
import re
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable
from contextlib import suppress

READ_BYTES = 64 * 1024
SHARES = {"reset": 0.01, "answer lost": 0.01, "status 503": 0.01, "delay": 0.03}
"""The share of requests for each fault. With `reset` the coordinator does not get the request; with `answer lost` it
does."""
LONGEST_DELAY_S = 0.5
_REQUEST = re.compile(rb"(?:GET|POST|PATCH|PUT|DELETE) (\S+) HTTP/1\.1\r\n")
_REPORT = re.compile(r"/runner/runs/([^/]+)/(completed|failed|stopped)")
_OUT_OF_SERVICE = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


class Faults:
    """Chooses the fault of each request, and counts the reports that the coordinator accepted."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self.injected: Counter[str] = Counter()
        self.accepted_reports: defaultdict[str, Counter[str]] = defaultdict(Counter)
        """The number of accepted reports of each kind, by run id."""

    def draw(self) -> str | None:
        at = self._chance.random()
        for kind, share in SHARES.items():
            at -= share
            if at < 0:
                self.injected[kind] += 1
                return kind
        return None

    def delay_s(self) -> float:
        return self._chance.uniform(0, LONGEST_DELAY_S)

    def record_response(self, path: str, answer: bytes) -> None:
        report = _REPORT.fullmatch(path)
        if report is not None and answer.startswith(b"HTTP/1.1 2"):
            self.accepted_reports[report[1]][report[2]] += 1


class FaultyProxy:
    """A TCP proxy with faults. It relies on the runner to send one request at a time per connection."""

    def __init__(self, faults: Faults, upstream_port: int) -> None:
        self._faults = faults
        self._upstream_port = upstream_port
        self._connections: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> "FaultyProxy":
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._server is not None:
            self._server.close()
        for connection in self._connections:
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    @property
    def url(self) -> str:
        assert self._server is not None
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer), name="connection")
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            upstream, upstream_writer = await asyncio.open_connection("127.0.0.1", self._upstream_port)
        except OSError:
            writer.transport.abort()
            return
        exchange = _Exchange(self._faults, writer, upstream_writer)
        pumps = [
            asyncio.create_task(_pump(reader, exchange.forward_request), name="requests"),
            asyncio.create_task(_pump(upstream, exchange.forward_response), name="responses"),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            writer.transport.abort()
            upstream_writer.transport.abort()


class _Exchange:
    """One connection with its current request and fault. Both methods return False to close the connection."""

    def __init__(self, faults: Faults, runner: asyncio.StreamWriter, coordinator: asyncio.StreamWriter) -> None:
        self._faults = faults
        self._runner = runner
        self._coordinator = coordinator
        self._path = ""
        self._fault: str | None = None
        self._has_response = True

    async def forward_request(self, chunk: bytes) -> bool:
        if self._has_response and (request := _REQUEST.match(chunk)) is not None:
            self._path, self._has_response = request[1].decode(), False
            self._fault = self._faults.draw()
        if self._fault == "status 503":
            self._runner.write(_OUT_OF_SERVICE)
            await self._runner.drain()
        if self._fault in ("status 503", "reset"):
            return False
        self._coordinator.write(chunk)
        await self._coordinator.drain()
        return True

    async def forward_response(self, chunk: bytes) -> bool:
        if not self._has_response:
            self._has_response = True
            self._faults.record_response(self._path, chunk)
            if self._fault == "answer lost":
                return False
            if self._fault == "delay":
                await asyncio.sleep(self._faults.delay_s())
        self._runner.write(chunk)
        await self._runner.drain()
        return True


async def _pump(reader: asyncio.StreamReader, forward: Callable[[bytes], Awaitable[bool]]) -> None:
    with suppress(OSError):
        while (chunk := await reader.read(READ_BYTES)) and await forward(chunk):
            pass
