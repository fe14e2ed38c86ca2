"""The redirects that a call follows, and the error text for the others.

307 and 308 keep method and body, so the call can be repeated. It is repeated only at the same host, because it may
carry credentials.
"""

from urllib.parse import urljoin

import httpx
import msgspec

from fsm_runner.diagnostics.redaction import without_logins
from fsm_runner.protocol.urls import http_url, port_of
from fsm_runner.util.text import excerpt

FOLLOWED_STATUSES = frozenset({307, 308})
REDIRECT_LIMIT = 5
"""The most redirects that one call follows."""

_REDIRECT_STATUSES = frozenset({301, 302, 303}) | FOLLOWED_STATUSES
_LOCATION = "fsm_runner.location"


class Redirect(msgspec.Struct, frozen=True):
    """A response that points to another URL."""

    location: str
    """The `Location` header; empty if there is none."""
    target: httpx.URL | None
    """The absolute URL; None if the location is not a URL that can be called."""


async def keep_location(response: httpx.Response) -> None:
    """Move the `Location` of a redirect out of the headers. A response hook of every client.

    httpx resolves that header in each response. If it is not a URL, httpx raises an error that does not show it.
    """
    if response.has_redirect_location:
        response.extensions[_LOCATION] = response.headers.pop("location")


def redirect_of(response: httpx.Response) -> Redirect | None:
    """Return the redirect of a response; None if it is not a redirect."""
    if response.status_code not in _REDIRECT_STATUSES:
        return None
    location = str(response.extensions.get(_LOCATION, "")).strip()
    if not location:
        return Redirect("", None)
    try:
        return Redirect(location, http_url(urljoin(str(response.request.url), location)))
    except ValueError:
        return Redirect(location, None)


def followed_target(response: httpx.Response) -> httpx.URL | None:
    """Return the URL at which to repeat the call; None if there is no redirect, or it is not followed."""
    redirect = redirect_of(response)
    if redirect is None or redirect.target is None or response.status_code not in FOLLOWED_STATUSES:
        return None
    return redirect.target if _is_same_host(response.request.url, redirect.target) else None


def has_path(url: httpx.URL, path: str) -> bool:
    """Return whether a URL after redirects still has the path of the call, perhaps with a prefix or a final slash."""
    found = url.raw_path.decode("ascii").partition("?")[0]
    return found.rstrip("/").endswith(path.partition("?")[0].rstrip("/"))


def redirect_text(path: str, redirect: Redirect, *, domain_variable: str = "") -> str:
    """Return what to do about a redirect that was not followed, of a call of `path` below a configured URL.

    `domain_variable` names the setting with the host of the URL, if no setting has the whole URL.
    """
    if not redirect.location:
        return "redirects, but names no target (its Location header is empty or missing): is the URL right?"
    if redirect.target is None:
        location = excerpt(without_logins(redirect.location))
        return f"redirects to {location!r}, which is not a URL that can be called: is the URL right?"
    url = without_logins(str(redirect.target))
    configured = url.removesuffix(path)
    if domain_variable:
        domain = configured.removeprefix("https://")
        is_domain = configured not in {url, domain} and "/" not in domain
        return f"redirects to {excerpt(url)}; " + (
            f"set {domain_variable} to {excerpt(domain)}" if is_domain else f"correct {domain_variable}"
        )
    if configured == url:
        return f"redirects to {excerpt(url)}; configure that one, unless it is a login page"
    return f"redirects to {excerpt(url)}; configure that one ({excerpt(configured)})"


def _is_same_host(asked: httpx.URL, target: httpx.URL) -> bool:
    """Return whether scheme, host and port are equal, or only change from http to https at their default ports."""
    here, there = ((url.scheme, port_of(url)) for url in (asked, target))
    is_upgrade = (here, there) == (("http", 80), ("https", 443))
    return asked.raw_host == target.raw_host and (is_upgrade or here == there)
