"""Answers that no coordinator should give: HTTP that is none, JSON that is not what was asked for."""

import gzip
import json
import random
from collections.abc import Iterator, Mapping
from typing import Any

from tests.support.faults import LOGIN_PAGE, Answer, Raw
from tests.support.hostile_requests import TOKENS, as_bytes, nested

Json = Any
Hostile = tuple[str, Answer | Raw]
"""With the name of its kind."""

JSON_TYPE = b"content-type: application/json\r\n"
OK = b"HTTP/1.1 200 OK\r\n" + JSON_TYPE
PLACES = (b"file:///etc/passwd", b"http://127.0.0.1:1/", b"//elsewhere.invalid/", b"/trap", b"\xff://[", b"")
FINAL_FOR_A_REGISTRATION = frozenset({401, 403, 413, 414, 431})
"""A refusal, whatever sends it (docs/protocol.md, section 1)."""


def _sized(body: bytes, head: bytes = OK, length: int | bytes | None = None) -> bytes:
    shown = str(len(body)).encode() if length is None else length if isinstance(length, bytes) else b"%d" % length
    return head + b"content-length: " + shown + b"\r\n\r\n" + body


def http_faults(body: bytes) -> dict[str, Raw]:
    """By kind: what would be a sound answer, with this body, but for one thing."""
    half, size = body[: len(body) // 2], len(body)
    chunked = OK + b"transfer-encoding: chunked\r\n"
    return {
        "nothing": Raw(b""),
        "reset at once": Raw(b"", resets=True),
        "truncated": Raw(_sized(half, length=size)),
        "reset in the body": Raw(_sized(half, length=size), resets=True),
        "reset in the header": Raw(OK, resets=True),
        "length too short": Raw(_sized(body, length=size // 2)),
        "length too long": Raw(_sized(body, length=size + 10)),
        "length negative": Raw(_sized(body, length=-size)),
        "length without an end": Raw(_sized(body, length=b"9" * 40)),
        "length in words": Raw(_sized(body, length=b"twelve")),
        "two lengths": Raw(_sized(body, OK + b"content-length: 1\r\n")),
        "chunk of no size": Raw(chunked + b"\r\nzz\r\n" + body),
        "chunk of any size": Raw(chunked + b"\r\n" + b"f" * 16 + b"\r\n" + body),
        "chunk cut off": Raw(chunked + b"\r\n%x\r\n" % size + half),
        "chunks without an end": Raw(chunked + b"\r\n%x\r\n" % size + body + b"\r\n"),
        "chunks and a length": Raw(_sized(body, chunked)),
        "endless header": Raw(OK + b"x-more: y\r\n" * 30_000),
        "long header": Raw(_sized(body, OK + b"x: " + b"y" * 300_000 + b"\r\n")),
        "header without colon": Raw(_sized(body, OK + b"what\r\n")),
        "header with NUL": Raw(_sized(body, OK + b"x: a\0b\r\n")),
        "header of bytes": Raw(_sized(b"{" + body, OK + b"\xff\xfe: \xff\r\nset-cookie: \xff=\x01\r\n")),
        "no HTTP": Raw(b"SSH-2.0-OpenSSH_9.6\r\n" + body),
        "TLS": Raw(b"\x15\x03\x01\x00\x02\x02\x50"),
        "HTTP of another kind": Raw(_sized(body, b"HTTP/9.9 200 OK\r\n")),
        "status of four digits": Raw(_sized(body, b"HTTP/1.1 1000 OK\r\n")),
        "status of one digit": Raw(_sized(body, b"HTTP/1.1 2 OK\r\n")),
        "no status": Raw(_sized(body, b"HTTP/1.1 OK\r\n")),
        "switch": Raw(b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n" + body),
        "many continues": Raw(b"HTTP/1.1 100 Continue\r\n\r\n" * 2_000),
        "hints, then nothing": Raw(b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n"),
        "not modified": Raw(b"HTTP/1.1 304 Not Modified\r\n\r\n"),
        "bomb": Raw(_sized(gzip.compress(gzip.compress(bytes(1 << 24))), OK + b"content-encoding: gzip, gzip\r\n")),
        "compressed": Raw(_sized(gzip.compress(body), OK + b"content-encoding: gzip\r\n")),
        "not compressed": Raw(_sized(body, OK + b"content-encoding: gzip\r\n")),
        "compressed somehow": Raw(_sized(body, OK + b"content-encoding: x-made-up\r\n")),
        "too large": Raw(_sized(b'{"a": "' + b"x" * 3_000_000 + b'"}')),
        **{
            f"redirect {status} {place!r}": Raw(
                _sized(body, b"HTTP/1.1 %d Moved\r\nlocation: %s\r\n" % (status, place) + JSON_TYPE)
            )
            for status, place in zip((300, 301, 302, 303, 307, 308), PLACES, strict=True)
        },
    }


def text_faults(body: bytes) -> dict[str, Answer]:
    """By kind: sound HTTP, whose body or status is not that of an answer."""
    bodies = {
        "empty": b"",
        "null": b"null",
        "list": b"[]",
        "text": b'"ok"',
        "number": b"0",
        "html": LOGIN_PAGE,
        "ndjson": body + b"\n" + body + b"\n",
        "cut": body[:-1],
        "more": body + b"]",
        "utf-16": body.decode(errors="replace").encode("utf-16"),
        "no utf-8": body[:-1] + b',"x":"\xff\xfe"}',
        "bytes": bytes(range(256)),
        "nested 10,000 deep": nested(10_000),
        "unclosed": b"[" * 50_000,
    }
    statuses = (400, 401, 403, 404, 405, 409, 410, 413, 418, 429, 431, 500, 502, 503, 504, 599)
    return {
        **{kind: Answer(200, content) for kind, content in bodies.items()},
        **{f"{status} of a proxy": Answer(status, LOGIN_PAGE, "text/html; charset=hex") for status in statuses},
    }


NAMES = [
    *("", ".", "..", "../../escaped", "../" * 20 + "tmp/escaped", "/etc/passwd", "a/b", "a\\b", "~root", "-rf", "*"),
    *("a\0b", "a\nb\r\nX-Header: 1", "\u202eevil", "é" * 200, "x" * 1_000_000, "%2e%2e%2f", "a?b=c#d", "None", " "),
]
VALUES: list[Json] = [None, True, False, 0, -1, 1e308, 2**70, [], {}, ["x"], [None], [[]], {"a": 1}, *NAMES]


def _ways(value: Json) -> Iterator[list[Any]]:
    """To every place inside of it."""
    for step, inner in value.items() if isinstance(value, dict) else enumerate(value):
        yield [step]
        if isinstance(inner, dict | list):
            yield from ([step, *way] for way in _ways(inner))


def altered(rng: random.Random, value: Json) -> bytes:
    """The JSON with a thing or two that should not be."""
    copy = json.loads(json.dumps(value))
    for _ in range(rng.choice([1, 1, 2])):
        if not (ways := list(_ways(copy))):
            return as_bytes({rng.choice(NAMES): rng.choice(VALUES)})
        *way, last = rng.choice(ways)
        place = copy
        for step in way:
            place = place[step]
        match rng.choice(["value", "value", "token", "missing", "more", "inside"]):
            case "value":
                place[last] = rng.choice(VALUES)
            case "token":
                place[last] = f"@{rng.choice(list(TOKENS))}@"
            case "missing":
                del place[last]
            case "more" if isinstance(place, dict):
                place[rng.choice(NAMES)] = rng.choice(VALUES)
            case _:
                place[last] = [place[last]]
    return as_bytes(copy)


def shuffled(rng: random.Random, kinds: Mapping[str, Answer | Raw]) -> Iterator[Hostile]:
    """Each of them once, then each once more in another order, and so on."""
    while True:
        yield from rng.sample(list(kinds.items()), len(kinds))


def spoiled(rng: random.Random, sound: Json) -> Iterator[Hostile]:
    """In place of a sound answer, without an end: no HTTP, no JSON, and not this JSON, in turn."""
    body = as_bytes(sound)
    http, text = shuffled(rng, http_faults(body)), shuffled(rng, text_faults(body))
    while True:
        yield next(http)
        yield next(text)
        yield "altered", Answer(200, altered(rng, sound))
