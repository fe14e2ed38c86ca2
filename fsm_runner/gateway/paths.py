"""Request paths and queries. They are decoded into names; URLs for the coordinator are built from the names.

Each segment is decoded exactly once. A segment that another decoder could read differently is refused.
"""

import unicodedata
from typing import NamedTuple
from urllib.parse import parse_qsl, unquote_to_bytes, urlencode

from fsm_runner.gateway.errors import GatewayError
from fsm_runner.protocol.urls import path_segment

QUERY_FIELDS_LIMIT = 20
AMBIGUOUS_CHARACTERS = frozenset("/\\%")
"""Characters that some programs read as a separator, or as an encoding to decode again."""
UNPRINTABLE_CATEGORIES = frozenset({"Cc", "Cs", "Zl", "Zp"})


class RawPath(NamedTuple):
    token: bytes
    """The token as written: it is not decoded."""
    segments: tuple[bytes, ...]


def split(raw_path: bytes) -> RawPath | None:
    """Return the token and the undecoded segments after it. None: the path does not begin with a slash."""
    start, *parts = raw_path.split(b"/")
    if start or not parts:
        return None
    return RawPath(parts[0], tuple(parts[1:]))


def decode_names(segments: tuple[bytes, ...]) -> tuple[str, ...]:
    """Decode the segments. Raises a 400 `GatewayError` if one is not an unambiguous name."""
    # Bytes that are not UTF-8 become lone surrogates, which are ambiguous.
    names = tuple(unquote_to_bytes(segment).decode(errors="surrogateescape") for segment in segments)
    if not all(map(is_unambiguous, names)):
        detail = "A segment of the path is empty, consists of dots, has a control character, or is encoded twice"
        raise GatewayError(400, detail)
    return names


def is_unambiguous(name: str) -> bool:
    """Return whether every program reads the name as the same segment of a path."""
    if name in {"", ".", ".."}:
        return False
    return not any(
        char in AMBIGUOUS_CHARACTERS or unicodedata.category(char) in UNPRINTABLE_CATEGORIES for char in name
    )


def query_of(query_string: bytes, allowed: frozenset[str]) -> dict[str, str]:
    """Return the allowed parameters and drop the others. Raises a 400 `GatewayError` if one occurs twice."""
    try:
        pairs = parse_qsl(
            query_string.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=QUERY_FIELDS_LIMIT
        )
    except ValueError:
        raise GatewayError(400, "The query cannot be parsed") from None
    query: dict[str, str] = {}
    for name, value in pairs:
        if name in query:
            raise GatewayError(400, f"The query has {name} more than once")
        if name in allowed:
            query[name] = value
    return query


def url_path(names: tuple[str, ...], query: dict[str, str] | None = None) -> str:
    """Return a path of the coordinator, with its query."""
    path = "".join("/" + path_segment(name) for name in names)
    return f"{path}?{urlencode(query)}" if query else path
