"""The cause of a failed call in words, and a hint on what to correct."""

import os
import re
import socket
import ssl
from collections.abc import Iterator

import anyio
import httpx
import msgspec

from fsm_runner.coordinator_client.proxies import Proxy
from fsm_runner.util.text import truncated

DOCKER_HOST = "host.docker.internal"
_CLOSED = "the connection was closed without an HTTP response"
_NO_HTTP = "the server sent no HTTP response"
_NO_TLS_REASONS = frozenset({"WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG"})
_HANDSHAKE_ENDED = (anyio.EndOfStream, anyio.BrokenResourceError, ConnectionError, ssl.SSLEOFError)
_BANNER = re.compile(r"illegal status line: bytearray\((?P<text>.*)\)", re.DOTALL)
_TLS_PORT_PAGE = re.compile(r"plain HTTP request was sent to HTTPS|HTTP request to an HTTPS server|speaking plain HTTP")

_GATEWAY_STATUSES = frozenset({403, 502, 503, 504})
"""Statuses of responses that proxies generate."""
_QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"')
_SCHEME = re.compile(r"(?:^|,)\s*([A-Za-z][A-Za-z0-9-]{0,39})(?=\s+[^\s=,]|\s*(?:,|$))")
"""A name without a `=` after it, which would make it a parameter of the scheme before it. RFC 9110, section 11."""


class UrlSetting(msgspec.Struct, frozen=True):
    """The setting with the URL of a connection, for messages."""

    name: str
    """`the URL`, or a variable."""
    owner: str = "the server"
    """The name of the peer."""
    needs_tls: bool = False
    """The setting has no scheme, because HTTPS is always used."""

    def with_http(self) -> str:
        """Return what to do if the peer has no TLS."""
        if self.needs_tls:
            return f"correct {self.name} ({self.owner} is called by HTTPS alone)"
        return f"use http:// in {self.name}"


URL_SETTING = UrlSetting("the URL")


def failure_text(error: Exception, url: str, proxy: Proxy | None, setting: UrlSetting, *, was_answered: bool) -> str:
    """Return the cause of a failed call of this URL, and a hint on what to correct if there is one.

    If the server has answered an earlier call (`was_answered`), its URL is right.
    """
    text = _reason(error)
    address = httpx.URL(url)
    uses_tls = address.scheme == "https"
    if proxy is None:
        return text + _hint(error, address.host, uses_tls, setting, was_answered=was_answered)
    way_out = f"; correct {proxy.variable}, or name the host in NO_PROXY"
    if isinstance(error, httpx.ProxyError):
        status = int(text[:3]) if text[:3].isdigit() else 0
        is_login = status == httpx.codes.PROXY_AUTHENTICATION_REQUIRED
        return f"the proxy {proxy} does not connect to it: {text}{proxy_hint(status, proxy) if is_login else way_out}"
    is_tls_fault = isinstance(error, httpx.ConnectError) and _is_of_tls(error)
    if is_tls_fault and uses_tls and proxy.uses_tls:
        return f"{text}; this is the TLS of the server, or of the proxy {proxy}: check the URL and {proxy.variable}"
    through = f"; the call went through the proxy {proxy}"
    if uses_tls and (is_tls_fault or not isinstance(error, httpx.ConnectError | httpx.ConnectTimeout)):
        return text + _hint(error, address.host, uses_tls, setting, was_answered=was_answered) + through
    at_proxy = UrlSetting(proxy.variable, owner="the proxy")
    hint = _hint(error, httpx.URL(proxy.url).host, proxy.uses_tls, at_proxy, was_answered=was_answered)
    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
        return f"the proxy {proxy} cannot be reached: {text}{hint}{'' if proxy.variable in hint else way_out}"
    return f"{text}{through}{hint}"


def page_hint(url: str, status: int, page: str, proxy: Proxy | None = None) -> str:
    """Return a hint for a page that did not come from a coordinator; empty if there is none."""
    if httpx.URL(url).scheme != "http" or status != httpx.codes.BAD_REQUEST or not _TLS_PORT_PAGE.search(page):
        return ""
    if proxy is None or proxy.uses_tls:
        return "; the port expects TLS: use https:// in the URL"
    ports = f"that of the server or that of the proxy {proxy}"
    return f"; a port expects TLS, {ports}: use https:// in the URL, or in {proxy.variable}"


