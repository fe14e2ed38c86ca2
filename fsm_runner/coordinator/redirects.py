"""Which redirects are followed, and the error text for the others.

307 and 308 keep method and body, so a call can be repeated. It is repeated only at the same host, since it
may carry credentials.
"""

import httpx

from fsm_runner.coordinator.urls import port_of
from fsm_runner.errors import shown
from fsm_runner.redaction import without_logins

FOLLOWED_STATUSES = frozenset({307, 308})
FOLLOWED_TIMES = 5
"""The number of redirects that one call follows."""


def target_of(answer: httpx.Response) -> httpx.URL | None:
    """The target of a redirect; None if the answer is no redirect or does not name a target."""
    return None if answer.next_request is None else answer.next_request.url


def followed_target(answer: httpx.Response) -> httpx.URL | None:
    """The URL to repeat the call at; None if the redirect is not followed, or if there is none."""
    target = target_of(answer)
    if target is None or answer.status_code not in FOLLOWED_STATUSES:
        return None
    return target if _is_same_host(answer.request.url, target) else None


def is_about(path: str, target: httpx.URL) -> bool:
    """Whether a redirect of a call of `path` leads to the same thing in another place: below a prefix, or with a slash
    at its end."""
    there = target.raw_path.decode("ascii").partition("?")[0]
    return there.rstrip("/").endswith(path.partition("?")[0].rstrip("/"))


def redirect_text(path: str, target: httpx.URL) -> str:
    """What to do about a call of `path`, below a configured URL, that was redirected to `target`."""
    url = without_logins(str(target))
    configured = url.removesuffix(path)
    if configured == url:
        return f"redirects to {shown(url)}; configure that one, unless it is a login page"
    return f"redirects to {shown(url)}; configure that one ({shown(configured)})"


def too_often_text(target: httpx.URL) -> str:
    return f"redirects more than {FOLLOWED_TIMES} times, at last to {shown(without_logins(str(target)))}"


def _is_same_host(asked: httpx.URL, target: httpx.URL) -> bool:
    """The same scheme, host and port; or the same host by HTTPS, where both ports are the usual ones."""
    here, there = _place(asked), _place(target)
    is_upgrade = (asked.scheme, here[1], target.scheme, there[1]) == ("http", 80, "https", 443)
    return here[0] == there[0] and (is_upgrade or (asked.scheme == target.scheme and here[1] == there[1]))


def _place(url: httpx.URL) -> tuple[bytes, int | None]:
    return url.raw_host, port_of(url)
