"""Parts of URLs that httpx leaves out."""

import httpx

_DEFAULT_PORTS = {"http": 80, "https": 443}


def port_of(url: httpx.URL) -> int | None:
    """The port that a request of this URL goes to. httpx has none for a URL with the default port of its scheme."""
    return url.port or _DEFAULT_PORTS.get(url.scheme)
