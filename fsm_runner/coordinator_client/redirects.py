"""Which redirects are followed, and the error text for the others.

307 and 308 keep method and body, so a call can be repeated. It is repeated only at the same host, since it
may carry credentials.
"""

from urllib.parse import urljoin

import httpx
import msgspec

from fsm_runner.diagnostics.redaction import without_logins
from fsm_runner.protocol.urls import http_url, port_of
from fsm_runner.util.text import excerpt

FOLLOWED_STATUSES = frozenset({307, 308})
FOLLOWED_TIMES = 5
"""The number of redirects that one call follows."""

_REDIRECT_STATUSES = frozenset({301, 302, 303}) | FOLLOWED_STATUSES
_LOCATION = "fsm_runner.location"


class Redirect(msgspec.Struct, frozen=True):
    """An answer that points to another URL."""

    location: str
    """The `Location` header; empty if there is none."""
    target: httpx.URL | None
    """The absolute URL; None if the location is not a URL that can be called."""


async def keep_location(answer: httpx.Response) -> None:
    """A response hook for every client: moves the `Location` of a redirect out of the headers.

    httpx resolves that header in each answer, and raises an error that does not show it if it is not a URL.
    """
    if answer.has_redirect_location:
        answer.extensions[_LOCATION] = answer.headers.pop("location")


def redirect_of(answer: httpx.Response) -> Redirect | None:
    """The redirect of an answer; None if it is none."""
    if answer.status_code not in _REDIRECT_STATUSES:
        return None
    location = str(answer.extensions.get(_LOCATION, "")).strip()
    if not location:
        return Redirect("", None)
    try:
        return Redirect(location, http_url(urljoin(str(answer.request.url), location)))
    except ValueError:
        return Redirect(location, None)


def followed_target(answer: httpx.Response) -> httpx.URL | None:
    """The URL to repeat the call at; None if the redirect is not followed, or if there is none."""
    redirect = redirect_of(answer)
    if redirect is None or redirect.target is None or answer.status_code not in FOLLOWED_STATUSES:
        return None
    return redirect.target if _is_same_host(answer.request.url, redirect.target) else None


def is_about(path: str, target: httpx.URL) -> bool:
    """Whether a redirect of a call of `path` leads to the same thing in another place: below a prefix, or with a slash
    at its end."""
    there = target.raw_path.decode("ascii").partition("?")[0]
    return there.rstrip("/").endswith(path.partition("?")[0].rstrip("/"))


def redirect_text(path: str, redirect: Redirect, *, domain_variable: str = "") -> str:
    """What to do about a call of `path`, below a configured URL, that was redirected and not followed.

    `domain_variable`: the setting with the host of the URL, if no setting holds the whole URL.
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


def too_often_text(target: httpx.URL) -> str:
    return f"redirects more than {FOLLOWED_TIMES} times, at last to {excerpt(without_logins(str(target)))}"


def _is_same_host(asked: httpx.URL, target: httpx.URL) -> bool:
    """The same scheme, host and port; or the same host by HTTPS, where both ports are the usual ones."""
    here, there = _place(asked), _place(target)
    is_upgrade = (asked.scheme, here[1], target.scheme, there[1]) == ("http", 80, "https", 443)
    return here[0] == there[0] and (is_upgrade or (asked.scheme == target.scheme and here[1] == there[1]))


def _place(url: httpx.URL) -> tuple[bytes, int | None]:
    return url.raw_host, port_of(url)
