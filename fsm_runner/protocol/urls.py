"""What httpx leaves out about URLs: the port of a scheme, and whether a connection can be opened."""

import httpx

_DEFAULT_PORTS = {"http": 80, "https": 443}
_FORM = "it does not have the form http://HOST:PORT (write special characters of a login as %XX)"


def port_of(url: httpx.URL) -> int | None:
    """The port that a request of this URL goes to. httpx has none for a URL with the default port of its scheme."""
    return url.port or _DEFAULT_PORTS.get(url.scheme)


def http_url(text: str) -> httpx.URL:
    """A URL that a connection can be opened to.

    Raises `ValueError` with a reason that quotes at most the scheme: other parts of the text may be a login.
    """
    try:
        url = httpx.URL(text)
        host = url.host
    # A host name in broken Punycode raises an error of its own, a `ValueError`.
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
