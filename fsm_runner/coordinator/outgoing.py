"""HTTP clients as the environment wants them: its proxies and certificates; and one bounded exchange with a server."""

import asyncio
import ipaddress
import os
import ssl
from collections.abc import Callable
from urllib.parse import urlsplit

import httpx
import msgspec

from fsm_runner.coordinator.faults import Unreachable
from fsm_runner.coordinator.policy import CONNECT_LIMIT_S
from fsm_runner.coordinator.reading import NoCookies, chunks_of
from fsm_runner.coordinator.unpacking import PLAIN
from fsm_runner.errors import UsageError

LOCALHOST = "localhost"
_CERTIFICATES = ("SSL_CERT_FILE", "SSL_CERT_DIR")
_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")


class Exchanged(msgspec.Struct, frozen=True):
    """An answer that was read to its end."""

    status: int
    body: bytes


def is_loopback(host: str) -> bool:
    """Whether a host of a URL, without brackets, is this machine's own."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == LOCALHOST


def client_factory(
    url: str, what: str, *, auth: httpx.Auth | None = None, limits: httpx.Limits | None = None
) -> Callable[[], httpx.AsyncClient]:
    """Makes clients for the host of this URL; `what` says whose URL it is.

    Raises `UsageError` where a variable of the environment, such as HTTPS_PROXY or SSL_CERT_FILE, is no good.
    """
    parts = urlsplit(url)
    # A proxy has no business between two programs of the same machine.
    through_proxies = not is_loopback(parts.hostname or "")
    limits = limits or httpx.Limits()

    def new_client() -> httpx.AsyncClient:
        return httpx.AsyncClient(
            auth=auth,
            headers={"accept-encoding": PLAIN},
            cookies=NoCookies(),
            limits=limits,
            trust_env=through_proxies,
            verify=certificates,
        )

    # Certificates take memory and time to load: all clients share them, and plain HTTP has no use for them.
    # Those of SSL_CERT_FILE count for this machine's own servers too: who else would know their authority?
    try:
        certificates: ssl.SSLContext = httpx.create_ssl_context(verify=parts.scheme == "https")
    except OSError as fault:
        raise UsageError(f"{what} {url!r}: {_certificates_used()} cannot be used: {fault}") from fault
    try:
        new_client()
    except (ImportError, ValueError, OSError, httpx.InvalidURL) as fault:
        raise UsageError(f"{what} {url!r}: {_proxies_set()} cannot be used: {fault}") from fault
    return new_client


def _certificates_used() -> str:
    """The file goes before the folder."""
    set_ones = [f"{name}={os.environ[name]!r}" for name in _CERTIFICATES if os.environ.get(name)]
    return set_ones[0] if set_ones else "the system's certificates"


def _proxies_set() -> str:
    """By their names alone: a URL may hold a password."""
    return ", ".join(name for name in os.environ if name.upper() in _PROXIES)


def fault_text(fault: Exception) -> str:
    """What to do stands with it where that can be known. Time-outs have no text of their own."""
    text = str(fault) or type(fault).__name__
    if "CERTIFICATE_VERIFY_FAILED" in text:
        return f"{text}; name the file with its authority's certificate in SSL_CERT_FILE"
    return text


async def exchanged(
    new_client: Callable[[], httpx.AsyncClient],
    method: str,
    url: str,
    content: bytes | None = None,
    *,
    limit_s: float,
    limit_bytes: int,
) -> Exchanged:
    """One call on a connection of its own, JSON there and back. Raises `Unreachable`, nothing else."""
    headers = {"content-type": "application/json"}
    limits = httpx.Timeout(limit_s, connect=CONNECT_LIMIT_S)
    body = bytearray()
    try:
        # httpx limits each read; an answer that drips would never end by that.
        async with (
            asyncio.timeout(limit_s),
            new_client() as http,
            http.stream(method, url, content=content, headers=headers, timeout=limits) as response,
        ):
            async for chunk in chunks_of(response):
                body += chunk
                if len(body) > limit_bytes:
                    raise Unreachable(f"{method} {url}: the answer is larger than {limit_bytes:,} bytes")
    except (httpx.HTTPError, httpx.InvalidURL, TimeoutError) as fault:
        raise Unreachable(f"{method} {url}: {fault_text(fault)}") from fault
    return Exchanged(response.status_code, bytes(body))
