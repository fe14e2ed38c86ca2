"""HTTP clients with the proxies and certificates of the environment, and calls with a limited response."""

import asyncio
import ipaddress
import os
import ssl
from collections.abc import AsyncIterator, Mapping

import httpx

from fsm_runner import __version__
from fsm_runner.coordinator_client import redirects
from fsm_runner.coordinator_client.errors import Unreachable
from fsm_runner.coordinator_client.hints import URL_SETTING, UrlSetting, challenge_of, failure_text
from fsm_runner.coordinator_client.policy import CONNECT_TIMEOUT_S
from fsm_runner.coordinator_client.pool import ONE_CONNECTION
from fsm_runner.coordinator_client.proxies import Proxy, proxy_for
from fsm_runner.coordinator_client.response import ApiResponse
from fsm_runner.coordinator_client.response_body import PLAIN, READ_ERRORS, NoCookies, chunks_of
from fsm_runner.diagnostics.redaction import without_logins
from fsm_runner.errors import UsageError
from fsm_runner.protocol.urls import http_url
from fsm_runner.util.text import excerpt

USER_AGENT = f"fsm-runner/{__version__}"


def is_loopback(host: str) -> bool:
    """Return whether the host of a URL, without brackets, is this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


class ClientFactory:
    """Creates HTTP clients for one server."""

    def __init__(
        self, url: str, name: str, *, auth: httpx.Auth | None = None, setting: UrlSetting = URL_SETTING
    ) -> None:
        """`name` is what messages call the URL, and `setting` is where it is configured.

        Raises `UsageError` if the URL, or a variable such as HTTPS_PROXY or SSL_CERT_FILE, is invalid.
        """
        self._url = url
        self._auth = auth
        self._setting = setting
        self.was_answered = False
        """Whether the server has answered a call. Those that make calls set it."""
        named_url = f"{name} {without_logins(url)!r}"
        try:
            address = http_url(url)
            # Programs on the same machine need no proxy between them.
            self.proxy: Proxy | None = None if is_loopback(address.host) else proxy_for(address)
        except ValueError as error:
            raise UsageError(f"{named_url}: {error}") from None
        uses_tls = address.scheme == "https" or (self.proxy is not None and self.proxy.uses_tls)
        # All clients share the certificates, because they take memory and time to load. Plain HTTP needs none. A
        # server on this machine may have a certificate of an authority that only SSL_CERT_FILE knows.
        try:
            self._certificates: ssl.SSLContext = httpx.create_ssl_context(verify=uses_tls)
        except OSError as error:
            variables = (name for name in ("SSL_CERT_FILE", "SSL_CERT_DIR") if os.environ.get(name))
            used = next((f"{name}={os.environ[name]!r}" for name in variables), "the system's certificates")
            raise UsageError(f"{named_url}: {used} cannot be used: {error}") from error

    def __call__(self) -> httpx.AsyncClient:
        proxy = None
        if self.proxy is not None:
            proxy = httpx.Proxy(self.proxy.url, ssl_context=self._certificates if self.proxy.uses_tls else None)
        return httpx.AsyncClient(
            auth=self._auth,
            headers={"accept-encoding": PLAIN, "user-agent": USER_AGENT},
            cookies=NoCookies(),
            limits=ONE_CONNECTION,
            event_hooks={"response": [redirects.keep_location]},
            # httpx would read the proxy variables itself, and it rejects NO_PROXY entries that curl accepts.
            trust_env=False,
            proxy=proxy,
            verify=self._certificates,
        )

    def failure_text(self, error: Exception) -> str:
        """Return the cause of a failed call, and what to do about it."""
        return failure_text(error, self._url, self.proxy, self._setting, was_answered=self.was_answered)

    async def single_call(
        self, method: str, content: bytes | None = None, *, timeout_s: float, limit_bytes: int
    ) -> ApiResponse:
        """Make one JSON call on a connection of its own. Raises `Unreachable`, also for a redirect."""
        try:
            # httpx limits the time of each read. A slow response of many reads needs a limit for all.
            async with asyncio.timeout(timeout_s), self() as http:
                timeouts = httpx.Timeout(timeout_s, connect=CONNECT_TIMEOUT_S)
                response = await exchange(
                    http, method, self._url, content, {}, timeouts=timeouts, limit_bytes=limit_bytes
                )
        except (*READ_ERRORS, httpx.InvalidURL, TimeoutError) as error:
            raise Unreachable(f"{method} {self._url}: {self.failure_text(error)}") from error
        self.was_answered = True
        if response.redirect is not None:
            path = httpx.URL(self._url).raw_path.decode("ascii")
            domain_variable = self._setting.name if self._setting.needs_tls else ""
            reason = redirects.redirect_text(path, response.redirect, domain_variable=domain_variable)
            raise Unreachable(f"{response.call}: HTTP {response.status}: {reason}")
        return response


async def exchange(
    http: httpx.AsyncClient,
    method: str,
    url: str,
    content: bytes | None,
    headers: Mapping[str, str],
    *,
    timeouts: httpx.Timeout,
    limit_bytes: int,
) -> ApiResponse:
    """Send a request, follow redirects, and read the response.

    Raises `Unreachable` if it is too large or redirected too often, and what httpx raises.
    """
    call = f"{method} {url}"
    sent = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
    if content is not None:
        sent.append((b"content-type", b"application/json"))
    response = await send(http, method, url, content, sent, timeouts)
    try:
        body = bytearray()
        async for chunk in chunks_of(response):
            body += chunk
            if len(body) > limit_bytes:
                raise Unreachable(f"{call}: the response is larger than {limit_bytes:,} bytes")
    finally:
        await response.aclose()
    final_url = None if response.request.url == httpx.URL(url) else response.request.url
    return ApiResponse(
        call, response.status_code, bytes(body), challenge_of(response), redirects.redirect_of(response), final_url
    )


async def send(
    http: httpx.AsyncClient,
    method: str,
    url: str,
    content: bytes | AsyncIterator[bytes] | None,
    headers: list[tuple[bytes, bytes]],
    timeouts: httpx.Timeout,
) -> httpx.Response:
    """Send a request, follow redirects, and return the open response, which the caller reads and closes.

    Streamed content cannot be sent again, so its redirects are not followed. Raises `Unreachable` for too many
    redirects, and what httpx raises.
    """
    target: httpx.URL | str = url
    for _ in range(redirects.REDIRECT_LIMIT + 1):
        request = http.build_request(method, target, content=content, headers=headers, timeout=timeouts)
        response = await http.send(request, stream=True)
        followed = None if isinstance(content, AsyncIterator) else redirects.followed_target(response)
        if followed is None:
            return response
        await response.aclose()
        target = followed
    last = excerpt(without_logins(str(target)))
    raise Unreachable(f"{method} {url}: redirects more than {redirects.REDIRECT_LIMIT} times, last to {last}")
