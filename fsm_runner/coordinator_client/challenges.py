"""What an answer that asks for credentials means for the person who set it up. RFC 9110, section 11."""

import re

import httpx

from fsm_runner.coordinator_client.proxies import Proxy

_NO_AUTH0 = (
    "; it asks for a token, and none is configured: set AUTH0_DOMAIN, AUTH0_RUNNER_CLIENT_ID, "
    "AUTH0_RUNNER_CLIENT_SECRET and AUTH0_AUDIENCE"
)
_NO_LOGIN = (
    "; it asks for a user name and a password (WWW-Authenticate: Basic): put them into the coordinator URL, as in "
    "http://USER:PASSWORD@HOST"
)
_LOGIN_REFUSED = "; it does not accept the user name and password of the coordinator URL"
_LOGIN_BESIDE_AUTH0 = (
    "; a proxy in front of it asks for a user name and a password (WWW-Authenticate: Basic), and a call that has a "
    "token cannot have them as well: let the proxy pass calls that have a token"
)
_BASIC_BEFORE_TOKENS = (
    "; a proxy in front of the token service asks for a user name and a password (WWW-Authenticate: Basic), which the "
    "runner does not have: let the proxy pass these calls"
)

_GATEWAY_STATUSES = frozenset({403, 502, 503, 504})
"""Statuses with which a proxy answers on its own behalf."""
_QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"')
_SCHEME = re.compile(r"(?:^|,)\s*([A-Za-z][A-Za-z0-9-]{0,39})(?=\s+[^\s=,]|\s*(?:,|$))")
"""A name that no `=` follows: that would be a parameter of the scheme before it."""


def challenge_of(answer: httpx.Response) -> str:
    """How it asks for credentials: `WWW-Authenticate`, or the header of a proxy that asks for its own."""
    is_proxys = answer.status_code == httpx.codes.PROXY_AUTHENTICATION_REQUIRED
    challenge: str = answer.headers.get("proxy-authenticate" if is_proxys else "www-authenticate", "")
    return challenge


def login_hint(challenge: str, url: str, *, brings_token: bool) -> str:
    """What to do about a 401 of the coordinator at this URL."""
    schemes = _schemes(challenge)
    if "basic" in schemes and not (brings_token and "bearer" in schemes):
        if brings_token:
            return _LOGIN_BESIDE_AUTH0
        return _LOGIN_REFUSED if httpx.URL(url).userinfo else _NO_LOGIN
    if schemes and "bearer" not in schemes:
        return _unsupported(schemes, "WWW-Authenticate", "the coordinator")
    return "" if brings_token else _NO_AUTH0


def token_service_login_hint(challenge: str) -> str:
    """What to do about a 401 to a request for a token, if something in front of the token service sent it."""
    schemes = _schemes(challenge)
    if "basic" in schemes:
        return _BASIC_BEFORE_TOKENS
    is_unsupported = schemes and "bearer" not in schemes
    return _unsupported(schemes, "WWW-Authenticate", "the token service") if is_unsupported else ""


def proxy_hint(status: int, proxy: Proxy | None, challenge: str = "") -> str:
    """How the proxy may be the cause of an answer with this status; empty if it is not."""
    if proxy is None:
        return ""
    if status != httpx.codes.PROXY_AUTHENTICATION_REQUIRED:
        return f"; the call went through the proxy {proxy}" if status in _GATEWAY_STATUSES else ""
    schemes = _schemes(challenge)
    if schemes and "basic" not in schemes:
        named = ", ".join(schemes.values())
        return (
            f"; the proxy {proxy} asks for a login by {named} (Proxy-Authenticate), which is not supported, only Basic "
            f"is: set {proxy.variable} to another proxy, or name the host in NO_PROXY"
        )
    if proxy.has_login:
        return f"; the proxy {proxy} does not accept the user name and password of {proxy.variable}: correct them"
    return f"; the proxy {proxy} asks for a login: set {proxy.variable} to http://USER:PASSWORD@HOST:PORT"


def _schemes(challenge: str) -> dict[str, str]:
    """The authentication schemes that it offers, in lower case, and as the server writes them."""
    return {name.lower(): name for name in _SCHEME.findall(_QUOTED.sub('""', challenge))}


def _unsupported(schemes: dict[str, str], header: str, what: str) -> str:
    return (
        f"; it asks for authentication by {', '.join(schemes.values())} ({header}), which is not supported: let what "
        f"asks for it, usually a proxy in front of {what}, pass these calls"
    )
