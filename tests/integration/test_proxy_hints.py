"""A call that fails at a proxy names the proxy, the variable that sets it, and what to change."""

import asyncio
import re
import ssl
import sys
from pathlib import Path

import pytest
import trustme
from starlette.types import Receive, Scope, Send

from fsm_runner.coordinator_client.api import CoordinatorApi
from fsm_runner.coordinator_client.errors import CoordinatorError, NoConnection
from fsm_runner.errors import UsageError
from tests.support.first_calls import faults_of
from tests.support.serving import raw_server, serving

DEAD_PROXY = "http://user:secret@127.0.0.1:9"
NAMES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")
TLS_PAGE = b"<p>The plain HTTP request was sent to HTTPS port</p>"


@pytest.fixture
def _proxied(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    monkeypatch.setenv("HTTP_PROXY", DEAD_PROXY)
    monkeypatch.setenv("HTTPS_PROXY", DEAD_PROXY)


@pytest.mark.usefixtures("_proxied")
@pytest.mark.parametrize(("scheme", "variable"), [("http", "HTTP_PROXY"), ("https", "HTTPS_PROXY")])
async def test_an_unreachable_proxy_is_named(scheme: str, variable: str) -> None:
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
            said = r"\(HTTPS_PROXY\) does not connect to it: 502 Bad Gateway; correct HTTPS_PROXY, or name the host in "
            with pytest.raises(NoConnection, match=said):
                await api.health()


@pytest.mark.usefixtures("_proxied")
async def test_a_proxy_that_asks_for_a_login_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    async with raw_server(b"HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 0\r\n\r\n") as proxy:
        for variable, scheme in {"HTTP_PROXY": "http", "HTTPS_PROXY": "https"}.items():
            monkeypatch.setenv(variable, proxy)
            for said in await faults_of(f"{scheme}://coordinator.invalid"):
                assert said.endswith(f"asks for a login: set {variable} to http://USER:PASSWORD@HOST:PORT")


@pytest.mark.usefixtures("_proxied")
async def test_an_unsupported_or_rejected_login_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    refusal = "HTTP/1.1 407 No\r\nproxy-authenticate: {}\r\ncontent-length: 0\r\n\r\n"
    async with raw_server(refusal.format("NTLM").encode()) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy)
        for said in await faults_of("http://coordinator.invalid"):
            assert f"the proxy {proxy} (HTTP_PROXY) asks for a login by NTLM (Proxy-Authenticate), which is not" in said
    async with raw_server(refusal.format('NTLM, Basic realm="r"').encode()) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.replace("://", "://user:secret@"))
        for said in await faults_of("http://coordinator.invalid"):
            assert said.endswith(
                f"the proxy {proxy} (HTTP_PROXY) does not accept the user name and password of HTTP_PROXY: correct them"
            )


