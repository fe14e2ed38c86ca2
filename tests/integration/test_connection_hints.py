"""A call that fails because of how it is set up says what to change."""

import asyncio
import base64
import datetime
import errno
import os
import socket
import ssl
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trustme
from starlette.types import Receive, Scope, Send

from fsm_runner.coordinator_client.api import CoordinatorApi
from fsm_runner.coordinator_client.auth import TokenAuth
from fsm_runner.coordinator_client.errors import CoordinatorError, NotAuthenticated
from tests.support.first_calls import LOGIN, faults_of
from tests.support.serving import raw_server, serving, serving_raw

CLOSED = "the connection was closed without an HTTP response"


async def healthy(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"{}"})


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def _trusted(authority: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority.cert_pem.write_to_path(str(tmp_path / "authority.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authority.pem"))


def tls_for(authority: trustme.CA, name: str, expired: bool = False) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    not_after = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC) if expired else None
    authority.issue_cert(name, not_after=not_after).configure_cert(context)
    return context


@pytest.mark.usefixtures("_trusted")
async def test_a_certificate_for_another_name(authority: trustme.CA) -> None:
    async with serving(healthy, tls_for(authority, "other.example")) as url:
        for said, setting in zip(await faults_of(url), ["the URL", "AUTH0_DOMAIN"], strict=True):
            assert said.endswith(
                f"the certificate is for another host name: use a name in {setting} that the certificate covers"
            )
            assert "SSL_CERT_FILE" not in said


@pytest.mark.usefixtures("_trusted")
async def test_a_certificate_that_has_expired(authority: trustme.CA) -> None:
    async with serving(healthy, tls_for(authority, "localhost", expired=True)) as url:
        for said, owner in zip(await faults_of(url), ["the server", "the token service"], strict=True):
            assert said.endswith(f"; renew the certificate of {owner}, or set this machine's clock")


async def test_a_certificate_of_an_unknown_authority(authority: trustme.CA) -> None:
    async with serving(healthy, tls_for(authority, "localhost")) as url:
        for said in await faults_of(url):
            assert said.endswith("; name the file with its authority's certificate in SSL_CERT_FILE")


async def test_https_to_a_port_without_tls() -> None:
    async with serving(healthy) as url:
        coordinator, token_service = await faults_of(url.replace("http:", "https:"))
        assert coordinator.endswith(
            "; the server does not use TLS on this port: if the port is right, use http:// in the URL"
        )
        assert token_service.endswith(
            "; the token service does not use TLS on this port: if the port is right, correct AUTH0_DOMAIN (the token "
            "service is called by HTTPS alone)"
        )


async def test_https_to_a_port_that_hangs_up() -> None:
    async with raw_server(b"") as url:
        coordinator, token_service = await faults_of(url.replace("http:", "https:"))
        assert coordinator.endswith(
            ": the connection ended during the TLS handshake: if the port serves plain HTTP, use http:// in the URL"
        )
        assert "if the port serves plain HTTP, correct AUTH0_DOMAIN" in token_service


async def test_http_to_a_port_with_tls(authority: trustme.CA) -> None:
    async with serving(healthy, tls_for(authority, "localhost")) as url:
        for said in await faults_of(url.replace("https:", "http:")):
            assert f": {CLOSED}; is this the right port? If it expects TLS, use https:// in " in said


TLS_ANSWERS = {
    "nginx": b"HTTP/1.1 400 Bad Request\r\ncontent-length: 52\r\n\r\n"
    b"<p>The plain HTTP request was sent to HTTPS port</p>",
    "go": b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n",
}


@pytest.mark.parametrize("answer", TLS_ANSWERS)
async def test_http_to_a_port_that_reports_tls(answer: str) -> None:
    async with raw_server(TLS_ANSWERS[answer]) as url, CoordinatorApi(url) as api:
        with pytest.raises(CoordinatorError, match=r"the port expects TLS: use https:// in the URL$"):
            await api.health()


async def test_http_to_a_port_that_sends_a_tls_alert() -> None:
    async with raw_server(b"\x15\x03\x01\x00\x02\x02\x50") as url:
        for said in await faults_of(url):
            assert ": the server sent no HTTP response; is this the right port? If it expects TLS" in said


async def test_a_port_that_resets_the_connection() -> None:
    async with resetting_server() as url:
        for said in await faults_of(url):
            assert f": {CLOSED} (Connection reset by peer); is this the right port?" in said


async def test_a_port_with_another_protocol_shows_what_it_sent() -> None:
    async with raw_server(b"SSH-2.0-OpenSSH_9.6\r\n\r\n") as url:
        for said in await faults_of(url):
            assert ": the server sent no HTTP response: b'SSH-2.0-OpenSSH_9.6'; is this the right port?" in said
    async with raw_server(b"SSH-2.0-OpenSSH_9.6\r\nInvalid SSH identification string.\r\n") as url:
        for said in await faults_of(url):
            assert f": {CLOSED}; is this the right port?" in said


