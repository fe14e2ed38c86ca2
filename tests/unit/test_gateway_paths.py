import pytest

from fsm_runner.gateway import paths
from fsm_runner.gateway.errors import GatewayError


@pytest.mark.parametrize(
    ("raw", "token", "segments"),
    [
        (b"/tok", b"tok", ()),
        (b"/tok/events", b"tok", (b"events",)),
        (b"/tok/", b"tok", (b"",)),
        (b"//tok/events", b"", (b"tok", b"events")),
        (b"/%74ok/events", b"%74ok", (b"events",)),
    ],
)
def test_a_path_is_split_into_the_token_and_undecoded_segments(
    raw: bytes, token: bytes, segments: tuple[bytes, ...]
) -> None:
    assert paths.split(raw) == (token, segments)


@pytest.mark.parametrize("raw", [b"", b"*", b"tok/events", b"http://127.0.0.1/tok/events"])
def test_a_path_without_a_leading_slash_has_no_token(raw: bytes) -> None:
    assert paths.split(raw) is None


def test_names_are_decoded_once() -> None:
    assert paths.decode_names((b"a%62c", b"caf%C3%A9", b"a%20b", b"%3Fx%23", b"a;b=c")) == (
        "abc",
        "café",
        "a b",
        "?x#",
        "a;b=c",
    )


@pytest.mark.parametrize(
    "segment",
    [
        b"",
        b".",
        b"..",
        b"%2e",
        b"%2E%2e",
        b".%2e",
        b"a%2Fb",
        b"a%2fb",
        b"a%5Cb",
        b"a\\b",
        b"%252e%252e",
        b"a%25b",
        b"100%",
        b"%zz",
        b"%",
        b"a%00",
        b"a%0d%0ab",
        b"%7f",
        b"%C2%85",
        b"%E2%80%A8",
        b"%ff",
        b"%c0%af",
        b"%c0%ae%c0%ae",
        b"%ed%a0%80",
    ],
)
def test_an_ambiguous_segment_is_refused(segment: bytes) -> None:
    with pytest.raises(GatewayError) as refused:
        paths.decode_names((b"sessions", segment))
    assert refused.value.status == 400


def test_a_url_is_built_from_escaped_names() -> None:
    path = paths.url_path(("sessions", "a?b#c;d é", ".."), {"tags": "a,b&c=d"})
    assert path == "/sessions/a%3Fb%23c%3Bd%20%C3%A9/%2E%2E?tags=a%2Cb%26c%3Dd"


def test_a_query_keeps_only_allowed_parameters() -> None:
    assert paths.query_of(b"tags=a%2Cb&self=true&status=x", frozenset({"tags"})) == {"tags": "a,b"}


@pytest.mark.parametrize(
    "query", [b"session_id=a&session_id=b", b"session_id=a&session%5Fid=b", b"session_id=%ff", b"\xff=1", b"a=1&" * 30]
)
def test_an_ambiguous_query_is_refused(query: bytes) -> None:
    with pytest.raises(GatewayError) as refused:
        paths.query_of(query, frozenset({"session_id"}))
    assert refused.value.status == 400
