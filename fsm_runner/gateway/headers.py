"""Which headers are passed on: those that are for the other end, and no credentials."""

import re
from collections.abc import Iterable

RawHeaders = Iterable[tuple[bytes, bytes]]

HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"http2-settings",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
OF_THIS_REQUEST = frozenset({b"host", b"content-length", b"expect", b"referer"})
"""They tell of the way to the gateway; the referrer would give a door's address away."""
CREDENTIALS = frozenset({b"authorization", b"cookie"})
"""Executors have none; the runner's are added by its client."""
MISLEADING = frozenset(
    {
        b"forwarded",
        b"x-http-method",
        b"x-http-method-override",
        b"x-method-override",
        b"x-original-url",
        b"x-real-ip",
        b"x-rewrite-url",
    }
)
"""With these some servers take a request for another one, or for somebody else's."""
MISLEADING_PREFIX = b"x-forwarded-"
OF_THE_COORDINATORS_ADDRESS = frozenset(
    {b"set-cookie", b"set-cookie2", b"location", b"www-authenticate", b"alt-svc", b"refresh"}
)
"""They ask for credentials, or lead to where an executor is not to go."""

_LOCAL_HOST = re.compile(rb"(127\.0\.0\.1|localhost)(:[0-9]{1,5})?", re.IGNORECASE)


def is_local_client(headers: RawHeaders, http_version: str) -> bool:
    """No web page, and nobody whom a name of the DNS has led here.

    HTTP/1.0 needs no `Host`, and no browser leaves it out. `http_version` as ASGI has it: "1.0", "1.1".
    """
    if any(name == b"origin" for name, _ in headers):
        return False
    hosts = [value for name, value in headers if name == b"host"]
    if not hosts:
        return http_version == "1.0"
    return len(hosts) == 1 and _LOCAL_HOST.fullmatch(hosts[0]) is not None


def size_bytes(headers: RawHeaders) -> int:
    """As they stand in a request, with the colon, the blank and the end of each line."""
    return sum(len(name) + len(value) + 4 for name, value in headers)


def to_coordinator(headers: RawHeaders, *, accept_any_encoding: bool = True) -> list[tuple[str, str]]:
    """`accept_any_encoding` leaves it to the executor how the answer is compressed: it is passed on as it comes."""
    headers = list(headers)
    dropped = _dropped(headers) | OF_THIS_REQUEST | CREDENTIALS | MISLEADING
    if not accept_any_encoding:
        dropped |= {b"accept-encoding"}
    kept = [
        (name.decode("ascii"), value.decode("latin-1"))
        for name, value in headers
        if name.lower() not in dropped and not name.lower().startswith(MISLEADING_PREFIX)
    ]
    if not any(name == "accept-encoding" for name, _ in kept):
        # Without the header the client asks for what it can read itself.
        kept.append(("accept-encoding", "identity"))
    return kept


def accepts(headers: RawHeaders, encoding: str) -> bool:
    """Whether the `Accept-Encoding` of a request permits an answer with this content encoding."""
    named = b",".join(value for name, value in headers if name == b"accept-encoding").decode("latin-1").lower()
    weights = {}
    for offer in named.split(","):
        name, _, parameters = offer.partition(";")
        weights[name.strip()] = re.fullmatch(r"\s*q\s*=\s*0(\.0*)?\s*", parameters) is None
    return weights.get(encoding, weights.get("*", False))


def to_executor(headers: RawHeaders, *, body_rewritten: bool = False) -> list[tuple[bytes, bytes]]:
    """`body_rewritten`: the body has been decoded, so that its length and encoding are no longer those named."""
    headers = list(headers)
    dropped = _dropped(headers) | OF_THE_COORDINATORS_ADDRESS
    if body_rewritten:
        dropped |= {b"content-length", b"content-encoding"}
    return [(name.lower(), value) for name, value in headers if name.lower() not in dropped]


def _dropped(headers: RawHeaders) -> frozenset[bytes]:
    """Hop-by-hop by definition, and what `Connection` names."""
    named = {
        option.strip().lower()
        for name, value in headers
        if name.lower() == b"connection"
        for option in value.split(b",")
    }
    return HOP_BY_HOP | named
