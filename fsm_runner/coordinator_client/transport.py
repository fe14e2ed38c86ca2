"""One HTTP call to the coordinator: a response of limited size, or one of the errors of `errors.py`."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager

import httpx

from fsm_runner.coordinator_client import policy
from fsm_runner.coordinator_client.auth import NOT_REGISTERED_TEXT, TokenAuth
from fsm_runner.coordinator_client.errors import (
    AgentNameCollision,
    DuplicateRunner,
    NoConnection,
    NotAuthenticated,
    NotRegistered,
    Refused,
    RegistrationSuperseded,
    RunReassigned,
    Unreachable,
)
from fsm_runner.coordinator_client.hints import login_hint, page_hint, proxy_hint
from fsm_runner.coordinator_client.http_clients import ClientFactory, exchange, send
from fsm_runner.coordinator_client.pool import ConnectionPool
from fsm_runner.coordinator_client.redirects import has_path, redirect_of, redirect_text
from fsm_runner.coordinator_client.response import ApiResponse
from fsm_runner.coordinator_client.response_body import READ_ERRORS
from fsm_runner.diagnostics.redaction import without_login
from fsm_runner.errors import UsageError
from fsm_runner.protocol.error_bodies import ErrorDetail, detail_of, has_detail
from fsm_runner.protocol.statuses import TRANSIENT_HTTP_STATUSES
from fsm_runner.protocol.urls import http_url
from fsm_runner.util.text import excerpt

SHARED_AGENT_HINT = (
    "Runners can bring the same agent only to a coordinator of fsm-runner, and only with the same profile and the same "
    "definition. Otherwise define the agent at the coordinator and remove `agents_dir` from the profile, or give the "
    "agents of each runner names of their own"
)

NO_HEADERS: Mapping[str, str] = {}

TOO_LARGE_STATUSES = frozenset({413, 414, 431})
"""Final also if they come from a proxy, which has limits and pages of its own."""


class Transport:
    """The connections to one coordinator."""

    def __init__(self, url: str, auth: httpx.Auth | None, connections: int) -> None:
        """Raises `UsageError` if the URL, or a proxy or certificate variable, is invalid."""
        self.url = checked_url(url)
        self._auth = auth
        self._new_client = ClientFactory(self.url, "coordinator URL", auth=auth)
        self._connections = ConnectionPool(self._new_client, connections)
        # Poll, heartbeat and registration have connections of their own, so that reports cannot delay them.
        self._control_connections = ConnectionPool(self._new_client, policy.REPORT_CONNECTIONS)

    async def aclose(self) -> None:
        await self._connections.aclose()
        await self._control_connections.aclose()

    @asynccontextmanager
    async def open(
        self, method: str, path: str, headers: list[tuple[str, str]], content: bytes | AsyncIterator[bytes] | None
    ) -> AsyncIterator[httpx.Response]:
        """Yield a response of any status but a redirect, with its body unread.

        Raises `Unreachable`, or `Refused` if the path makes no URL. A streamed `content` cannot be sent twice, so a
        redirect, or a 401 that asks for a new token, raises `Unreachable`. Errors of its iterator pass through.
        """
        # Forwarded headers may have any bytes. httpx encodes text as ASCII.
        raw_headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]
        async with AsyncExitStack() as stack:
            try:
                async with asyncio.timeout(policy.CONNECT_TIMEOUT_S + policy.RESPONSE_TIMEOUT_S):
                    http = await stack.enter_async_context(self._connections.acquire())
                    # Reading the body has no time limit, because it may be a stream of events.
                    timeouts = httpx.Timeout(None, connect=policy.CONNECT_TIMEOUT_S)
                    response = await send(http, method, self.url + path, content, raw_headers, timeouts)
            except (*READ_ERRORS, httpx.StreamError, httpx.InvalidURL, TimeoutError) as error:
                raise self._error_from(method, path, error) from error
            stack.push_async_callback(response.aclose)
            if (redirect := redirect_of(response)) is not None:
                raise Unreachable(f"{method} {self.url}{path}: {redirect_text(path, redirect)}", response.status_code)
            yield response

    async def call(
        self,
        method: str,
        path: str,
        content: bytes | None = None,
        *,
        headers: Mapping[str, str] = NO_HEADERS,
        timeout_s: float = policy.RESPONSE_TIMEOUT_S,
        control: bool = False,
    ) -> ApiResponse:
        """Return a 2xx response. `control` selects the connections for calls that must not wait for reports.

        Raises `Unreachable`, `NotRegistered` or `Refused` (and its subclasses), nothing else.
        """
        connections = self._control_connections if control else self._connections
        try:
            # httpx limits the time of each read. A slow response of many reads needs a limit for all.
            async with asyncio.timeout(policy.CONNECT_TIMEOUT_S + timeout_s), connections.acquire() as http:
                timeouts = httpx.Timeout(timeout_s, connect=policy.CONNECT_TIMEOUT_S, pool=None)
                url = self.url + path
                response = await exchange(
                    http, method, url, content, headers, timeouts=timeouts, limit_bytes=policy.RESPONSE_LIMIT_BYTES
                )
        except (*READ_ERRORS, httpx.InvalidURL, TimeoutError) as error:
            raise self._error_from(method, path, error) from error
        self._new_client.was_answered = True
        if not httpx.codes.is_success(response.status):
            raise self._error_of(path, response)
        return response

    def _error_from(self, method: str, path: str, error: Exception) -> Unreachable | Refused:
        """Return the error for a call without a response."""
        if isinstance(error, httpx.InvalidURL):
            message = f"{method} {self.url}: a name in the path makes no URL: {error}"
            return Refused(message, httpx.codes.REQUEST_URI_TOO_LONG)
        text = self._new_client.failure_text(error)
        if isinstance(error, TimeoutError) and isinstance(self._auth, TokenAuth) and self._auth.awaited_url:
            text = f"the token service {self._auth.awaited_url} has not answered within the time limit"
        if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.ProxyError):
            return NoConnection(f"Cannot connect to Agent Coordinator at {self.url}: {text}")
        return Unreachable(f"{method} {self.url}{path}: {text}")

    def _error_of(self, path: str, response: ApiResponse) -> Unreachable | NotRegistered | Refused:
        status, message, proxy = response.status, str(response), self._new_client.proxy
        if response.final_url is not None and not has_path(response.final_url, path):
            return Unreachable(f"{message} (redirected to {excerpt(str(response.final_url))})", status)
        if status == httpx.codes.UNAUTHORIZED and NOT_REGISTERED_TEXT in response.text:
            return NotRegistered(message)
        if status == httpx.codes.UNAUTHORIZED:
            hint = login_hint(response.challenge, self.url, has_token=self._auth is not None)
            return NotAuthenticated(message + hint, status, response.body)
        if status == httpx.codes.FORBIDDEN:
            return NotAuthenticated(message + proxy_hint(status, proxy), status, response.body)
        if status == httpx.codes.CONFLICT and (conflict := _conflict(response)) is not None:
            return conflict
        is_final = httpx.codes.is_client_error(status) and status not in TRANSIENT_HTTP_STATUSES
        if status in TOO_LARGE_STATUSES or (is_final and has_detail(response.body)):
            return Refused(message, status, response.body)
        if response.redirect is not None:
            return Unreachable(f"{response.call}: HTTP {status}: {redirect_text(path, response.redirect)}", status)
        hint = page_hint(self.url, status, response.text, proxy) or proxy_hint(status, proxy, response.challenge)
        return Unreachable(message + hint, status)


def checked_url(url: str) -> str:
    """Return the URL without a trailing slash. Raises `UsageError` unless it is an http(s) URL without a query."""
    try:
        parts = http_url(url)
        is_valid = not parts.query and not parts.fragment
    except ValueError:
        is_valid = False
    if not is_valid:
        raise UsageError(f"coordinator URL {without_login(url)!r}: expected http://HOST[:PORT] or https://HOST[:PORT]")
    return url.rstrip("/")


def _conflict(response: ApiResponse) -> Refused | None:
    """Return the error of a 409 about a registration or a run; None if it is another one."""
    match detail_of(response.body):
        case ErrorDetail(error="duplicate_runner") as detail:
            return DuplicateRunner(excerpt(detail.message) or "a runner with the same identity is online", detail)
        case ErrorDetail(error="agent_name_collision") as detail:
            message = detail.message or f"agent {detail.agent_name} belongs to another runner"
            return AgentNameCollision(f"{excerpt(message).removesuffix('.')}. {SHARED_AGENT_HINT}", detail)
        case ErrorDetail(error="run_reassigned") as detail:
            return RunReassigned(excerpt(detail.message) or "the coordinator has given the run away", detail.attempt)
        case ErrorDetail(error="registration_superseded") as detail:
            message = detail.message or "another process has registered under the identity of this runner"
            return RegistrationSuperseded(excerpt(message), response.status, response.body)
    return None