@pytest.mark.usefixtures("_proxied")
@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_proxy_with_an_unknown_name(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    variable = f"{scheme.upper()}_PROXY"
    monkeypatch.setenv(variable, "http://user:secret@nosuch.invalid:3128")
    for said in await faults_of(f"{scheme}://192.0.2.2:8799"):
        assert said.endswith(
            f": the proxy http://nosuch.invalid:3128 ({variable}) cannot be reached: Name or service not known: "
            f"nosuch.invalid; correct {variable}, or name the host in NO_PROXY"
        )


@pytest.mark.usefixtures("_proxied")
async def test_a_proxy_without_tls_that_is_set_with_https(monkeypatch: pytest.MonkeyPatch) -> None:
    async with raw_server(b"HTTP/1.1 400 Bad Request\r\n\r\n") as plain:
        proxy = plain.replace("http:", "https:")
        for variable in ("HTTP_PROXY", "HTTPS_PROXY"):
            monkeypatch.setenv(variable, proxy)
        for said in await faults_of("http://192.0.2.2:8799"):
            assert f": the proxy {proxy} (HTTP_PROXY) cannot be reached: " in said
            assert said.endswith(
                "; the proxy does not use TLS on this port: if the port is right, use http:// in HTTP_PROXY"
            )
        for said in await faults_of("https://192.0.2.2:8799"):
            assert said.endswith(
                f"; this is the TLS of the server, or of the proxy {proxy} (HTTPS_PROXY): check the URL and HTTPS_PROXY"
            )


@pytest.mark.usefixtures("_proxied")
async def test_a_proxy_with_tls_that_is_set_with_http(monkeypatch: pytest.MonkeyPatch) -> None:
    hint = "is this the right port? If it expects TLS, use https:// in HTTP_PROXY"
    for answer in (b"", b"\x15\x03\x01\x00\x02\x02\x50"):
        async with raw_server(answer) as proxy:
            monkeypatch.setenv("HTTP_PROXY", proxy)
            for said in await faults_of("http://192.0.2.2:8799"):
                assert said.endswith(f"; the call went through the proxy {proxy} (HTTP_PROXY); {hint}")
    page = b"HTTP/1.1 400 Bad Request\r\ncontent-length: %d\r\n\r\n%b" % (len(TLS_PAGE), TLS_PAGE)
    async with raw_server(page) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy)
        async with CoordinatorApi("http://192.0.2.2:8799") as api:
            said = rf"that of the proxy {proxy} \(HTTP_PROXY\): use https:// in the URL, or in HTTP_PROXY$"
            with pytest.raises(CoordinatorError, match=said):
                await api.health()


@pytest.mark.usefixtures("_proxied")
async def test_the_certificate_of_a_proxy_is_not_mistaken_for_that_of_the_server(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("localhost").configure_cert(tls)
    async with serving(nothing, tls) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy)
        for said in await faults_of("http://192.0.2.2:8799"):
            assert f": the proxy {proxy} (HTTP_PROXY) cannot be reached: [SSL: CERTIFICATE_VERIFY_FAILED]" in said
            assert "; name the file with its authority's certificate in SSL_CERT_FILE; correct HTTP_PROXY, or" in said


@pytest.mark.usefixtures("_proxied")
async def test_a_call_through_a_proxy_with_tls(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "authority.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authority.pem"))
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(tls)
    async with serving(nothing, tls) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy)
        async with CoordinatorApi("http://192.0.2.2:8799") as api:
            await api.health()


BAD_PROXIES = [
    "http://127.0.0.1:99999",
    "http://127.0.0.1:0",
    "http://127.0.0.1:-1",
    "http://user:s3cret@127.0.0.1:70000",
    "http://user:s3#cret@127.0.0.1:9",
    "http://user:1234567/s3cret@127.0.0.1:9",
    "http://user:s3cret%ff@127.0.0.1:9",
    "garbage:::",
    "http://",
    "http://:3128",
    "//127.0.0.1:9",
    "http://[::1",
    "http://xn--:9",
    "ftp://127.0.0.1:9",
    "socks4://127.0.0.1:9",
    "socks5://user:s3cret@127.0.0.1:9",
]


@pytest.mark.usefixtures("_proxied")
@pytest.mark.parametrize("value", BAD_PROXIES)
def test_an_invalid_proxy_is_a_usage_error(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", value)
    with pytest.raises(UsageError) as raised:
        CoordinatorApi("http://192.0.2.2:8799")
    assert str(raised.value).startswith("coordinator URL 'http://192.0.2.2:8799': HTTP_PROXY cannot be used: ")
    assert not re.search("cret|s3|12345|70000", str(raised.value))


@pytest.mark.usefixtures("_proxied")
async def test_a_command_with_an_invalid_proxy_prints_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:99999")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "fsm_runner", "runs", "-c", "http://192.0.2.2:8799"),
        stderr=asyncio.subprocess.PIPE,
    )
    _, stderr = await process.communicate()
    assert (process.returncode, stderr.decode().splitlines()) == (
        2,
        [
            "error: coordinator URL 'http://192.0.2.2:8799': HTTP_PROXY cannot be used: its port is not between 1 and "
            "65535"
        ],
    )


async def nothing(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"{}"})