def _reason(error: Exception) -> str:
    """Return the cause in words. The texts of httpx name its own classes, or no cause."""
    if isinstance(error, httpx.TimeoutException | TimeoutError):
        what = "connection" if isinstance(error, httpx.ConnectTimeout) else "answer"
        return f"no {what} within the time limit ({type(error).__name__})"
    system_reasons = _system_reasons(error)
    in_brackets = f" ({system_reasons})" if system_reasons else ""
    match error:
        case httpx.ConnectError() if _handshake_ended(error):
            return "the connection ended during the TLS handshake"
        case httpx.ConnectError():
            return system_reasons or str(error) or "the connection failed"
        case httpx.ReadError():
            return _CLOSED + in_brackets
        case httpx.WriteError():
            return "the connection was closed while the request was sent" + in_brackets
        case httpx.RemoteProtocolError():
            return _protocol_reason(str(error))
        case ssl.SSLError() if error.reason == "TLSV13_ALERT_CERTIFICATE_REQUIRED":
            return "the server demands a certificate of its clients, which is not supported"
    return str(error) or type(error).__name__


def _system_reasons(error: Exception) -> str:
    """Return the error texts of the operating system, such as "Network is unreachable"."""
    found: set[str] = set()
    for cause in _causes(error):
        if isinstance(cause, socket.gaierror):
            found.add(cause.strerror or str(cause))
        # The errno of an `SSLError` is a code of OpenSSL.
        elif isinstance(cause, OSError) and cause.errno and not isinstance(cause, ssl.SSLError):
            found.add(os.strerror(cause.errno))
    return ", ".join(sorted(found))


def _protocol_reason(text: str) -> str:
    if text.startswith("Server disconnected"):
        return _CLOSED
    if text.startswith("peer closed connection"):
        return "the connection was closed before the response was complete"
    if (banner := _BANNER.match(text)) is not None:
        return f"{_NO_HTTP}: {truncated(banner['text'], 60)}"
    # h11 raises this for bytes that are not text, such as a TLS alert.
    return _NO_HTTP if text == "illegal request line" else f"{_NO_HTTP}: {text}"


def _hint(error: Exception, host: str, uses_tls: bool, setting: UrlSetting, *, was_answered: bool) -> str:
    """Return a hint for a connection to this host; empty if there is none."""
    for cause in _causes(error):
        match cause:
            case ssl.SSLCertVerificationError():
                return _certificate_hint(cause.verify_code, setting)
            case ssl.SSLError() if cause.reason in _NO_TLS_REASONS:
                return f"; {setting.owner} does not use TLS on this port: if the port is right, {setting.with_http()}"
            case socket.gaierror():
                if host != DOCKER_HOST:
                    return f": {host}"
                only_where = f"only where the container is started with --add-host {host}:host-gateway"
                return f": {host}; Docker on Linux sets this name {only_where} (in a compose file: extra_hosts)"
    if uses_tls and isinstance(error, httpx.ConnectError) and _handshake_ended(error):
        return ": if the port serves plain HTTP, " + setting.with_http()
    if was_answered or not isinstance(error, httpx.ReadError | httpx.RemoteProtocolError):
        return ""
    return "; is this the right port?" + ("" if uses_tls else f" If it expects TLS, use https:// in {setting.name}")


def _certificate_hint(openssl_code: int, setting: UrlSetting) -> str:
    match openssl_code:
        case 62 | 64:  # X509_V_ERR_HOSTNAME_MISMATCH, X509_V_ERR_IP_ADDRESS_MISMATCH
            return (
                f"; the certificate is for another host name: use a name in {setting.name} that the certificate covers"
            )
        case 9 | 10:  # X509_V_ERR_CERT_NOT_YET_VALID, X509_V_ERR_CERT_HAS_EXPIRED
            return f"; renew the certificate of {setting.owner}, or set this machine's clock"
        case 2 | 18 | 19 | 20 | 21:  # the issuer is not found, or it signed itself and is not trusted
            return "; name the file with its authority's certificate in SSL_CERT_FILE"
    return ""


