"""The runner's gateway, which also records each request and response of one executor process."""

import asyncio
import time
from collections.abc import Callable
from typing import Literal

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fsm_runner.coordinator_client.api import CoordinatorApi
from fsm_runner.executors.interface import SessionEndpoint
from fsm_runner.gateway.server import Gateway
from fsm_runner.protocol.error_bodies import reason_of
from fsm_runner.protocol.json_text import decode_json, valid_json
from fsm_runner.protocol.wire import DECODE_FAULTS, JsonObject
from fsm_runner.reporting.session_channel import SessionChannel

RECORDED_RESPONSE_BYTES = 2048

MessageKind = Literal["bind", "event", "metadata"]
_KINDS: dict[tuple[str, str], MessageKind] = {
    ("POST", "bind"): "bind",
    ("POST", "events"): "event",
    ("PATCH", "metadata"): "metadata",
}


class Exchange:
    """One request and its response. Times are monotonic, in seconds."""

    def __init__(self, method: str, path: str, received_at: float) -> None:
        self.method = method
        self.path = path
        """Relative to the executor's base URL."""
        self.received_at = received_at
        self.body = bytearray()
        self.status: int | None = None
        self.response = bytearray()
        """The first bytes of the response body."""
        self.responded_at: float | None = None

    @property
    def kind(self) -> MessageKind | None:
        """The kind of session message (section 3); None for any other call."""
        return _KINDS.get((self.method, self.path.rstrip("/").rsplit("/", 1)[-1]))

    @property
    def accepted(self) -> bool:
        return self.status is not None and 200 <= self.status < 300

    @property
    def fields(self) -> JsonObject:
        """The body if it is a JSON object, otherwise an empty dict: the gateway rejects anything else."""
        try:
            decoded: object = decode_json(valid_json(bytes(self.body)))
        except DECODE_FAULTS:
            return {}
        return decoded if isinstance(decoded, dict) else {}

    def __str__(self) -> str:
        status = "got no response" if self.status is None else f"got HTTP {self.status}"
        reason = reason_of(bytes(self.response)) or self.response.decode(errors="replace")
        return f"{self.method} {self.path} {status}: {reason}"


class Listener:
    """Observes the requests to one endpoint, and can hold them back."""

    def __init__(self, on_request: Callable[[Exchange], None], on_response: Callable[[Exchange], None]) -> None:
        self.on_request = on_request
        self.on_response = on_response
        self.gate = asyncio.Event()
        """While it is clear, requests wait before the gateway handles them."""
        self.gate.set()


class RecordingApp:
    """The gateway's ASGI application, with a listener for each endpoint token."""

    def __init__(self, app: ASGIApp, listeners: dict[str, Listener]) -> None:
        self._app = app
        self._listeners = listeners

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        token, _, path = scope["path"].removeprefix("/").partition("/")
        listener = self._listeners.get(token)
        if listener is None:
            await self._app(scope, receive, send)
            return
        exchange = Exchange(scope["method"], f"/{path}", time.monotonic())
        listener.on_request(exchange)
        await listener.gate.wait()

        async def record_request() -> Message:
            message = await receive()
            exchange.body += message.get("body", b"")
            return message

        async def record_response(message: Message) -> None:
            if message["type"] == "http.response.start":
                exchange.status = message["status"]
                exchange.responded_at = time.monotonic()
            else:
                room = RECORDED_RESPONSE_BYTES - len(exchange.response)
                exchange.response += message.get("body", b"")[:room]
            if message["type"] == "http.response.body" and not message.get("more_body", False):
                # Before sending, so that the record shows the response before the executor's reaction to it.
                listener.on_response(exchange)
            await send(message)

        await self._app(scope, record_request, record_response)


class RecordingGateway(Gateway):
    def __init__(self, api: CoordinatorApi) -> None:
        self._listeners: dict[str, Listener] = {}
        super().__init__(api, wrap=lambda app: RecordingApp(app, self._listeners))

    def open_recorded(self, session_id: str, channel: SessionChannel, listener: Listener) -> SessionEndpoint:
        endpoint = self.open(session_id, channel)
        self._listeners[_token(endpoint)] = listener
        return endpoint

    def close_recorded(self, endpoint: SessionEndpoint) -> None:
        endpoint.close()
        self._listeners.pop(_token(endpoint), None)


def _token(endpoint: SessionEndpoint) -> str:
    return endpoint.url.rsplit("/", 1)[-1]
