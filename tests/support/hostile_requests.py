"""Requests drawn from an operation's schemas, both plausible and hostile ones."""

import json
from collections.abc import Iterator
from typing import Any

import msgspec
from hypothesis import strategies as st

from tests.support.openapi import Operation, Schema

Json = Any

KNOWN = {"session_id", "run_id", "runner_id", "agent_name", "name", "parent_session_id"}
"""Fields and parameters that name something. `{session_id}` in a drawn request is replaced by one that there is."""
DEPTHS = (50, 250, 490, 510, 900, 985)
"""Of JSON that Python can decode, though not everything that follows could."""


def nested(depth: int) -> bytes:
    pairs, odd = divmod(depth, 2)
    return b'{"a":[' * pairs + b"[" * odd + b"1" + b"]" * odd + b"]}" * pairs


class Sent(msgspec.Struct, frozen=True):
    operation: Operation
    target: str
    """Path and query; `{session_id}` and the like are placeholders."""
    is_strange: bool
    """Whether the path may mean something else than the operation's."""
    content: bytes | None = None
    headers: tuple[tuple[bytes, bytes], ...] = ()


TOKENS: dict[str, bytes] = {
    "nan": b"NaN",
    "infinite": b"1e999",
    "tiny": b"1e-999",
    "large": b"123456789012345678901234567890",
    "digits": b"9" * 5_000,
    "half a pair": b'"\\ud800"',
    "no pair": b'"\\udc00\\ud800"',
    "nul": b'"\\u0000"',
    "raw control": b'"a\nb"',
    "no utf-8": b'"\xff\xfe"',
    "overlong": b'"\xc0\xaf"',
    "coded surrogate": b'"\xed\xa0\x80"',
    "long": b'"' + b"x" * 20_000 + b'"',
    "unclosed": b"[" * 50_000,
    "hex": b"0x10",
    "comment": b"/**/1",
    **{f"nested {depth}": nested(depth) for depth in DEPTHS},
}
"""JSON, or nearly, that no encoder would write; a text `@NAME@` stands for each until the body is bytes."""

tokens = st.sampled_from([f"@{name}@" for name in TOKENS])
nasty_texts = st.sampled_from(
    [
        *("", " ", ".", "..", "../../etc/passwd", "/", "\\", "%", "%2e%2e", "a\0b", "a\r\nX: 1", "\u202e", "é" * 99),
        *("${params.x}", "${runner.orchestrator_mcp_url}", "'; DROP TABLE runs; --", "null", "0", "-1", "true", "*"),
    ]
) | st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
numbers = (
    st.sampled_from([0, -1, 2**63, 2**64, 1e308]) | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
)
scalars = st.none() | st.booleans() | numbers | nasty_texts
anything = st.recursive(
    scalars | tokens,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(nasty_texts, inner, max_size=3),
    max_leaves=5,
)
parameter_objects = st.sampled_from([{"prompt": "hi"}, {"message": "hi"}, {}]) | st.dictionaries(
    nasty_texts, anything, max_size=3
)


def texts_for(name: str) -> st.SearchStrategy[str]:
    """A name is mostly one that there is."""
    known = st.just(f"{{{name}}}")
    return known | known | nasty_texts if name in KNOWN else nasty_texts


def fitting(schema: Schema, name: str = "") -> st.SearchStrategy[Json]:
    """Values that the schema allows."""
    content = schema.content
    if "anyOf" in content:
        return st.one_of(*(fitting(schema.at("anyOf")._replace(content=each), name) for each in content["anyOf"]))
    if "enum" in content or "const" in content:
        return st.sampled_from(content.get("enum") or [content["const"]])
    match content.get("type"):
        case "string":
            return texts_for(name)
        case "boolean":
            return st.booleans()
        case "null":
            return st.none()
        case "integer" | "number":
            return numbers
        case "array":
            return st.lists(fitting(schema.at("items"), name), max_size=3)
        case "object" if "properties" in content:
            return _objects(schema)
        case "object":
            return parameter_objects
        case _:
            return anything


def _objects(schema: Schema) -> st.SearchStrategy[Json]:
    fields = {name: fitting(schema.at("properties", name), name) for name in schema.content["properties"]}
    required = {name: fields.pop(name) for name in schema.content.get("required", ())}
    return st.fixed_dictionaries(required, optional=fields)


def _named(value: Json, name: str = "") -> Json:
    """Return an example with placeholders for the names of things."""
    if isinstance(value, dict):
        return {key: _named(inner, key) for key, inner in value.items()}
    if isinstance(value, list):
        return [_named(inner) for inner in value]
    return f"{{{name}}}" if name in KNOWN else value


@st.composite
def examples(draw: st.DrawFn, operation: Operation) -> Json:
    """The document's own, with a few fields of it, or of what it holds, as they should not be."""
    value = _named(operation.example)
    for _ in range(draw(st.integers(0, 2))):
        inside = [each for each in value.values() if isinstance(each, dict)]
        place = draw(st.sampled_from([value, value, *inside]))
        name = draw(st.sampled_from(sorted(place) or ["x"]) | nasty_texts)
        match draw(st.integers(0, 3)):
            case 0:
                place.pop(name, None)
            case 1:
                place[name] = draw(tokens)
            case _:
                place[name] = draw(anything)
    return value


