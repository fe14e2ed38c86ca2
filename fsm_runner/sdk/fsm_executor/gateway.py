"""The client of the runner's gateway, through which executors reach the coordinator (protocol.md, section 3)."""

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
from fsm_executor.invocation import excerpt
from fsm_executor.json_text import encode_json, without_lone_surrogates

URL_VARIABLE = "AGENT_ORCHESTRATOR_API_URL"

RESPONSE_LIMIT_S = 120.0
"""The time limit for each read. The gateway may wait for the coordinator before it responds."""

IDLE_LIMIT_S = 1.0
"""The lifetime of an idle connection. Servers keep connections much longer, so none is closed during a request.
Such a request could not be repeated, because the server may have handled it."""


class Answer(NamedTuple):
    status: int
    """The HTTP status."""
    body: Any
    """The decoded JSON, the text if it is not JSON, or None if it is empty."""


class Gateway:
    """Sends requests one after another over one connection, which is closed when idle. Ignores proxy settings."""

    def __init__(self, base_url: str, response_limit_s: float = RESPONSE_LIMIT_S) -> None:
        """Raises `GatewayError` if `base_url` is not an HTTP URL."""
        self._base_url = base_url.rstrip("/")
        self._answer_limit_s = response_limit_s
        self._lock = asyncio.Lock()
        self._connection: HTTPConnection | None = None
        self._used_at = 0.0
        self._idle_timer: asyncio.TimerHandle | None = None
        try:
            self._parts = urlsplit(self._base_url)
            self._port = self._parts.port
        except ValueError as fault:
            raise GatewayError(f"{URL_VARIABLE}: {base_url!r} is not a URL: {fault}") from fault
        if self._parts.scheme not in ("http", "https") or not self._parts.hostname:
            raise GatewayError(f"{URL_VARIABLE}: {base_url!r} is not a URL that begins with http:// or https://")

    async def request(self, method: str, path: str, body: Any = None) -> Answer:
        """Return the response, whatever its status. Raises `GatewayError` if there is none.

        `path` is appended to the base URL, which may have a path of its own. The body is sent as JSON.
        """
        content = None if body is None else encode_json(body, allow_nan=False).encode()
        async with self._lock:
            self._stop_idle_timer()
            connection = self._reusable_connection() or self._new_connection()
            self._connection = connection
            cancelled = threading.Event()
            try:
                answer = await asyncio.to_thread(self._exchange, connection, cancelled, method, path, content)
            except BaseException:
                cancelled.set()
                self._abort(connection)
                raise
            self._used_at = time.monotonic()
            # An executor that waits for its next turn must not occupy one of the gateway's connections.
            self._idle_timer = asyncio.get_running_loop().call_later(IDLE_LIMIT_S, self.close)
        return answer

    async def send(self, method: str, path: str, body: Any) -> None:
        """Like `request`, but also raises `GatewayError` if the status is not 2xx."""
        status, answer = await self.request(method, path, body)
        if not 200 <= status < 300:
            raise GatewayError(f"{method} {path} was answered with {status}: {_reason(answer)}", status)

    def close(self) -> None:
        """Close the connection. There must be no request in progress."""
        self._stop_idle_timer()
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _abort(self, connection: HTTPConnection) -> None:
        """Make the thread of a cancelled request end at once. Its error is discarded."""
        self._connection = None
        active_socket = connection.sock
        if active_socket is not None:
            with contextlib.suppress(OSError):  # it is no longer connected
                active_socket.shutdown(socket.SHUT_RDWR)

    def _stop_idle_timer(self) -> None:
        if self._idle_timer is not None:
            self._idle_timer.cancel()
            self._idle_timer = None

    def _reusable_connection(self) -> HTTPConnection | None:
        connection = self._connection
        if connection is None:
            return None
        idle_s = time.monotonic() - self._used_at
        if connection.sock is not None and idle_s <= IDLE_LIMIT_S and not _has_input(connection.sock):
            return connection
        self.close()
        return None

    def _new_connection(self) -> HTTPConnection:
        connection_type = HTTPSConnection if self._parts.scheme == "https" else HTTPConnection
        return connection_type(self._parts.hostname or "", self._port, timeout=self._answer_limit_s)

    def _exchange(
        self, connection: HTTPConnection, cancelled: threading.Event, method: str, path: str, content: bytes | None
    ) -> Answer:
        headers = {} if content is None else {"Content-Type": "application/json"}
        try:
            if connection.sock is None:
                connection.connect()
            if cancelled.is_set():  # cancelled while connecting, when there was no socket to shut down
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
    """Return whether an idle connection has input, which means that the server has closed it."""
    poll = select.poll()  # select() fails for descriptors above 1,023
    poll.register(connection, select.POLLIN)
    return bool(poll.poll(0))


def _reason(answer: Any) -> str:
    """Return the `detail` of an error response; for a 422, the fields and their errors."""
    detail = answer.get("detail", answer) if isinstance(answer, dict) else answer
    if isinstance(detail, str):
        return detail
    errors: list[Any] = detail if isinstance(detail, list) and detail else [None]
    if not all(isinstance(each, dict) and isinstance(each.get("loc"), list) and "msg" in each for each in errors):
        return excerpt(detail)
    places = [".".join(map(str, each["loc"])).removeprefix("body.") for each in errors]
    return "; ".join(f"{place}: {each['msg']}" for place, each in zip(places, errors, strict=True))


def _decoded(content: bytes) -> Any:
    if not content:
        return None
    try:
        return json.loads(without_lone_surrogates(content.decode("utf-8-sig")))
    except (ValueError, RecursionError):
        return content.decode(errors="replace")