def _is_of_tls(error: Exception) -> bool:
    """Return whether the connection was established and its TLS handshake failed."""
    return any(isinstance(cause, ssl.SSLError) for cause in _causes(error)) or _handshake_ended(error)


def _handshake_ended(error: Exception) -> bool:
    """Return whether the connection was established and then closed."""
    causes = list(_causes(error))
    was_refused = any(isinstance(cause, ConnectionRefusedError) for cause in causes)
    return not was_refused and any(isinstance(cause, _HANDSHAKE_ENDED) for cause in causes)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield the error and the exceptions that caused it."""
    seen: list[BaseException] = [error]
    for each in seen:
        yield each
        members = each.exceptions if isinstance(each, BaseExceptionGroup) else ()
        for cause in (each.__cause__ or each.__context__, *members):
            if cause is not None and cause not in seen:
                seen.append(cause)


def challenge_of(response: httpx.Response) -> str:
    """Return the `WWW-Authenticate` header, or `Proxy-Authenticate` of a proxy that asks for a login."""
    is_from_proxy = response.status_code == httpx.codes.PROXY_AUTHENTICATION_REQUIRED
    return str(response.headers.get("proxy-authenticate" if is_from_proxy else "www-authenticate", ""))


def login_hint(challenge: str, url: str, *, has_token: bool) -> str:
    """Return a hint for a 401 of the coordinator at this URL."""
    schemes = _schemes(challenge)
    if "basic" in schemes and not has_token:
        if httpx.URL(url).userinfo:
            return "; it does not accept the user name and password of the coordinator URL"
        return (
            "; it asks for a user name and a password (WWW-Authenticate: Basic): put them into the coordinator URL, "
            "as in http://USER:PASSWORD@HOST"
        )
    if "basic" in schemes and "bearer" not in schemes:
        return (
            "; a proxy in front of it asks for a user name and a password (WWW-Authenticate: Basic), and a call with a "
            "token cannot have them as well: let the proxy pass calls with a token"
        )
    if schemes and "bearer" not in schemes:
        return _unsupported(schemes, "the coordinator")
    if has_token:
        return ""
    variables = "AUTH0_DOMAIN, AUTH0_RUNNER_CLIENT_ID, AUTH0_RUNNER_CLIENT_SECRET and AUTH0_AUDIENCE"
    return f"; it asks for a token, and none is configured: set {variables}"


def token_service_login_hint(challenge: str) -> str:
    """Return a hint for a 401 to a token request that a proxy in front of the token service sent; else empty."""
    schemes = _schemes(challenge)
    if "basic" in schemes:
        return (
            "; a proxy in front of the token service asks for a user name and a password (WWW-Authenticate: Basic), "
            "which the runner does not have: let the proxy pass these calls"
        )
    return _unsupported(schemes, "the token service") if schemes and "bearer" not in schemes else ""


def proxy_hint(status: int, proxy: Proxy | None, challenge: str = "") -> str:
    """Return how the proxy may have caused a response with this status; empty if it did not."""
    if proxy is None:
        return ""
    if status != httpx.codes.PROXY_AUTHENTICATION_REQUIRED:
        return f"; the call went through the proxy {proxy}" if status in _GATEWAY_STATUSES else ""
    schemes = _schemes(challenge)
    if schemes and "basic" not in schemes:
        asked = f"a login by {', '.join(schemes.values())} (Proxy-Authenticate)"
        way_out = f"set {proxy.variable} to another proxy, or name the host in NO_PROXY"
        return f"; the proxy {proxy} asks for {asked}, which is not supported, only Basic is: {way_out}"
    if proxy.has_login:
        return f"; the proxy {proxy} does not accept the user name and password of {proxy.variable}: correct them"
    return f"; the proxy {proxy} asks for a login: set {proxy.variable} to http://USER:PASSWORD@HOST:PORT"


def _schemes(challenge: str) -> dict[str, str]:
    """Return the offered schemes as the server writes them, by their names in lower case."""
    return {name.lower(): name for name in _SCHEME.findall(_QUOTED.sub('""', challenge))}


def _unsupported(schemes: dict[str, str], server: str) -> str:
    return (
        f"; it asks for authentication by {', '.join(schemes.values())} (WWW-Authenticate), which is not supported: if "
        f"a proxy in front of {server} asks for it, let it pass these calls"
    )
