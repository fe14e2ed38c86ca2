"""A request of an executor: its path, its body, and the fields of a JSON body."""

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterable
from typing import Any, TypeVar

import msgspec
from msgspec import UNSET, UnsetType
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from fsm_runner.coordinator_client.api import CoordinatorApi
from fsm_runner.gateway import paths
from fsm_runner.gateway.endpoint import GatewayEndpoint, GatewayLimits
from fsm_runner.gateway.errors import GatewayError, not_found
from fsm_runner.protocol.json_text import json_error, valid_json
from fsm_runner.protocol.wire import DECODE_FAULTS

RawHeaders = Iterable[tuple[bytes, bytes]]

Field = msgspec.Raw | UnsetType
"""The undecoded JSON value of a field. UNSET: the body has no such field."""
Fields = TypeVar("Fields")

EveryField = dict[str, msgspec.Raw]
"""The fields of a body that is encoded again."""


class RequestBody:
    """The body of a request. Call `read` or `chunks` once, or `discard`.

    Only then can `wait_disconnect` notice the end of the connection: the server reports it after the body.
    """

    def __init__(self, receive: Receive, headers: RawHeaders, limits: GatewayLimits, slots: asyncio.Semaphore) -> None:
        """`slots` limits the bodies that are in memory at once."""
        self._receive = receive
        self._headers = headers
        self._limits = limits
        self._slots = slots
        self._is_done = asyncio.Event()

    @property
    def exists(self) -> bool:
        """Whether the headers announce a body."""
        return any(
            name == b"transfer-encoding" or (name == b"content-length" and value.strip(b"0 ") != b"")
            for name, value in self._headers
        )

    def refuse_if_too_large(self) -> None:
        """Raise a 413 `GatewayError` if the announced length exceeds the limit."""
        for name, value in self._headers:
            if name == b"content-length" and value.isdigit() and int(value) > self._limits.body_bytes:
                raise self._too_large()

    async def read(self) -> bytes:
        """Return the whole body as `valid_json` returns it. Raises `GatewayError` (408, 413), `ClientDisconnect`."""
        async with self._slots:
            body = bytearray()
            async for chunk in self.chunks():
                body += chunk
            return valid_json(bytes(body))

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield the body as it arrives. Raises `GatewayError` (408, 413), `ClientDisconnect`."""
        ends_at = asyncio.get_running_loop().time() + self._limits.body_s
        size_bytes, more = 0, True
        try:
            while more:
                chunk, more = await self._next(ends_at)
                size_bytes += len(chunk)
                if size_bytes > self._limits.body_bytes:
                    raise self._too_large()
                if chunk:
                    yield chunk
        finally:
            self.discard()

    def discard(self) -> None:
        """Drop what has not been read yet."""
        self._is_done.set()

    def discard_if_absent(self) -> None:
        """Watch the connection from now on if the request has no body to be read later."""
        if not self.exists:
            self.discard()

    async def wait_disconnect(self) -> None:
        """Return when the client has disconnected."""
        await self._is_done.wait()
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def _next(self, ends_at: float) -> tuple[bytes, bool]:
        try:
            async with asyncio.timeout_at(ends_at):
                message = await self._receive()
        except TimeoutError:
            detail = f"The body has not arrived within {self._limits.body_s:g} s"
            raise GatewayError(408, detail, close=True) from None
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        return message.get("body", b""), message.get("more_body", False)

    def _too_large(self) -> GatewayError:
        return GatewayError(413, f"The body is larger than {self._limits.body_bytes:,} bytes")


class GatewayRequest:
    """One request to a session's endpoint."""

    def __init__(
        self,
        endpoint: GatewayEndpoint,
        names: tuple[str, ...],
        api: CoordinatorApi,
        scope: Scope,
        receive: Receive,
        send: Send,
    ) -> None:
        """`names`: the decoded path after the token."""
        self.endpoint = endpoint
        self.names = names
        self.api = api
        self.method: str = scope["method"]
        self.headers: list[tuple[bytes, bytes]] = scope["headers"]
        self.body = RequestBody(receive, self.headers, endpoint.limits, endpoint.body_slots)
        self._scope, self._receive, self._send = scope, receive, send
        self._is_response_started = False

    def query(self, *allowed: str) -> dict[str, str]:
        """Return the allowed parameters. Raises a 400 `GatewayError`."""
        return paths.query_of(self._scope["query_string"], frozenset(allowed))

    async def respond(self, response: Response) -> None:
        await response(self._scope, self._receive, self.send)

    async def send(self, message: Message) -> None:
        self._is_response_started = True
        await self._send(message)

    async def run_until_disconnect(self, work: Coroutine[Any, Any, None]) -> None:
        """Run `work`. Cancel it if the client disconnects or the endpoint closes. The latter is a 404 `GatewayError`.

        `work` has to read or discard the body, because a disconnect is noticed only afterwards.
        """
        session_id = self.endpoint.session_id
        working = asyncio.create_task(work, name=f"gateway {session_id}")
        ends = [
            asyncio.create_task(self.body.wait_disconnect(), name=f"gateway disconnect {session_id}"),
            asyncio.create_task(self.endpoint.closed.wait(), name=f"gateway endpoint {session_id}"),
        ]
        try:
            await asyncio.wait([working, *ends], return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (working, *ends):
                task.cancel()
            await asyncio.wait([working, *ends])
        if not working.cancelled():
            working.result()
        elif self.endpoint.closed.is_set() and not self._is_response_started:
            raise not_found()


def decode_fields(body: bytes, form: type[Fields]) -> Fields:
    """Return the fields of `form`, a Struct or dict of `Raw`, undecoded.

    Decoded objects take many times the memory of their text. The JSON of the other fields is checked, except for
    escapes and numbers out of range. If a key occurs twice, the last value counts. `body` comes from
    `RequestBody.read`. Raises a 400 `GatewayError`.
    """
    if not body:
        raise GatewayError(400, "The body is missing: a JSON object is expected")
    try:
        return msgspec.json.decode(body, type=form)
    except msgspec.ValidationError:
        raise GatewayError(400, "The body is not a JSON object") from None
    except DECODE_FAULTS as defect:
        raise GatewayError(400, f"The body is not valid JSON: {json_error(body, defect)}") from None


def text_or_none(field: Field, name: str) -> str | None:
    """Return the string, or None if the field is absent or null. Raises a 400 `GatewayError` for other types."""
    if field is UNSET:
        return None
    try:
        return msgspec.json.decode(field, type=str | None)
    except DECODE_FAULTS:
        raise GatewayError(400, f"{name}: a string is expected") from None


def required_text(field: Field, name: str) -> str:
    """Return the string. Raises a 400 `GatewayError` if it is absent, null, empty or of another type."""
    value = text_or_none(field, name)
    if not value:
        raise GatewayError(400, f"{name}: a string is expected that is not empty")
    return value
