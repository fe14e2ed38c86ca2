"""What an executor asks of the gateway and what it is answered, as it passes."""

import asyncio
import time
from collections.abc import Callable
from typing import Literal

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fsm_runner.protocol.error_bodies import reason_of
from fsm_runner.protocol.json_text import decode_json, sound_json
from fsm_runner.protocol.wire import DECODE_FAULTS, JsonObject

KEPT_ANSWER_BYTES = 2048

MessageKind = Literal["bind", "event", "metadata"]
_KINDS: dict[tuple[str, str], MessageKind] = {
    ("POST", "bind"): "bind",
    ("POST", "events"): "event",
    ("PATCH", "metadata"): "metadata",
}


class Exchange:
    """One request. Times are monotonic, in seconds."""

    def __init__(self, method: str, path: str, arrived_at: float) -> None:
        self.method = method
        self.path = path
        """Below the executor's base URL."""
        self.arrived_at = arrived_at
        self.body = bytearray()
        self.status: int | None = None
        self.answer = bytearray()
        """Its beginning."""
        self.answered_at: float | None = None

    @property
    def kind(self) -> MessageKind | None:
        """What it tells of the session (section 3); None for any other call."""
        return _KINDS.get((self.method, self.path.rstrip("/").rsplit("/", 1)[-1]))

    @property
    def accepted(self) -> bool:
        return self.status is not None and 200 <= self.status < 300

    @property
    def fields(self) -> JsonObject:
        """The body where it is a JSON object, else empty: the gateway has refused that."""
        try:
            decoded: object = decode_json(sound_json(bytes(self.body)))
        except DECODE_FAULTS:
            return {}
        return decoded if isinstance(decoded, dict) else {}

    def __str__(self) -> str:
        status = "not answered" if self.status is None else f"answered with {self.status}"
        reason = reason_of(bytes(self.answer)) or self.answer.decode(errors="replace")
        return f"{self.method} {self.path} {status}: {reason}"


class Listener:
    """Whoever wants to know of the requests that come through one door."""

    def __init__(self, on_arrival: Callable[[Exchange], None], on_answer: Callable[[Exchange], None]) -> None:
        self.on_arrival = on_arrival
        self.on_answer = on_answer
        self.gate = asyncio.Event()
        """While it is not set, requests are held before anything is done with them."""
        self.gate.set()


class RecordingApp:
    """The gateway's application, with listeners by the doors' tokens."""

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
        listener.on_arrival(exchange)
        await listener.gate.wait()

        async def received() -> Message:
            message = await receive()
            exchange.body += message.get("body", b"")
            return message

        async def sent(message: Message) -> None:
            _note_answer(exchange, message)
            if message["type"] == "http.response.body" and not message.get("more_body", False):
                # Before the executor has it: what it does next, it does later.
                listener.on_answer(exchange)
            await send(message)

        await self._app(scope, received, sent)


def _note_answer(exchange: Exchange, message: Message) -> None:
    if message["type"] == "http.response.start":
        exchange.status = message["status"]
        exchange.answered_at = time.monotonic()
    else:
        room = KEPT_ANSWER_BYTES - len(exchange.answer)
        exchange.answer += message.get("body", b"")[:room]
