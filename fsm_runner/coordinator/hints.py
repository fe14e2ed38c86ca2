"""What a failed call means for the person who set it up, and what to do about it."""

import os
import re
import socket
import ssl
from collections.abc import Iterator

import anyio
import httpx

from fsm_runner.coordinator.proxies import Proxy

DOCKER_HOST = "host.docker.internal"
_UNRESOLVED_DOCKER_HOST = (
    f"; Docker on Linux sets this name only where the container is started with --add-host {DOCKER_HOST}:host-gateway "
    "(in a compose file: extra_hosts)"
)
_OTHER_NAME = "; the certificate is for another host name: use a name in the URL that the certificate covers"
_NOT_VALID_NOW = "; renew the server's certificate, or set this machine's clock"
_UNKNOWN_AUTHORITY = "; name the file with its authority's certificate in SSL_CERT_FILE"
_NO_TLS = "; the server does not use TLS on this port: if the port is right, use http:// in the URL"
_MAYBE_NO_TLS = "; the connection ended during the TLS handshake: if the port serves plain HTTP, use http:// in the URL"
_TLS = "; the port expects TLS: use https:// in the URL"
_MAYBE_TLS = "; a port that expects TLS answers plain HTTP this way: if it does, use https:// in the URL"

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

_OTHER_NAME_CODES = frozenset({62, 64})
"""OpenSSL's X509_V_ERR_HOSTNAME_MISMATCH and X509_V_ERR_IP_ADDRESS_MISMATCH."""
_NOT_VALID_NOW_CODES = frozenset({9, 10})
"""X509_V_ERR_CERT_NOT_YET_VALID and X509_V_ERR_CERT_HAS_EXPIRED."""
_UNKNOWN_AUTHORITY_CODES = frozenset({2, 18, 19, 20, 21})
"""The issuer is not found, or it signed itself and is not trusted."""
_NO_TLS_REASONS = frozenset({"WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG"})
_HANDSHAKE_ENDED = (anyio.EndOfStream, anyio.BrokenResourceError, ConnectionError, ssl.SSLEOFError)
_ANSWERS_OF_TLS = ("Server disconnected without sending a response", "illegal request line")
"""How a TLS server reacts to plain HTTP: it closes the connection, or sends an alert, which is binary."""
_PLAIN_TO_TLS_PAGE = re.compile(
    r"plain HTTP request was sent to HTTPS|HTTP request to an HTTPS server|speaking plain HTTP"
)
_GATEWAY_STATUSES = frozenset({403, 502, 503, 504})
"""Statuses with which a proxy answers on its own behalf."""
_BASIC = re.compile(r"(^|,)\s*basic\b", re.IGNORECASE)


def fault_text(fault: Exception, url: str, proxy: Proxy | None = None, *, was_answered: bool = False) -> str:
    """The cause of a failed call of this URL, and what to do about it if that is known.

    `was_answered`: the server has answered earlier calls, so it is set up correctly.
    """
    text = _reason(fault)
    if (hint := _hint_of_cause(fault, url, proxy)) is not None:
        return text + hint
    if proxy is not None and isinstance(fault, httpx.ConnectError | httpx.ConnectTimeout):
        return f"the proxy {proxy} cannot be reached: {text}"
    if proxy is not None and isinstance(fault, httpx.ProxyError):
        status = int(text[:3]) if text[:3].isdigit() else 0
        return f"the proxy {proxy} does not connect to it: {text}{proxy_hint(status, proxy)}"
    if httpx.URL(url).scheme == "https":
        return text + _MAYBE_NO_TLS if isinstance(fault, httpx.ConnectError) and _handshake_ended(fault) else text
    is_suspect = isinstance(fault, httpx.RemoteProtocolError) and not was_answered
    return text.rstrip(".") + _MAYBE_TLS if is_suspect and text.startswith(_ANSWERS_OF_TLS) else text


