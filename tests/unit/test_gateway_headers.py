import pytest

from fsm_runner.gateway.errors import not_open
from fsm_runner.gateway.forwarding import to_coordinator, to_executor
from fsm_runner.gateway.server import is_local_client


def test_end_to_end_headers_are_forwarded() -> None:
    sent = [(b"accept", b"text/event-stream"), (b"x-request-id", b"7"), (b"accept-encoding", b"gzip")]
    assert to_coordinator(sent) == [(name.decode(), value.decode()) for name, value in sent]


def test_without_accept_encoding_the_response_is_not_compressed() -> None:
    assert to_coordinator([]) == [("accept-encoding", "identity")]


def test_a_response_that_the_gateway_reads_is_not_compressed() -> None:
    assert to_coordinator([(b"accept-encoding", b"br")], without=frozenset({b"accept-encoding"})) == [
        ("accept-encoding", "identity")
    ]


@pytest.mark.parametrize(
    "name",
    [
        *("connection", "keep-alive", "proxy-authorization", "proxy-connection", "te", "trailer", "transfer-encoding"),
        *("upgrade", "host", "content-length", "expect", "referer", "authorization", "cookie", "forwarded"),
        *("x-forwarded-for", "x-forwarded-host", "x-original-url", "x-rewrite-url", "x-http-method-override"),
        *("x-runner-registration", "x-run-id", "x-run-attempt"),
    ],
)
def test_request_headers_for_the_gateway_are_dropped(name: str) -> None:
    assert name not in dict(to_coordinator([(name.encode(), b"x")]))


@pytest.mark.parametrize(
    "name", ["connection", "keep-alive", "transfer-encoding", "trailer", "set-cookie", "location", "www-authenticate"]
)
def test_response_headers_for_the_runner_are_dropped(name: str) -> None:
    assert to_executor([(name.title().encode(), b"x"), (b"ETag", b"1")]) == [(b"etag", b"1")]


def test_headers_that_connection_names_are_dropped_in_both_directions() -> None:
    named = [(b"connection", b"close, X-One"), (b"connection", b"x-two"), (b"x-one", b"1"), (b"x-two", b"2")]
    assert to_coordinator(named) == [("accept-encoding", "identity")]
    assert to_executor(named) == []


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
def test_only_names_of_this_machine_are_local_hosts(host: bytes, is_local: bool) -> None:
    assert is_local_client([(b"host", host)], "1.1") is is_local
    assert is_local_client([(b"host", host)], "1.0") is is_local


@pytest.mark.parametrize("http_version", ["1.0", "1.1"])
def test_requests_with_two_hosts_or_an_origin_are_not_local(http_version: str) -> None:
    for sent in [
        [(b"host", b"localhost"), (b"host", b"localhost")],
        [(b"host", b"localhost"), (b"origin", b"http://localhost")],
        [(b"origin", b"http://localhost")],
    ]:
        assert not is_local_client(sent, http_version)


def test_only_http_1_0_may_omit_the_host() -> None:
    assert is_local_client([], "1.0")
    assert not is_local_client([], "1.1")


def test_a_path_in_a_refusal_is_on_one_line() -> None:
    assert "GET /sessions/a%20b%0A is" in not_open("GET", ("sessions", "a b\n")).detail
