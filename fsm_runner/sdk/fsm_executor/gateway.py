"""The gateway: an executor's only door to the coordinator (protocol.md, section 3)."""

from __future__ import annotations

import asyncio
import contextlib
import json
import select
import socket
import threading
import time
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from fsm_executor.errors import GatewayError
from fsm_executor.invocation import shown
from fsm_executor.json_text import encode_json, without_lone_surrogates

URL_VARIABLE = "AGENT_ORCHESTRATOR_API_URL"

ANSWER_LIMIT_S = 120.0
"""Without a byte from the gateway. It may wait for the coordinator before it answers."""

KEPT_IDLE_S = 1.0
"""How long an idle connection is used again: far shorter than servers keep one, so none is closed under a request.
A request that was lost that way could not be repeated, since it may have been carried out."""


class Answer(NamedTuple):
    status: int
    """Of HTTP."""
    body: Any
    """Decoded JSON; the text where it is none; None where it is empty."""


class Gateway:
    """One connection, kept while it is in use; calls go one after another. Proxies are not looked at."""

    def __init__(self, base_url: str, answer_limit_s: float = ANSWER_LIMIT_S) -> None:
        """Raises `GatewayError` for what is no URL of HTTP."""
        self._base_url = base_url.rstrip("/")
        self._answer_limit_s = answer_limit_s
        self._one_at_a_time = asyncio.Lock()
        self._connection: HTTPConnection | None = None
        self._used_at = 0.0
        self._idle_timer: asyncio.TimerHandle | None = None
        try:
            self._parts = urlsplit(self._base_url)
            self._port = self._parts.port
        except ValueError as fault:
            raise GatewayError(f"{URL_VARIABLE}: {base_url!r} is no URL: {fault}") from fault
        if self._parts.scheme not in ("http", "https") or not self._parts.hostname:
            raise GatewayError(f"{URL_VARIABLE}: {base_url!r} is no URL that begins with http:// or https://")

    async def request(self, method: str, path: str, body: Any = None) -> Answer:
        """The answer, whatever its status. Raises `GatewayError` where there is none.

        `path` is joined to the base URL, which may have a path of its own. A body is sent as JSON.
        """
        content = None if body is None else encode_json(body, allow_nan=False).encode()
        async with self._one_at_a_time:
            self._stop_idle_timer()
            connection = self._kept_connection() or self._new_connection()
            self._connection = connection
            given_up = threading.Event()
            try:
                answer = await asyncio.to_thread(self._exchange, connection, given_up, method, path, content)
            except BaseException:
                given_up.set()
                self._give_up(connection)
                raise
            self._used_at = time.monotonic()
            # An executor that waits for its next turn must not keep a connection from others.
            self._idle_timer = asyncio.get_running_loop().call_later(KEPT_IDLE_S, self.close)
        return answer

    async def tell(self, method: str, path: str, body: Any) -> None:
        """As `request`; raises `GatewayError` too where the answer is no 2xx."""
        status, answer = await self.request(method, path, body)
        if not 200 <= status < 300:
            raise GatewayError(f"{method} {path} was answered with {status}: {_reason(answer)}", status)

    def close(self) -> None:
        """No request is under way."""
        self._stop_idle_timer()
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _give_up(self, connection: HTTPConnection) -> None:
        """The thread of a request that was cancelled ends at once, with an error that nobody sees."""
        self._connection = None
        under_way = connection.sock
        if under_way is not None:
            with contextlib.suppress(OSError):  # it is not connected any more
                under_way.shutdown(socket.SHUT_RDWR)

    def _stop_idle_timer(self) -> None:
        if self._idle_timer is not None:
            self._idle_timer.cancel()
            self._idle_timer = None

    def _kept_connection(self) -> HTTPConnection | None:
        connection = self._connection
        if connection is None:
            return None
        idle_s = time.monotonic() - self._used_at
        if connection.sock is not None and idle_s <= KEPT_IDLE_S and not _has_input(connection.sock):
            return connection
        self.close()
        return None

    def _new_connection(self) -> HTTPConnection:
        form = HTTPSConnection if self._parts.scheme == "https" else HTTPConnection
        return form(self._parts.hostname or "", self._port, timeout=self._answer_limit_s)

    def _exchange(
        self, connection: HTTPConnection, given_up: threading.Event, method: str, path: str, content: bytes | None
    ) -> Answer:
        headers = {} if content is None else {"Content-Type": "application/json"}
        try:
            if connection.sock is None:
                connection.connect()
            if given_up.is_set():  # while it was being connected: there was nothing yet that could be shut down
                raise ConnectionAbortedError("the request was cancelled")
            connection.request(method, self._parts.path + path, content, headers)
            response = connection.getresponse()
            return Answer(response.status, _decoded(response.read()))
        except TimeoutError as fault:
            connection.close()
            raise GatewayError(
                f"{method} {self._base_url}{path} was not answered within {self._answer_limit_s:g} s"
            ) from fault
        except (OSError, HTTPException) as fault:
            connection.close()
            raise GatewayError(f"{method} {self._base_url}{path} failed: {fault or type(fault).__name__}") from fault


def _has_input(connection: socket.socket) -> bool:
    """An idle connection that has something to read has been closed at the other end."""
    poll = select.poll()  # select() fails where an executor has more than 1,023 files open
    poll.register(connection, select.POLLIN)
    return bool(poll.poll(0))


def _reason(answer: Any) -> str:
    """The `detail` of a refusal; of a 422, its fields with what is wrong with each."""
    detail = answer.get("detail", answer) if isinstance(answer, dict) else answer
    if isinstance(detail, str):
        return detail
    errors: list[Any] = detail if isinstance(detail, list) and detail else [None]
    if not all(isinstance(each, dict) and isinstance(each.get("loc"), list) and "msg" in each for each in errors):
        return shown(detail)
    places = [".".join(map(str, each["loc"])).removeprefix("body.") for each in errors]
    return "; ".join(f"{place}: {each['msg']}" for place, each in zip(places, errors, strict=True))


def _decoded(content: bytes) -> Any:
    if not content:
        return None
    try:
        return json.loads(without_lone_surrogates(content.decode("utf-8-sig")))
    except (ValueError, RecursionError):
        return content.decode(errors="replace")
