"""Which proxy the environment names for a URL."""

import importlib.util
import os
import urllib.request
from urllib.parse import unquote_to_bytes

import httpx
import msgspec

from fsm_runner.coordinator_client.no_proxy import is_exempt
from fsm_runner.protocol.urls import http_url

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
