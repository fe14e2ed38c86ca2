"""HTTP clients as the environment wants them: its proxies and certificates; and one bounded exchange with a server."""

import asyncio
import ipaddress
import os
import ssl
from collections.abc import AsyncIterator

import httpx

from fsm_runner import __version__
from fsm_runner.coordinator_client.errors import Unreachable
from fsm_runner.coordinator_client.hints import URL_SETTING, Setting, challenge_of, fault_text
from fsm_runner.coordinator_client.policy import CONNECT_TIMEOUT_S
from fsm_runner.coordinator_client.proxies import Proxy, proxy_for
from fsm_runner.coordinator_client.redirects import (
    FOLLOWED_TIMES,
    Redirect,
    followed_target,
    keep_location,
    redirect_of,
    redirect_text,
    too_often_text,
)
from fsm_runner.coordinator_client.response import ApiResponse
from fsm_runner.coordinator_client.response_body import PLAIN, READ_ERRORS, NoCookies, chunks_of
from fsm_runner.diagnostics.redaction import without_logins
from fsm_runner.errors import UsageError
from fsm_runner.protocol.urls import http_url

LOCALHOST = "localhost"
USER_AGENT = f"fsm-runner/{__version__}"
"""What servers and proxies see in their logs of requests that this program makes."""
_CERTIFICATES = ("SSL_CERT_FILE", "SSL_CERT_DIR")


def is_loopback(host: str) -> bool:
    """Whether a host of a URL, without brackets, is this machine's own."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == LOCALHOST


class ClientFactory:
    """Makes HTTP clients for one server, with the proxies and certificates of the environment."""

    def __init__(
        self,
        url: str,
        what: str,
        *,
        auth: httpx.Auth | None = None,
        limits: httpx.Limits | None = None,
        setting: Setting = URL_SETTING,
    ) -> None:
        """`what` says in messages whose URL it is, `setting` where it is set.

        Raises `UsageError` when the URL, or a variable of the environment such as HTTPS_PROXY or SSL_CERT_FILE, cannot
        be used.
        """
        self._url = url
        self._auth = auth
        self._limits = limits or httpx.Limits()
        self._setting = setting
        self.was_answered = False
        """Whether the server has answered a call. The functions that make calls set it."""
        named = f"{what} {without_logins(url)!r}"
        try:
            address = http_url(url)
            # A proxy has no business between two programs of the same machine.
            self.proxy: Proxy | None = None if is_loopback(address.host) else proxy_for(address)
        except ValueError as defect:
            raise UsageError(f"{named}: {defect}") from None
        uses_tls = address.scheme == "https" or (self.proxy is not None and self.proxy.uses_tls)
        # Certificates take memory and time to load: all clients share them, and plain HTTP has no use for them.
        # Those of SSL_CERT_FILE count for this machine's own servers too: who else would know their authority?
        try:
            self._certificates: ssl.SSLContext = httpx.create_ssl_context(verify=uses_tls)
        except OSError as fault:
            raise UsageError(f"{named}: {_certificates_used()} cannot be used: {fault}") from fault

    def __call__(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(
            auth=self._auth,
            headers={"accept-encoding": PLAIN, "user-agent": USER_AGENT},
            cookies=NoCookies(),
            limits=self._limits,
            event_hooks={"response": [keep_location]},
            # Otherwise httpx reads the proxy variables itself, and it refuses entries of NO_PROXY that curl accepts.
            trust_env=False,
            proxy=None if self.proxy is None else self._httpx_proxy(self.proxy),
            verify=self._certificates,
        )

    def _httpx_proxy(self, proxy: Proxy) -> httpx.Proxy:
        return httpx.Proxy(proxy.url, ssl_context=self._certificates if proxy.uses_tls else None)

    def fault_text(self, fault: Exception) -> str:
        """The cause of a failed call, and what to do about it."""
        return fault_text(fault, self._url, self.proxy, was_answered=self.was_answered, setting=self._setting)

    def redirect_text(self, path: str, redirect: Redirect) -> str:
        """What to do about a redirect that is not followed, of a call of `path`."""
        return redirect_text(path, redirect, domain_variable=self._setting.name if self._setting.needs_tls else "")


def _certificates_used() -> str:
    """The file goes before the folder."""
    set_ones = [f"{name}={os.environ[name]!r}" for name in _CERTIFICATES if os.environ.get(name)]
    return set_ones[0] if set_ones else "the system's certificates"


async def exchanged(
    new_client: ClientFactory,
    method: str,
    url: str,
    content: bytes | None = None,
    *,
    limit_s: float,
    limit_bytes: int,
) -> ApiResponse:
    """One call on a connection of its own, JSON there and back. Raises `Unreachable`, also for a redirect."""
    try:
        # httpx limits each read; an answer that drips would never end by that.
        async with asyncio.timeout(limit_s), new_client() as http:
            limits = httpx.Timeout(limit_s, connect=CONNECT_TIMEOUT_S)
            answer = await exchange(http, method, url, content, limits=limits, limit_bytes=limit_bytes)
    except (*READ_ERRORS, httpx.InvalidURL, TimeoutError) as fault:
        raise Unreachable(f"{method} {url}: {new_client.fault_text(fault)}") from fault
    new_client.was_answered = True
    if answer.redirect is not None:
        path = httpx.URL(url).raw_path.decode("ascii")
        raise Unreachable(f"{answer.call}: HTTP {answer.status}: {new_client.redirect_text(path, answer.redirect)}")
    return answer


async def exchange(
    http: httpx.AsyncClient, method: str, url: str, content: bytes | None, *, limits: httpx.Timeout, limit_bytes: int
) -> ApiResponse:
    """The answer to one call, after the redirects that are followed.

    Raises `Unreachable` where it is too large or redirected too often, and what httpx raises.
    """
    call = f"{method} {url}"
    headers = [] if content is None else [(b"content-type", b"application/json")]
    response = await opened(http, method, url, content, headers, limits)
    try:
        body = bytearray()
        async for chunk in chunks_of(response):
            body += chunk
            if len(body) > limit_bytes:
                raise Unreachable(f"{call}: the answer is larger than {limit_bytes:,} bytes")
    finally:
        await response.aclose()
    came_from = None if response.request.url == httpx.URL(url) else response.request.url
    return ApiResponse(
        call, response.status_code, bytes(body), challenge_of(response), redirect_of(response), came_from
    )


async def opened(
    http: httpx.AsyncClient,
    method: str,
    url: str,
    content: bytes | AsyncIterator[bytes] | None,
    headers: list[tuple[bytes, bytes]],
    limits: httpx.Timeout,
) -> httpx.Response:
    """The open answer to one call, after the redirects that are followed; the caller reads and closes it.

    Content that comes as a stream cannot be sent again, so its redirects are not followed. Raises `Unreachable` for
    too many redirects, and what httpx raises.
    """
    target: httpx.URL | str = url
    for _ in range(FOLLOWED_TIMES + 1):
        request = http.build_request(method, target, content=content, headers=headers, timeout=limits)
        response = await http.send(request, stream=True)
        followed = None if isinstance(content, AsyncIterator) else followed_target(response)
        if followed is None:
            return response
        await response.aclose()
        target = followed
    raise Unreachable(f"{method} {url}: {too_often_text(httpx.URL(target))}")
