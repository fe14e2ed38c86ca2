"""NO_PROXY as curl reads it: names with their subdomains, addresses, ranges of addresses, and `*`."""

import functools
import ipaddress
import re

import httpx
import msgspec
from loguru import logger

from fsm_runner.protocol.urls import port_of

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
