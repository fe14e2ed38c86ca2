"""A call that fails because of how it is set up says what to change."""

import asyncio
import base64
import contextlib
import datetime
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trustme
from starlette.types import Receive, Scope, Send

from fsm_runner.coordinator.api import CoordinatorApi
from fsm_runner.coordinator.auth import TokenAuth
from fsm_runner.coordinator.faults import CoordinatorError, NoConnection, NotAuthenticated
from fsm_runner.coordinator.token_service import TokenRequest, TokenService
from tests.support.serving import serving, serving_raw

LOGIN = TokenRequest(client_id="c", client_secret="s", audience="a")
DEAD_PROXY = "http://user:secret@127.0.0.1:9"


async def healthy(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"{}"})


async def faults_of(url: str) -> list[str]:
    """What a call of a coordinator at this URL says, and what one of a token service."""
    said = []
    async with CoordinatorApi(url) as api:
        with pytest.raises(CoordinatorError) as raised:
            await api.health()
        said.append(str(raised.value))
    with pytest.raises(CoordinatorError) as raised:
        await TokenService(f"{url}/oauth/token", LOGIN).new_token()
    return [*said, str(raised.value)]


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
        for said in await faults_of(url):
            assert said.endswith(
                "the certificate is for another host name: use a name in the URL that the certificate covers"
            )
            assert "SSL_CERT_FILE" not in said


@pytest.mark.usefixtures("_trusted")
async def test_a_certificate_that_has_expired(authority: trustme.CA) -> None:
    async with serving(healthy, tls_for(authority, "localhost", expired=True)) as url:
        for said in await faults_of(url):
            assert said.endswith("; renew the server's certificate, or set this machine's clock")


async def test_a_certificate_of_an_unknown_authority(authority: trustme.CA) -> None:
    async with serving(healthy, tls_for(authority, "localhost")) as url:
        for said in await faults_of(url):
            assert said.endswith("; name the file with its authority's certificate in SSL_CERT_FILE")


async def test_https_to_a_port_without_tls() -> None:
    async with serving(healthy) as url:
        for said in await faults_of(url.replace("http:", "https:")):
            assert "the server does not use TLS on this port" in said
            assert "use http:// in the URL" in said


async def test_https_to_a_port_that_hangs_up() -> None:
    async with raw_server(b"") as url:
        for said in await faults_of(url.replace("http:", "https:")):
            assert "ended during the TLS handshake: if the port serves plain HTTP, use http://" in said


async def test_http_to_a_port_with_tls(authority: trustme.CA) -> None:
    async with serving(healthy, tls_for(authority, "localhost")) as url:
        for said in await faults_of(url.replace("https:", "http:")):
            assert said.endswith(
                "; a port that expects TLS answers plain HTTP this way: if it does, use https:// in the URL"
            )


TLS_ANSWERS = {
    "nginx": b"HTTP/1.1 400 Bad Request\r\ncontent-length: 52\r\n\r\n"
    b"<p>The plain HTTP request was sent to HTTPS port</p>",
    "go": b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n",
}


@pytest.mark.parametrize("answer", TLS_ANSWERS)
async def test_http_to_a_port_that_says_that_it_has_tls(answer: str) -> None:
    async with raw_server(TLS_ANSWERS[answer]) as url, CoordinatorApi(url) as api:
        with pytest.raises(CoordinatorError, match=r"the port expects TLS: use https:// in the URL$"):
            await api.health()


async def test_http_to_a_port_that_answers_with_an_alert_of_tls() -> None:
    async with raw_server(b"\x15\x03\x01\x00\x02\x02\x50") as url:
        for said in await faults_of(url):
            assert said.endswith("if it does, use https:// in the URL")


async def test_a_server_that_has_answered_before_is_not_suspected_of_tls() -> None:
    async with raw_server(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}", b"") as url, CoordinatorApi(url) as api:
        await api.health()
        with pytest.raises(CoordinatorError, match=r"Server disconnected without sending a response\.$"):
            await api.health()


class Guarded:
    """Asks for a user name and a password."""

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


async def test_a_password_is_asked_for_beside_a_token() -> None:
    async def issue(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b'{"access_token": "t", "expires_in": 60}'})

    async with (
        serving(Guarded("user:right")) as url,
        serving(issue) as issuer,
        CoordinatorApi(url, TokenAuth(issuer, LOGIN)) as api,
    ):
        with pytest.raises(NotAuthenticated, match="let the proxy pass calls that have a token"):
            await api.health()


@pytest.fixture
def _proxied(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    monkeypatch.setenv("HTTP_PROXY", DEAD_PROXY)
    monkeypatch.setenv("HTTPS_PROXY", DEAD_PROXY)


@pytest.mark.usefixtures("_proxied")
@pytest.mark.parametrize(("scheme", "variable"), [("http", "HTTP_PROXY"), ("https", "HTTPS_PROXY")])
async def test_a_proxy_that_cannot_be_reached_is_named(scheme: str, variable: str) -> None:
    for said in await faults_of(f"{scheme}://coordinator.invalid"):
        assert (
            f"coordinator.invalid: the proxy http://127.0.0.1:9 ({variable}) cannot be reached: Connection refused"
            in said.replace("/oauth/token", "")
        )


@pytest.mark.usefixtures("_proxied")
async def test_a_proxy_that_cannot_reach_the_server_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    async with raw_server(b"HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\n\r\n") as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy)
        monkeypatch.setenv("HTTPS_PROXY", proxy)
        for said in await faults_of("http://coordinator.invalid"):
            assert said.endswith(f"; the call went through the proxy {proxy} (HTTP_PROXY)")
        async with CoordinatorApi("https://coordinator.invalid") as api:
            with pytest.raises(NoConnection, match=r"\(HTTPS_PROXY\) does not connect to it: 502 Bad Gateway"):
                await api.health()


@pytest.mark.usefixtures("_proxied")
async def test_a_proxy_that_asks_for_a_login_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    async with raw_server(b"HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 0\r\n\r\n") as proxy:
        for variable, scheme in {"HTTP_PROXY": "http", "HTTPS_PROXY": "https"}.items():
            monkeypatch.setenv(variable, proxy)
            for said in await faults_of(f"{scheme}://coordinator.invalid"):
                assert said.endswith(f"asks for a login: set {variable} to http://USER:PASSWORD@HOST:PORT")


async def test_the_name_of_the_docker_host_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    for said in await faults_of("http://host.docker.internal:8765"):
        assert "Name or service not known: host.docker.internal" in said
        assert "--add-host host.docker.internal:host-gateway" in said
    for said in await faults_of("http://other.invalid:8765"):
        assert said.endswith("Name or service not known: other.invalid")


@asynccontextmanager
async def raw_server(*answers: bytes) -> AsyncIterator[str]:
    """Its URL. Each connection gets the next of these answers, the last one again and again, and is closed."""
    left = list(answers)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answer = left.pop(0) if len(left) > 1 else left[0]
        with contextlib.suppress(ConnectionError):
            await reader.read(1 << 16)
            writer.write(answer)
            await writer.drain()
        writer.close()

    async with serving_raw(serve) as url:
        yield url
