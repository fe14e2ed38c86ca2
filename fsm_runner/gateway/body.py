"""The body of an executor's request, and the end of its connection: both come by the same way."""

import asyncio
from collections.abc import AsyncIterator

from starlette.requests import ClientDisconnect
from starlette.types import Receive

from fsm_runner.gateway.errors import Refusal
from fsm_runner.gateway.headers import RawHeaders
from fsm_runner.gateway.limits import GatewayLimits
from fsm_runner.protocol.json_text import sound_json


class RequestBody:
    """Read it with `read` or `chunks`, once, or let it go. Only then can the end of the connection be seen."""

    def __init__(self, receive: Receive, headers: RawHeaders, limits: GatewayLimits, turns: asyncio.Semaphore) -> None:
        """`turns`: how many bodies may be in memory at once."""
        self._receive = receive
        self._headers = headers
        self._limits = limits
        self._turns = turns
        self._left_alone = asyncio.Event()

    @property
    def exists(self) -> bool:
        """Whether the request announces one."""
        return any(
            name == b"transfer-encoding" or (name == b"content-length" and value.strip(b"0 ") != b"")
            for name, value in self._headers
        )

    def refuse_if_too_large(self) -> None:
        """By the length that is announced. Raises a 413 `Refusal`."""
        for name, value in self._headers:
            if name == b"content-length" and value.isdigit() and int(value) > self._limits.body_bytes:
                raise self._too_large()

    async def read(self) -> bytes:
        """The whole body, a JSON text, as `sound_json` returns it. Raises `Refusal` (408, 413), `ClientDisconnect`."""
        async with self._turns:
            body = bytearray()
            async for chunk in self.chunks():
                body += chunk
            return sound_json(bytes(body))

    async def chunks(self) -> AsyncIterator[bytes]:
        """As it comes in. Raises the same."""
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
            self.let_go()

    def let_go(self) -> None:
        """Nobody reads it any more; what is left of it is thrown away."""
        self._left_alone.set()

    def let_go_if_none(self) -> None:
        """For who may read it later: where there is none, the client is watched from now on."""
        if not self.exists:
            self.let_go()

    async def hangup(self) -> None:
        """Return when the client has left."""
        await self._left_alone.wait()
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def _next(self, ends_at: float) -> tuple[bytes, bool]:
        try:
            async with asyncio.timeout_at(ends_at):
                message = await self._receive()
        except TimeoutError:
            limit = f"The body has not arrived within {self._limits.body_s:g} s"
            raise Refusal(408, limit, close=True) from None
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        return message.get("body", b""), message.get("more_body", False)

    def _too_large(self) -> Refusal:
        return Refusal(413, f"The body is larger than {self._limits.body_bytes:,} bytes")