def page_hint(url: str, status: int, page: str) -> str:
    """What to do about an answer that does not come from a coordinator; empty if that is not known."""
    is_plain = httpx.URL(url).scheme == "http"
    return _TLS if is_plain and status == httpx.codes.BAD_REQUEST and _PLAIN_TO_TLS_PAGE.search(page) else ""


def challenge_of(answer: httpx.Response) -> str:
    """How it asks for credentials: its `WWW-Authenticate` header."""
    challenge: str = answer.headers.get("www-authenticate", "")
    return challenge


def asks_for_password(challenge: str) -> bool:
    """Whether a `WWW-Authenticate` header asks for a user name and password."""
    return _BASIC.search(challenge) is not None


def login_hint(challenge: str, url: str, *, brings_token: bool) -> str:
    """What to do about a 401 of the coordinator at this URL."""
    if not asks_for_password(challenge):
        return "" if brings_token else _NO_AUTH0
    if brings_token:
        return _LOGIN_BESIDE_AUTH0
    return _LOGIN_REFUSED if httpx.URL(url).userinfo else _NO_LOGIN


def proxy_hint(status: int, proxy: Proxy | None) -> str:
    """How the proxy may be the cause of an answer with this status; empty if it is not."""
    if proxy is None:
        return ""
    if status == httpx.codes.PROXY_AUTHENTICATION_REQUIRED:
        return f"; the proxy {proxy} asks for a login: set {proxy.variable} to http://USER:PASSWORD@HOST:PORT"
    return f"; the call went through the proxy {proxy}" if status in _GATEWAY_STATUSES else ""


def _reason(fault: Exception) -> str:
    """The text of a fault. httpx gives time-outs no text, and failed connections a text without the cause."""
    if isinstance(fault, httpx.TimeoutException | TimeoutError):
        what = "connection" if isinstance(fault, httpx.ConnectTimeout) else "answer"
        return f"no {what} within the time limit ({type(fault).__name__})"
    numbers = {cause.errno for cause in _causes(fault) if isinstance(cause, ConnectionError) and cause.errno}
    if isinstance(fault, httpx.ConnectError) and numbers:
        return ", ".join(sorted(map(os.strerror, numbers)))
    return str(fault) or type(fault).__name__


def _hint_of_cause(fault: Exception, url: str, proxy: Proxy | None) -> str | None:
    """None if no exception below those of httpx says more."""
    for cause in _causes(fault):
        match cause:
            case ssl.SSLCertVerificationError():
                return _certificate_hint(cause.verify_code)
            case ssl.SSLError() if cause.reason in _NO_TLS_REASONS:
                return _NO_TLS
            case socket.gaierror():
                host = httpx.URL(url if proxy is None else proxy.url).host
                return f": {host}" + (_UNRESOLVED_DOCKER_HOST if host == DOCKER_HOST else "")
    return None


def _certificate_hint(code: int) -> str:
    if code in _OTHER_NAME_CODES:
        return _OTHER_NAME
    if code in _NOT_VALID_NOW_CODES:
        return _NOT_VALID_NOW
    return _UNKNOWN_AUTHORITY if code in _UNKNOWN_AUTHORITY_CODES else ""


def _handshake_ended(fault: Exception) -> bool:
    """Whether the connection was established and then ended."""
    causes = list(_causes(fault))
    was_refused = any(isinstance(cause, ConnectionRefusedError) for cause in causes)
    return not was_refused and any(isinstance(cause, _HANDSHAKE_ENDED) for cause in causes)


def _causes(fault: BaseException) -> Iterator[BaseException]:
    """The fault, and the exceptions that caused it."""
    seen: list[BaseException] = [fault]
    for each in seen:
        yield each
        members = each.exceptions if isinstance(each, BaseExceptionGroup) else ()
        for cause in (each.__cause__ or each.__context__, *members):
            if cause is not None and cause not in seen:
                seen.append(cause)
