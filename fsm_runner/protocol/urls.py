"""URLs of calls: checks, default ports and path segments."""

from urllib.parse import quote

import httpx

_DEFAULT_PORTS = {"http": 80, "https": 443}
_FORM = "it does not have the form http://HOST:PORT (write special characters of a login as %XX)"


def port_of(url: httpx.URL) -> int | None:
    """Return the port of a request. httpx has `None` for the default port of a scheme."""
    return url.port or _DEFAULT_PORTS.get(url.scheme)


def http_url(text: str) -> httpx.URL:
    """Return an http(s) URL with a host. Raises `ValueError`, quoting at most the scheme: the rest may be a login."""
    try:
        url = httpx.URL(text)
        host = url.host
    # A host name in broken Punycode raises a `ValueError` that is not an `InvalidURL`.
    except (httpx.InvalidURL, ValueError):
        raise ValueError(_FORM) from None
    if not url.scheme:
        raise ValueError(_FORM)
    if url.scheme not in {"http", "https"}:
        raise ValueError(f"the scheme {url.scheme}:// is not http:// or https://")
    if not host:
        raise ValueError("it names no host")
    if url.port is not None and not 1 <= url.port <= 65535:
        raise ValueError("its port is not between 1 and 65535")
    return url


def path_segment(text: str) -> str:
    """Return any text as one path segment. `.` and `..` are escaped too: httpx resolves them before it sends a URL."""
    if text in {".", ".."}:
        return text.replace(".", "%2E")
    return quote(text, safe="", errors="surrogatepass")
