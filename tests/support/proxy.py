"""A proxy between runner and coordinator that records every call and disturbs those that a test selects."""

import asyncio
import itertools
import re
import socket
import struct
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from types import TracebackType
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import h11
import httpx
import msgspec

from tests.support.deployed import CHECKS, RawHeaders
from tests.support.faults import Answer, Kind, Raw, Rule
from tests.support.watch import Watch

READ_BYTES = 64 * 1024
SHOWN_CALLS = 40
POLL = r"/runner/runs"
REPORT = r"/runner/runs/[^/]+/"
"""Path prefix; the kind of report follows."""
TERMINAL_REPORT = REPORT + "(completed|failed|stopped)"


@dataclass(eq=False)
class Call:
    """One call. `begun_at` and `answered_at` number the starts and ends of all calls in order."""

    method: str
    path: str
    """The path without the query."""
    body: bytes
    fencing: RawHeaders
    """Its headers that name the registration, the run and the attempt."""
    begun_at: int
    fault: Kind | None = None
    carried_out: bool = False
    """Whether the coordinator has responded, whatever the runner receives."""
    handed_on: int = 0
    """How often it was sent to the coordinator."""
    status: int | None = None
    """The status that the runner received. None: it waits, or it received no response."""
    answered_at: int | None = None

    def __str__(self) -> str:
        fault = f" ({self.fault.name})" if self.fault else ""
        return f"{self.begun_at}-{self.answered_at} {self.method} {self.path} {self.status}{fault}"

    @property
    def json(self) -> Any:
        return msgspec.json.decode(self.body)

    @property
    def acknowledged(self) -> bool:
        """Return True if the runner received the coordinator's own acceptance."""
        genuine = self.fault is None or self.fault.genuine
        return genuine and self.status is not None and httpx.codes.is_success(self.status)

    def is_for(self, method: str, path_pattern: str) -> bool:
        return self.method == method and re.fullmatch(path_pattern, self.path) is not None


class FaultProxy:
    """An async context manager. The runner uses `url` instead of the coordinator's URL.

    `upstream_url` may be changed at any time; while no server listens there, connections are reset.
    """

    def __init__(self, upstream_url: str) -> None:
        self.upstream_url = upstream_url
        self.calls: list[Call] = []
        self._watch = Watch(self._described)
        self._changes = 0
        self._rules: list[Rule] = []
        self._counter = itertools.count(1)
        self._connections: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._upstream = httpx.AsyncClient(timeout=None, trust_env=False, limits=httpx.Limits(max_connections=None))

    async def __aenter__(self) -> "FaultProxy":
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._server is not None:
            self._server.close()
        # A connection accepted in this turn of the loop is registered in the next.
        await asyncio.sleep(0)
        await self.cut()
        await self._upstream.aclose()

    @property
    def url(self) -> str:
        if self._server is None:
            raise RuntimeError("the proxy is not started")
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def fault(self, method: str, path_pattern: str, kind: Kind, times: int | None = 1) -> None:
        """Disturb the next `times` matching calls (None: all). Earlier rules are used up first.

        `path_pattern` is a regular expression for the whole path, without the query.
        """
        self._rules.append(Rule(method, path_pattern, kind, times))

    def heal(self) -> None:
        """Drop all remaining faults."""
        self._rules.clear()

    def calls_for(self, method: str, path_pattern: str) -> list[Call]:
        return [call for call in self.calls if call.is_for(method, path_pattern)]

    def acknowledged(self, method: str, path_pattern: str) -> list[Call]:
        return [call for call in self.calls_for(method, path_pattern) if call.acknowledged]

    async def wait_for(self, predicate: Callable[[], bool], what: str = "a call") -> None:
        """Return when `predicate` holds. It is checked at each start and end of a call."""
        await self._watch.until(predicate, what)

    async def seen(self, method: str, path_pattern: str, count: int = 1) -> Call:
        """Wait for the start of matching call number `count` and return it."""
        return await self._nth(count, method, path_pattern, lambda _: True)

    async def answered(self, method: str, path_pattern: str, count: int = 1) -> Call:
        """Wait for acknowledged matching call number `count` and return it."""
        return await self._nth(count, method, path_pattern, lambda call: call.acknowledged)

    async def carried_out(self, method: str, path_pattern: str, count: int = 1) -> Call:
        """Wait until the coordinator has responded to matching call number `count`, and return it."""
        return await self._nth(count, method, path_pattern, lambda call: call.carried_out)

    async def wait_until(self, holds: Callable[[], Awaitable[bool]], what: str) -> None:
        """Return when `holds` returns True. It is awaited again at each start and end of a call."""
        seen = -1

        def has_changed() -> bool:
            return self._changes != seen

        while True:
            seen = self._changes
            if await holds():
                return
            await self.wait_for(has_changed, what)

    async def cut(self) -> None:
        """Break all connections. Calls in progress get no response."""
        connections = list(self._connections)
        for connection in connections:
            connection.cancel()
        if connections:
            await asyncio.wait(connections)

    async def _nth(self, count: int, method: str, path_pattern: str, ripe: Callable[[Call], bool]) -> Call:
        def found() -> list[Call]:
            return [call for call in self.calls_for(method, path_pattern) if ripe(call)]

        await self.wait_for(lambda: len(found()) >= count, f"call {count} of {method} {path_pattern}")
        return found()[count - 1]

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            await _Connection(self, reader, writer).serve()
        except (OSError, h11.ProtocolError):
            pass  # the runner has disconnected
        except asyncio.CancelledError:
            pass  # the proxy ends; asyncio would log the cancellation as an error
        finally:
            self._connections.discard(task)
            writer.transport.abort()

    def begin(self, method: str, target: str, headers: RawHeaders, body: bytes) -> tuple[Call, Kind | None]:
        CHECKS.check(method, target, headers, body)
        path = urlsplit(target).path
        rule = next((rule for rule in self._rules if rule.matches(method, path)), None)
        kind = None if rule is None else rule.use()
        fencing = [(name, value) for name, value in headers if name.lower().startswith(b"x-run")]
        call = Call(method, path, body, fencing, next(self._counter), kind)
        self.calls.append(call)
        self._changed()
        return call, kind

    def end(self, call: Call, status: int | None) -> None:
        call.status = status
        call.answered_at = next(self._counter)
        self._changed()

    async def forward(self, call: Call, target: str) -> Answer | None:
        headers = [*call.fencing, *([(b"content-type", b"application/json")] if call.body else [])]
        call.handed_on += 1
        try:
            answer = await self._upstream.request(
                call.method, self.upstream_url + target, content=call.body, headers=headers
            )
        except httpx.TransportError:
            return None
        call.carried_out = True
        self._changed()
        return Answer(answer.status_code, answer.content, answer.headers.get("content-type", ""))

    def _changed(self) -> None:
        self._changes += 1
        self._watch.changed()

    def _described(self) -> str:
        return "\n".join(map(str, self.calls[-SHOWN_CALLS:]))


