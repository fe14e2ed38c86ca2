"""One HTTP call to the coordinator: a bounded answer, or one of the faults of `faults.py`.

What an answer means beyond its status is the business of `api.py`.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import httpx

from fsm_runner.coordinator_client.auth import NOT_REGISTERED_TEXT, TokenAuth
from fsm_runner.coordinator_client.errors import (
    AgentNameCollision,
    DuplicateRunner,
    NoConnection,
    NotAuthenticated,
    NotRegistered,
    Refused,
    RegistrationConflict,
    Unreachable,
)
from fsm_runner.coordinator_client.hints import login_hint, page_hint, proxy_hint
from fsm_runner.coordinator_client.http_clients import ClientFactory, exchange, opened
from fsm_runner.coordinator_client.policy import (
    CONNECT_TIMEOUT_S,
    REPORT_CONNECTIONS,
    RESPONSE_LIMIT_BYTES,
    RESPONSE_TIMEOUT_S,
)
from fsm_runner.coordinator_client.pool import ONE_CONNECTION, Connections
from fsm_runner.coordinator_client.redirects import is_about, redirect_of, redirect_text
from fsm_runner.coordinator_client.response import ApiResponse
from fsm_runner.coordinator_client.response_body import READ_ERRORS
from fsm_runner.diagnostics.redaction import without_login
from fsm_runner.errors import UsageError
from fsm_runner.protocol.error_bodies import ErrorDetail, detail_of, has_detail
from fsm_runner.protocol.statuses import TRANSIENT_HTTP_STATUSES
from fsm_runner.protocol.urls import http_url
from fsm_runner.util.text import excerpt

TOO_LARGE_STATUSES = frozenset({413, 414, 431})
"""Final, whoever says so: a proxy before the coordinator has its own limits and its own pages."""


class Transport:
    """Connections to one coordinator."""

    def __init__(self, url: str, auth: httpx.Auth | None, connections: int) -> None:
        """Raises `UsageError` where the URL, or a proxy or certificate variable, is no good."""
        self.url = checked_url(url)
        self._auth = auth
        self._new_client = ClientFactory(self.url, "coordinator URL", auth=auth, limits=ONE_CONNECTION)
        self._connections = Connections(self._new_client, connections)
        # Poll, heartbeat and registration have connections of their own: no number of reports can keep them waiting.
        self._line = Connections(self._new_client, REPORT_CONNECTIONS)

    async def aclose(self) -> None:
        await self._connections.aclose()
        await self._line.aclose()

    @asynccontextmanager
    async def open(
        self, method: str, path: str, headers: list[tuple[str, str]], content: bytes | AsyncIterator[bytes] | None
    ) -> AsyncIterator[httpx.Response]:
        """An open answer of any status but redirects, its body unread. Raises `Unreachable`, `Refused` where the URL
        is none.

        Content that comes as a stream cannot be sent a second time: `Unreachable` where new credentials, or a
        redirect, would ask for that. What its iterator raises is passed through.
        """
        # A header that comes from elsewhere may hold any byte; as text, httpx takes ASCII alone.
        raw_headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]
        async with AsyncExitStack() as stack:
            try:
                async with asyncio.timeout(CONNECT_TIMEOUT_S + RESPONSE_TIMEOUT_S):
                    http = await stack.enter_async_context(self._connections.one())
                    response = await self._opened(http, method, path, raw_headers, content)
            except (*READ_ERRORS, httpx.StreamError, TimeoutError) as fault:
                raise self._unreachable(method, path, fault) from fault
            except httpx.InvalidURL as defect:
                raise _no_url(method, self.url, defect) from defect
            stack.push_async_callback(response.aclose)
            yield response

    async def _opened(
        self,
        http: httpx.AsyncClient,
        method: str,
        path: str,
        raw_headers: list[tuple[bytes, bytes]],
        content: bytes | AsyncIterator[bytes] | None,
    ) -> httpx.Response:
        # No limit on how long the body takes: it may be a stream of events.
        limits = httpx.Timeout(None, connect=CONNECT_TIMEOUT_S)
        response = await opened(http, method, self.url + path, content, raw_headers, limits)
        if (redirect := redirect_of(response)) is not None:
            await response.aclose()
            raise Unreachable(f"{method} {self.url}{path}: {redirect_text(path, redirect)}", response.status_code)
        return response

    async def call(
        self,
        method: str,
        path: str,
        content: bytes | None = None,
        *,
        limit_s: float = RESPONSE_TIMEOUT_S,
        line: bool = False,
    ) -> ApiResponse:
        """The answer, where it is a 2xx. `limit_s`: how long it may take. `line`: over the runner's own line.

        Raises `Unreachable`, `NotRegistered` or `Refused` (and its kinds), nothing else.
        """
        connections = self._line if line else self._connections
        try:
            # httpx limits each read; an answer that drips would never end by that.
            async with asyncio.timeout(CONNECT_TIMEOUT_S + limit_s), connections.one() as http:
                answer = await self._exchange(http, method, path, content, limit_s)
        except (*READ_ERRORS, TimeoutError) as fault:
            raise self._unreachable(method, path, fault) from fault
        except httpx.InvalidURL as defect:
            raise _no_url(method, self.url, defect) from defect
        if not httpx.codes.is_success(answer.status):
            raise self._fault_of(path, answer)
        return answer

    def _unreachable(self, method: str, path: str, fault: Exception) -> Unreachable:
        text = self._new_client.fault_text(fault)
        if isinstance(fault, TimeoutError) and isinstance(self._auth, TokenAuth) and self._auth.awaited_url:
            text = f"the token service {self._auth.awaited_url} has not answered within the time limit"
        if isinstance(fault, httpx.ConnectError | httpx.ConnectTimeout | httpx.ProxyError):
            return NoConnection(f"Cannot connect to Agent Coordinator at {self.url}: {text}")
        return Unreachable(f"{method} {self.url}{path}: {text}")

    async def _exchange(
        self, http: httpx.AsyncClient, method: str, path: str, content: bytes | None, limit_s: float
    ) -> ApiResponse:
        limits = httpx.Timeout(limit_s, connect=CONNECT_TIMEOUT_S, pool=None)
        url = self.url + path
        answer = await exchange(http, method, url, content, limits=limits, limit_bytes=RESPONSE_LIMIT_BYTES)
        self._new_client.was_answered = True
        return answer

    def _fault_of(self, path: str, answer: ApiResponse) -> Unreachable | NotRegistered | Refused:
        status = answer.status
        message = str(answer)
        if answer.came_from is not None and not is_about(path, answer.came_from):
            return Unreachable(f"{message} (redirected to {excerpt(str(answer.came_from))})", status)
        if status == httpx.codes.UNAUTHORIZED and NOT_REGISTERED_TEXT in answer.text:
            return NotRegistered(message)
        if status in {httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN}:
            return NotAuthenticated(message + self._login_hint(answer), status, answer.body)
        if status == httpx.codes.CONFLICT and (conflict := _registration_conflict(answer)) is not None:
            return conflict
        if status in TOO_LARGE_STATUSES:
            return Refused(message, status, answer.body)
        if httpx.codes.is_client_error(status) and status not in TRANSIENT_HTTP_STATUSES and has_detail(answer.body):
            return Refused(message, status, answer.body)
        if answer.redirect is not None:
            return Unreachable(f"{answer.call}: HTTP {status}: {redirect_text(path, answer.redirect)}", status)
        proxy = self._new_client.proxy
        hint = page_hint(self.url, status, answer.text, proxy) or proxy_hint(status, proxy, answer.challenge)
        return Unreachable(message + hint, status)

    def _login_hint(self, answer: ApiResponse) -> str:
        if answer.status != httpx.codes.UNAUTHORIZED:
            return proxy_hint(answer.status, self._new_client.proxy)
        return login_hint(answer.challenge, self.url, brings_token=self._auth is not None)


def checked_url(url: str) -> str:
    """The URL without a trailing slash. Raises `UsageError` where it is no http(s) URL with a host and no query."""
    try:
        parts = http_url(url)
        is_sound = not parts.query and not parts.fragment
    except ValueError:
        is_sound = False
    if not is_sound:
        shown_url = without_login(url)
        raise UsageError(f"coordinator URL {shown_url!r}: expected http://HOST[:PORT] or https://HOST[:PORT]")
    return url.rstrip("/")


def _no_url(method: str, url: str, defect: httpx.InvalidURL) -> Refused:
    message = f"{method} {url}: a name from outside makes no URL: {defect}"
    return Refused(message, httpx.codes.REQUEST_URI_TOO_LONG)


def _registration_conflict(response: ApiResponse) -> RegistrationConflict | None:
    detail = detail_of(response.body)
    if not isinstance(detail, ErrorDetail):
        return None
    match detail.error:
        case "duplicate_runner":
            return DuplicateRunner(excerpt(detail.message) or "a runner with the same identity is online", detail)
        case "agent_name_collision":
            message = detail.message or f"agent {detail.agent_name} belongs to another runner"
            return AgentNameCollision(excerpt(message), detail)
        case _:
            return None
