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
"""Those that httpx supports with the package `socksio`."""


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
    """The proxy through which this URL is called; None: it is called directly.

    Raises `ValueError`, with the variable's name, where its value is no proxy that can be used.
    """
    set_ones = urllib.request.getproxies()
    found = set_ones.get(url.scheme) or set_ones.get("all")
    if not found or is_exempt(url, set_ones.get("no", "")):
        return None
    names = [f"{scheme}_proxy" for scheme in (url.scheme, "all")]
    variables = sorted(
        (name for name in os.environ if name.lower() in names), key=lambda name: name.lower() == names[1]
    )
    variable = next((name for name in variables if os.environ[name] == found), "the system's settings")
    proxy = Proxy(found if "://" in found else f"http://{found}", variable)
    try:
        _check(proxy.url)
    except ValueError as defect:
        raise ValueError(f"{variable} cannot be used: {defect}") from None
    return proxy


def _check(url: str) -> None:
    """Raises `ValueError`."""
    scheme, _, rest = url.partition("://")
    is_socks = scheme.lower() in _SOCKS_SCHEMES
    if is_socks and importlib.util.find_spec("socksio") is None:
        raise ValueError(
            "it names a SOCKS proxy, which is supported only where the Python package socksio is installed: "
            "install it (pip install socksio), or name an http:// proxy"
        )
    # The scheme does not matter to the rest of the check.
    checked = http_url(f"http://{rest}" if is_socks else url)
    try:
        unquote_to_bytes(checked.userinfo).decode()
    except UnicodeDecodeError:
        raise ValueError("the %XX of its login are not UTF-8") from None


_NAME = re.compile(r"[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?)*")
_WITH_PORT = re.compile(r"(?P<host>\[[^\]]*\]|[^:\[\]]*):(?P<port>[0-9]{1,5})")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class _Exception(msgspec.Struct, frozen=True):
    """One entry: a name or a network. It holds for every port and scheme where these are None."""

    name: str | None = None
    """A host name in lower case, which includes its subdomains. `*`: every host."""
    network: Network | None = None
    """A single address is a network of one."""
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
    """Whether NO_PROXY excepts the host of this URL from proxies. Warns of entries that cannot be read."""
    return any(each.covers(url) for each in _exceptions(no_proxy))


@functools.cache
def _exceptions(no_proxy: str) -> tuple[_Exception, ...]:
    """Cached, so that a warning comes once."""
    found = []
    for text in re.split(r"[\s,]+", no_proxy):
        if not text:
            continue
        try:
            found.append(_parsed(text))
        except ValueError:
            logger.warning("NO_PROXY: {!r} is skipped: not a host name, an address or a range such as 10.0.0.0/8", text)
    return tuple(found)


def _parsed(text: str) -> _Exception:
    """Raises `ValueError`."""
    before, _, rest = text.rpartition("://")
    scheme, port = before.lower() or None, None
    if (match := _WITH_PORT.fullmatch(rest)) is not None:
        rest, port = match["host"], int(match["port"])
    if rest == "*":
        return _Exception(name="*", port=port, scheme=scheme)
    if ":" in rest or "/" in rest or _address(rest) is not None:
        return _Exception(network=_network(rest), port=port, scheme=scheme)
    name = _ascii(rest.lower().removeprefix("*").strip("."))
    if not _NAME.fullmatch(name):
        raise ValueError(text)
    return _Exception(name=name, port=port, scheme=scheme)


def _network(text: str) -> Network:
    """The network of an address or a range, with or without brackets. Raises `ValueError`."""
    match = re.fullmatch(r"\[([^\[\]]*)\](/[0-9]+)?", text)
    return ipaddress.ip_network(text if match is None else match[1] + (match[2] or ""), strict=False)


def _address(host: str) -> Address | None:
    try:
        # A zone such as %eth0 says on which network an address is, not which one it is.
        return ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None


def _ascii(name: str) -> str:
    """The name in the ASCII form of the DNS. Raises `ValueError` if it cannot be a name."""
    try:
        return httpx.URL(scheme="http", host=name).raw_host.decode("ascii")
    except httpx.InvalidURL as defect:
        raise ValueError(str(defect)) from defect