class _Request(NamedTuple):
    method: str
    target: str
    headers: list[tuple[bytes, bytes]]
    body: bytes


class _Connection:
    """One connection of the runner with consecutive calls."""

    def __init__(self, proxy: FaultProxy, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._proxy = proxy
        self._reader = reader
        self._writer = writer
        self._http = h11.Connection(h11.SERVER)

    async def serve(self) -> None:
        while (request := await self._request()) is not None:
            call, kind = self._proxy.begin(*request)
            target = request.target
            answer = await self._unless_hung_up(self._respond(kind, call, target))
            self._proxy.end(call, answer.status if isinstance(answer, Answer) else None)
            if isinstance(answer, Raw):
                await self._write(answer)
                return
            if answer is None:
                self._reset()
                return
            self._send(answer)
            await self._writer.drain()
            if self._http.our_state is not h11.DONE or self._http.their_state is not h11.DONE:
                return
            self._http.start_next_cycle()

    async def _respond(self, kind: Kind | None, call: Call, target: str) -> Answer | Raw | None:
        async def forward() -> Answer | None:
            return await self._proxy.forward(call, target)

        return await (forward() if kind is None else kind.respond(forward))

    async def _unless_hung_up(self, response: Coroutine[Any, Any, Answer | Raw | None]) -> Answer | Raw | None:
        """Wait for the end of the connection: the runner sends nothing while it waits for a response."""
        responding = asyncio.create_task(response, name="proxy call")
        hung_up = asyncio.create_task(self._reader.read(1), name="proxy hang-up")
        try:
            await asyncio.wait({responding, hung_up}, return_when=asyncio.FIRST_COMPLETED)
            return await responding if responding.done() else None
        finally:
            tasks: set[asyncio.Task[Any]] = {responding, hung_up}
            for task in tasks:
                task.cancel()
            # Awaited together: suppressing the cancellation of one would suppress that of the caller.
            await asyncio.wait(tasks)
            for task in tasks:
                if not task.cancelled():
                    task.exception()

    async def _request(self) -> "_Request | None":
        method, target, body = "", "", bytearray()
        headers: list[tuple[bytes, bytes]] = []
        while True:
            event = self._http.next_event()
            match event:
                case h11.Request():
                    method, target = event.method.decode(), event.target.decode()
                    headers = list(event.headers)
                case h11.Data():
                    body += event.data
                case h11.EndOfMessage():
                    return _Request(method, target, headers, bytes(body))
                case h11.ConnectionClosed():
                    return None
                case h11.NEED_DATA:
                    self._http.receive_data(await self._reader.read(READ_BYTES))
                case _:
                    return None

    def _send(self, answer: Answer) -> None:
        headers = [("content-length", str(len(answer.body)))] if answer.status != httpx.codes.NO_CONTENT else []
        if answer.content_type:
            headers.append(("content-type", answer.content_type))
        for event in (
            h11.Response(status_code=answer.status, headers=headers),
            h11.Data(data=answer.body),
            h11.EndOfMessage(),
        ):
            self._writer.write(self._http.send(event) or b"")

    async def _write(self, answer: Raw) -> None:
        self._writer.write(answer.content)
        await self._writer.drain()
        if answer.resets:
            self._reset()
        else:
            self._writer.close()
            await self._writer.wait_closed()

    def _reset(self) -> None:
        connection = self._writer.get_extra_info("socket")
        if connection is not None and connection.fileno() >= 0:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()