@pytest.mark.parametrize("number", [errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ETIMEDOUT])
async def test_an_unreachable_network_has_the_error_of_the_system(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    async def failing(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(asyncio.get_running_loop(), "sock_connect", failing)
    for said in await faults_of("http://[fd00::99]:8765"):
        assert said.endswith(f": {os.strerror(number)}")


@pytest.mark.usefixtures("_trusted")
async def test_a_server_that_requires_client_certificates(authority: trustme.CA) -> None:
    tls = tls_for(authority, "localhost")
    authority.configure_trust(tls)
    tls.verify_mode = ssl.CERT_REQUIRED
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = asyncio.create_task(asyncio.to_thread(refuse_clients, listener, tls, 2))
        for said in await faults_of(f"https://localhost:{listener.getsockname()[1]}"):
            assert said.endswith(": the server demands a certificate of its clients, which is not supported")
        await server


async def test_a_server_that_has_answered_before_is_not_suspected_of_tls() -> None:
    async with raw_server(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}", b"") as url, CoordinatorApi(url) as api:
        await api.health()
        with pytest.raises(CoordinatorError, match=f": {CLOSED}$"):
            await api.health()


class Guarded:
    """A server that asks for a user name and a password."""

    def __init__(self, login: str) -> None:
        self._expected = b"Basic " + base64.b64encode(login.encode())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if dict(scope["headers"]).get(b"authorization") == self._expected:
            await healthy(scope, receive, send)
            return
        challenge = (b"www-authenticate", b'Negotiate, Basic realm="the proxy"')
        await send({"type": "http.response.start", "status": 401, "headers": [challenge]})
        await send({"type": "http.response.body", "body": b"<html>401</html>"})


async def test_a_server_that_asks_for_a_password() -> None:
    async with serving(Guarded("user:right")) as url:
        coordinator, token_service = await faults_of(url)
        assert coordinator.endswith("put them into the coordinator URL, as in http://USER:PASSWORD@HOST")
        assert "a proxy in front of the token service asks for a user name and a password" in token_service
        assert "AUTH0_" not in coordinator + token_service
        async with CoordinatorApi(url.replace("://", "://user:right@")) as api:
            await api.health()
        async with CoordinatorApi(url.replace("://", "://user:wrong@")) as api:
            with pytest.raises(NotAuthenticated, match="does not accept the user name and password of the coordinator"):
                await api.health()


UNSUPPORTED = {
    "Negotiate": "Negotiate",
    "NTLM TlRMTVNTUAAC==": "NTLM",
    'Digest realm="a, Basic b", qop="auth", nonce="n"': "Digest",
    "Negotiate, NTLM": "Negotiate, NTLM",
}


@pytest.mark.parametrize("challenge", UNSUPPORTED)
async def test_unsupported_authentication_is_named(challenge: str) -> None:
    async with raw_server(unauthorized(challenge)) as url:
        for said in await faults_of(url):
            asked = f"asks for authentication by {UNSUPPORTED[challenge]} (WWW-Authenticate), which is not supported"
            assert asked in said
            assert "AUTH0_" not in said
        coordinator, token_service = await faults_of(url)
        assert coordinator.endswith("if a proxy in front of the coordinator asks for it, let it pass these calls")
        assert token_service.endswith("if a proxy in front of the token service asks for it, let it pass these calls")


@pytest.mark.parametrize("challenge", ["", "Bearer", 'Bearer realm="Digest, Basic"', 'Negotiate, bearer error="x"'])
async def test_a_server_that_asks_for_a_token(challenge: str) -> None:
    async with raw_server(unauthorized(challenge)) as url, CoordinatorApi(url) as api:
        with pytest.raises(NotAuthenticated, match="it asks for a token, and none is configured: set AUTH0_DOMAIN"):
            await api.health()


async def test_a_server_that_asks_for_a_password_beside_a_token() -> None:
    async def issue(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b'{"access_token": "t", "expires_in": 60}'})

    async with (
        serving(Guarded("user:right")) as url,
        serving(issue) as issuer,
        CoordinatorApi(url, TokenAuth(issuer, LOGIN)) as api,
    ):
        with pytest.raises(NotAuthenticated, match="let the proxy pass calls with a token"):
            await api.health()


async def test_the_name_of_the_docker_host_without_docker(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    for said in await faults_of("http://host.docker.internal:8765"):
        assert "Name or service not known: host.docker.internal" in said
        assert "--add-host host.docker.internal:host-gateway" in said
    for said in await faults_of("http://other.invalid:8765"):
        assert said.endswith("Name or service not known: other.invalid")


def unauthorized(challenge: str) -> bytes:
    header = f"www-authenticate: {challenge}\r\n" if challenge else ""
    return f"HTTP/1.1 401 Unauthorized\r\n{header}content-length: 0\r\n\r\n".encode()


@asynccontextmanager
async def resetting_server() -> AsyncIterator[str]:
    """Yield the URL of a server that resets each connection after a request."""

    async def reset(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1 << 16)
        linger = struct.pack("ii", 1, 0)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        writer.close()

    async with serving_raw(reset) as url:
        yield url


def refuse_clients(listener: socket.socket, tls: ssl.SSLContext, times: int) -> None:
    """Reject the certificate of each client. An alert is lost if a connection is closed with unread input."""
    for _ in range(times):
        connection, _ = listener.accept()
        with connection:
            received, to_send = ssl.MemoryBIO(), ssl.MemoryBIO()
            handshake = tls.wrap_bio(received, to_send, server_side=True)
            is_open = True
            while is_open:
                try:
                    handshake.do_handshake()
                except ssl.SSLWantReadError:
                    connection.sendall(to_send.read())
                    received.write(connection.recv(1 << 16))
                except ssl.SSLError:
                    is_open = False
            connection.sendall(to_send.read())
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(1 << 16):
                pass