def each_field_spoiled(operation: Operation) -> Iterator[Sent]:
    """The example with every token in every place, one at a time, also under an unknown name."""
    target = operation.path
    for *way, last in [*_places(operation.example), ["unknown"]]:
        for name in TOKENS:
            value = _named(operation.example)
            place = value
            for step in way:
                place = place[step]
            place[last] = f"@{name}@"
            yield Sent(operation, target, False, as_bytes(value), ((b"content-type", b"application/json"),))


def _places(value: Json) -> Iterator[list[Any]]:
    """The ways to all that the value holds."""
    for step, inner in value.items() if isinstance(value, dict) else enumerate(value):
        yield [step]
        if isinstance(inner, dict | list):
            yield from ([step, *way] for way in _places(inner))


def as_bytes(value: Json) -> bytes:
    """With the tokens put in, and lone surrogates as they are escaped."""
    body = json.dumps(value).encode()
    for name, token in TOKENS.items():
        body = body.replace(f'"@{name}@"'.encode(), token)
    return body


def _twice(body: bytes) -> bytes:
    """Its first field comes a second time, as something else."""
    key = body[1:].partition(b":")[0]
    return b"%s,%s:{}}" % (body[:-1], key) if body.startswith(b'{"') else body


body_faults = st.sampled_from(
    [
        lambda body: body,
        lambda body: body[: len(body) // 2],
        lambda body: body + b"}",
        lambda body: body + b"\n" + body,
        lambda body: b"\xef\xbb\xbf" + body,
        lambda body: body.decode(errors="replace").encode("utf-16"),
        lambda body: b"",
        lambda body: b"a=b&c=d",
        lambda body: b"<a/>",
        _twice,
    ]
)


@st.composite
def bodies(draw: st.DrawFn, operation: Operation, schema: Schema) -> bytes:
    kind = draw(st.sampled_from(["example", "example", "example", "fitting", "anything"]))
    value = draw({"example": examples(operation), "fitting": fitting(schema), "anything": anything}[kind])
    body = as_bytes(value)
    return draw(body_faults)(body) if draw(st.integers(0, 4)) == 0 else body


segments = st.sampled_from(
    [
        *("", ".", "..", "%2E%2E", "%2e", "..%2F..", "%2F", "a%2Fb", "%5C", "%00", "%0d%0aX:1", "%ff", "%c0%ae"),
        *("%", "%zz", "%25252e", "x" * 3_000, "x" * 30_000, "~", "*", ";a=b", "a;b", "a:b", "@", "stop", "None"),
        *("%ed%a0%80", "%E2%80%AE"),
    ]
)
query_values = segments | st.sampled_from(
    ["{session_id}", "{runner_id}", "true", "false", "1", "a,b,,c", "a&runner_id=b"]
)
queries = st.sampled_from(
    [
        *("", "?", "?=", "?&&&", "?a=b=c", "?%ff=%ff", "?[]=1", "?runner_id", "?a%00=%00"),
        *("?" + "a=1&" * 300, "?q=" + "x" * 30_000),
    ]
)
content_types = st.sampled_from(
    [b"application/json"] * 5
    + [b"application/json; charset=utf-16", b"text/plain", b"multipart/form-data", b"application/x-www-form-urlencoded"]
    + [b"x", b"", b"\xff/\xff"]
)
more_headers = st.sampled_from(
    [
        *([()] * 8),
        ((b"content-encoding", b"gzip"),),
        ((b"accept", b"text/html;q=x"), (b"accept-encoding", b"br, *;q=0")),
        ((b"x-forwarded-host", b"elsewhere"), (b"x-http-method-override", b"DELETE")),
        ((b"cookie", b"a=" + b"b" * 2_000), (b"range", b"bytes=0-1,5-2")),
        ((b"expect", b"100-continue"),),
        ((b"if-match", b"*"), (b"authorization", b"Basic \xff")),
        ((b"origin", b"http://elsewhere.example"),),
    ]
)


@st.composite
def requests(draw: st.DrawFn, operation: Operation) -> Sent:
    target, is_strange = "", False
    for segment in operation.path.split("/")[1:]:
        if segment.startswith("{") and draw(st.integers(0, 3)) == 0:
            target += "/" + draw(segments)
            is_strange = True
        else:
            target += f"/{segment}"
    if draw(st.integers(0, 5)) == 0:
        target += draw(queries)
    elif pairs := [each for each in operation.queries if draw(st.integers(0, 3)) or each.required]:
        target += "?" + "&".join(f"{each.name}={draw(st.just(f'{{{each.name}}}') | query_values)}" for each in pairs)
    headers = draw(more_headers)
    if operation.body is None:
        return Sent(operation, target, is_strange, headers=headers)
    kind = ((b"content-type", draw(content_types)),)
    return Sent(operation, target, is_strange, draw(bodies(operation, operation.body)), (*kind, *headers))
