import pytest

from fsm_runner.gateway import headers
from fsm_runner.gateway.errors import not_open


def test_what_is_for_the_other_end_is_passed_on() -> None:
    sent = [(b"accept", b"text/event-stream"), (b"x-request-id", b"7"), (b"accept-encoding", b"gzip")]
    assert headers.to_coordinator(sent) == [(name.decode(), value.decode()) for name, value in sent]


def test_an_executor_that_names_no_encoding_gets_none() -> None:
    assert headers.to_coordinator([]) == [("accept-encoding", "identity")]


def test_an_answer_that_is_looked_at_comes_unencoded() -> None:
    assert headers.to_coordinator([(b"accept-encoding", b"br")], accept_any_encoding=False) == [
        ("accept-encoding", "identity")
    ]


@pytest.mark.parametrize(
    "name",
    [
        *("connection", "keep-alive", "proxy-authorization", "proxy-connection", "te", "trailer", "transfer-encoding"),
        *("upgrade", "host", "content-length", "expect", "referer", "authorization", "cookie", "forwarded"),
        *("x-forwarded-for", "x-forwarded-host", "x-original-url", "x-rewrite-url", "x-http-method-override"),
    ],
)
def test_what_is_not_for_the_coordinator_is_dropped(name: str) -> None:
    assert name not in dict(headers.to_coordinator([(name.encode(), b"x")]))


@pytest.mark.parametrize(
    "name", ["connection", "keep-alive", "transfer-encoding", "trailer", "set-cookie", "location", "www-authenticate"]
)
def test_what_is_not_for_the_executor_is_dropped(name: str) -> None:
    assert headers.to_executor([(name.title().encode(), b"x"), (b"ETag", b"1")]) == [(b"etag", b"1")]


def test_what_connection_names_is_dropped_both_ways() -> None:
    named = [(b"connection", b"close, X-One"), (b"connection", b"x-two"), (b"x-one", b"1"), (b"x-two", b"2")]
    assert headers.to_coordinator(named) == [("accept-encoding", "identity")]
    assert headers.to_executor(named) == []


@pytest.mark.parametrize(
    ("host", "is_local"),
    [
        (b"127.0.0.1", True),
        (b"127.0.0.1:4711", True),
        (b"localhost:4711", True),
        (b"LOCALHOST", True),
        (b"127.0.0.1.example.com", False),
        (b"localhost.example.com:80", False),
        (b"example.com", False),
        (b"127.0.0.1:", False),
        (b"", False),
    ],
)
def test_only_this_machine_is_a_host(host: bytes, is_local: bool) -> None:
    assert headers.is_local_client([(b"host", host)], "1.1") is is_local
    assert headers.is_local_client([(b"host", host)], "1.0") is is_local


@pytest.mark.parametrize("http_version", ["1.0", "1.1"])
def test_two_hosts_and_web_pages_are_not_local(http_version: str) -> None:
    for sent in [
        [(b"host", b"localhost"), (b"host", b"localhost")],
        [(b"host", b"localhost"), (b"origin", b"http://localhost")],
        [(b"origin", b"http://localhost")],
    ]:
        assert not headers.is_local_client(sent, http_version)


def test_only_http_1_0_needs_no_host() -> None:
    assert headers.is_local_client([], "1.0")
    assert not headers.is_local_client([], "1.1")


def test_a_path_in_a_refusal_is_on_one_line() -> None:
    assert "GET /sessions/a%20b%0A is" in not_open("GET", ("sessions", "a b\n")).detail
