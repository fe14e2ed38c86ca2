"""NO_PROXY as curl reads it, and the proxies of the environment."""

import httpx
import pytest

from fsm_runner.coordinator_client.http_clients import ClientFactory
from fsm_runner.coordinator_client.proxies import is_exempt, proxy_for
from tests.support.logs import log_lines

EXEMPT = [
    ("http://example.com", "example.com"),
    ("http://a.example.com:8765", "example.com"),
    ("http://a.example.com", ".example.com"),
    ("http://example.com", ".example.com"),
    ("http://a.example.com", "*.example.com"),
    ("http://EXAMPLE.com", "Example.COM."),
    ("http://example.com.", "example.com"),
    ("http://host", "other,host , third"),
    ("http://host", "other host"),
    ("http://bücher.example", "bücher.example"),
    ("http://bücher.example", "xn--bcher-kva.example"),
    ("http://anything", "*"),
    ("http://10.1.2.3", "10.1.2.3"),
    ("http://10.1.2.3", "10.0.0.0/8"),
    ("http://10.1.2.3", "10.1.2.3/8"),
    ("http://10.1.2.3", "0.0.0.0/0"),
    ("http://[fd00::1]", "fd00::1"),
    ("http://[fd00::1]", "[fd00::1]"),
    ("http://[fd00::1]", "fd00:0:0::0001"),
    ("http://[fd12::1]", "fd00::/8"),
    ("http://[fd12::1]", "[fd00::/8]"),
    ("http://[fd12::1]", "[fd00::]/8"),
    ("http://host:8765", "host:8765"),
    ("http://10.1.2.3:8765", "10.1.2.3:8765"),
    ("http://[fd00::1]:8765", "[fd00::1]:8765"),
    ("https://host", "host:443"),
    ("https://host", "https://host"),
]
PROXIED = [
    ("http://badexample.com", "example.com"),
    ("http://example.com.evil", "example.com"),
    ("http://10.1.2.3", "2.3"),
    ("http://10.1.2.3", "11.0.0.0/8"),
    ("http://10.1.2.3", "fd00::/8"),
    ("http://[fe00::1]", "fd00::/8"),
    ("http://host", "host:8765"),
    ("https://host", "http://host"),
    ("http://host", ""),
    ("http://host", " ,, "),
]


@pytest.mark.parametrize(("url", "no_proxy"), EXEMPT)
def test_these_hosts_are_called_directly(url: str, no_proxy: str) -> None:
    assert is_exempt(httpx.URL(url), no_proxy)


@pytest.mark.parametrize(("url", "no_proxy"), PROXIED)
def test_these_hosts_are_called_through_the_proxy(url: str, no_proxy: str) -> None:
    assert not is_exempt(httpx.URL(url), no_proxy)


@pytest.mark.parametrize("entry", ["10.0.0.0/99", "fd00::/200", "[::1", "::1]", "[host]", "http//x", "a..b", "<local>"])
def test_an_invalid_entry_is_skipped_with_one_warning(entry: str) -> None:
    with log_lines("WARNING") as warnings:
        for _ in range(2):
            assert is_exempt(httpx.URL("http://host"), f"{entry},host")
            assert not is_exempt(httpx.URL("http://other"), f"{entry},host")
    assert len(warnings) == 1
    assert repr(entry) in warnings[0]
    assert "NO_PROXY" in warnings[0]


@pytest.mark.parametrize("no_proxy", ["fd00::/8", "[::1]", "10.0.0.0/8", "[::1", "nonsense/", "*"])
def test_any_entry_leaves_clients_usable(no_proxy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", no_proxy)
    for proxy in ("", "http://proxy.invalid:3128"):
        monkeypatch.setenv("HTTP_PROXY", proxy)
        made = ClientFactory("http://coordinator.invalid", "coordinator URL")
        made()
        assert (made.proxy is not None) is (proxy != "" and no_proxy != "*")


@pytest.mark.parametrize(
    ("variables", "shown"),
    [
        ({"HTTP_PROXY": "http://user:secret@p:3128"}, "http://p:3128 (HTTP_PROXY)"),
        ({"http_proxy": "p:3128", "HTTP_PROXY": "http://other"}, "http://p:3128 (http_proxy)"),
        ({"ALL_PROXY": "http://p", "HTTPS_PROXY": "http://p"}, "http://p (ALL_PROXY)"),
        ({"ALL_PROXY": "http://other", "HTTP_PROXY": "https://p:1"}, "https://p:1 (HTTP_PROXY)"),
        ({"HTTPS_PROXY": "http://p"}, None),
        ({"HTTP_PROXY": "http://p", "NO_PROXY": "host"}, None),
        ({"HTTP_PROXY": "http://p", "no_proxy": "host"}, None),
    ],
)
def test_the_proxy_is_shown_with_its_variable_and_without_its_login(
    variables: dict[str, str], shown: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    found = proxy_for(httpx.URL("http://host:8765/x"))
    assert (None if found is None else str(found)) == shown
