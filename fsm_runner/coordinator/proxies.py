"""Which proxy the environment names for a URL."""

import os
import urllib.request

import httpx
import msgspec

from fsm_runner.coordinator.no_proxy import is_exempt


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


def proxy_for(url: httpx.URL) -> Proxy | None:
    """The proxy through which this URL is called, its own URL unchecked; None: it is called directly."""
    set_ones = urllib.request.getproxies()
    found = set_ones.get(url.scheme) or set_ones.get("all")
    if not found or is_exempt(url, set_ones.get("no", "")):
        return None
    names = [f"{scheme}_proxy" for scheme in (url.scheme, "all")]
    variables = sorted(
        (name for name in os.environ if name.lower() in names), key=lambda name: name.lower() == names[1]
    )
    variable = next((name for name in variables if os.environ[name] == found), "the system's settings")
    return Proxy(found if "://" in found else f"http://{found}", variable)
