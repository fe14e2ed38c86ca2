"""The proxy that the environment names for a URL, and the exceptions of NO_PROXY."""

import functools
import importlib.util
import ipaddress
import os
import re
import urllib.request
from urllib.parse import unquote_to_bytes

import httpx
import msgspec
from loguru import logger

from fsm_runner.protocol.urls import http_url, port_of

_SOCKS_SCHEMES = frozenset({"socks5", "socks5h"})
"""The schemes that httpx supports with the package `socksio`."""


class Proxy(msgspec.Struct, frozen=True):
    url: str
    """With user name and password, if it has them."""
    variable: str
    """The variable that sets it, for messages."""

    def __str__(self) -> str:
        """Without user name and password."""
        url = httpx.URL(self.url)
        return f"{url.scheme}://{url.netloc.decode('ascii')} ({self.variable})"

    __repr__ = __str__

    @property
    def uses_tls(self) -> bool:
        return httpx.URL(self.url).scheme == "https"

    @property
    def has_login(self) -> bool:
        return bool(httpx.URL(self.url).userinfo)


def proxy_for(url: httpx.URL) -> Proxy | None:
    """Return the proxy for calls of this URL; None: direct. Raises `ValueError` naming a variable that is unusable."""
    configured = urllib.request.getproxies()
    found = configured.get(url.scheme) or configured.get("all")
    if not found or is_exempt(url, configured.get("no", "")):
        return None
    variables = [name for kind in (url.scheme, "all") for name in os.environ if name.lower() == f"{kind}_proxy"]
    variable = next((name for name in variables if os.environ[name] == found), "the system's settings")
    proxy = Proxy(found if "://" in found else f"http://{found}", variable)
    try:
        _check(proxy.url)
    except ValueError as error:
        raise ValueError(f"{variable} cannot be used: {error}") from None
    return proxy


def _check(url: str) -> None:
    """Raises `ValueError`."""
    scheme, _, rest = url.partition("://")
    is_socks = scheme.lower() in _SOCKS_SCHEMES
    if is_socks and importlib.util.find_spec("socksio") is None:
        raise ValueError(
            "it names a SOCKS proxy, which needs the Python package socksio: "
            "install it (pip install socksio), or name an http:// proxy"
        )
    # The rest of the check does not depend on the scheme.
    checked = http_url(f"http://{rest}" if is_socks else url)
    try:
        unquote_to_bytes(checked.userinfo).decode()
    except UnicodeDecodeError:
        raise ValueError("the %XX of its login are not UTF-8") from None


_NAME = re.compile(r"[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?)*")
_WITH_PORT = re.compile(r"(?P<host>\[[^\]]*\]|[^:\[\]]*):(?P<port>[0-9]{1,5})")


class _Exception(msgspec.Struct, frozen=True):
    """One entry of NO_PROXY: a name or a network, for every port and scheme if these are None."""

    name: str | None = None
    """A host name in lower case, with its subdomains. `*`: every host."""
    network: ipaddress.IPv4Network | ipaddress.IPv6Network | None = None
    """A single address is a network of one address."""
    port: int | None = None
    scheme: str | None = None

    def covers(self, url: httpx.URL) -> bool:
        if self.scheme not in (None, url.scheme) or self.port not in (None, port_of(url)):
            return False
        host = url.raw_host.decode("ascii").rstrip(".")
        if self.name == "*":
            return True
        if (address := _address(host)) is not None:
            return self.network is not None and address in self.network
        return self.name is not None and f".{host}".endswith(f".{self.name}")


def is_exempt(url: httpx.URL, no_proxy: str) -> bool:
    """Return whether NO_PROXY exempts the host of this URL. Log a warning for each invalid entry."""
    return any(each.covers(url) for each in _exceptions(no_proxy))


@functools.cache
def _exceptions(no_proxy: str) -> tuple[_Exception, ...]:
    """Cached, so that each warning is logged once."""
    found = []
    for text in re.findall(r"[^\s,]+", no_proxy):
        try:
            found.append(_parsed(text))
        except (ValueError, httpx.InvalidURL):
            logger.warning("NO_PROXY: {!r} is skipped: not a host name, an address or a range such as 10.0.0.0/8", text)
    return tuple(found)


def _parsed(text: str) -> _Exception:
    """Raises `ValueError` or `httpx.InvalidURL`."""
    before, _, rest = text.rpartition("://")
    scheme, port = before.lower() or None, None
    if (match := _WITH_PORT.fullmatch(rest)) is not None:
        rest, port = match["host"], int(match["port"])
    if rest == "*":
        return _Exception(name="*", port=port, scheme=scheme)
    if ":" in rest or "/" in rest or _address(rest) is not None:
        without_brackets = re.sub(r"^\[([^\[\]]*)\](?=$|/[0-9]+$)", r"\1", rest)
        return _Exception(network=ipaddress.ip_network(without_brackets, strict=False), port=port, scheme=scheme)
    # The name as the DNS encodes it, in ASCII.
    name = httpx.URL(scheme="http", host=rest.lower().removeprefix("*").strip(".")).raw_host.decode("ascii")
    if not _NAME.fullmatch(name):
        raise ValueError(text)
    return _Exception(name=name, port=port, scheme=scheme)


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        # A zone such as %eth0 names a network interface. It is not part of the address.
        return ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None
