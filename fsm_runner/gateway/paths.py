"""What an executor's URL says. Names are taken out of it here; its text goes no further.

A path is decoded exactly once, segment by segment, and what could mean something else to whoever decodes it again is
refused. The coordinator's URL is then built anew from the names (`path_segment`).
"""

import unicodedata
from typing import NamedTuple
from urllib.parse import parse_qsl, unquote_to_bytes, urlencode

from fsm_runner.coordinator_client.transport import path_segment
from fsm_runner.gateway.errors import Refusal

QUERY_FIELDS_LIMIT = 20
AMBIGUOUS_CHARACTERS = frozenset("/\\%")
"""Inside one name: a separator to somebody, or encoded a second time."""
UNPRINTABLE_CATEGORIES = frozenset({"Cc", "Cs", "Zl", "Zp"})


class RawPath(NamedTuple):
    token: bytes
    """As it stands: a token is not decoded."""
    segments: tuple[bytes, ...]


def split(raw_path: bytes) -> RawPath | None:
    """None where there is not even a place for a token."""
    start, *parts = raw_path.split(b"/")
    if start or not parts:
        return None
    return RawPath(parts[0], tuple(parts[1:]))


def names_of(segments: tuple[bytes, ...]) -> tuple[str, ...]:
    """Raises a 400 `Refusal` where a segment is no plain name."""
    return tuple(map(_name, segments))


def is_plain(name: str) -> bool:
    """Whether it means the same as a segment of a path to everyone who reads it."""
    if name in {"", ".", ".."}:
        return False
    return not any(
        each in AMBIGUOUS_CHARACTERS or unicodedata.category(each) in UNPRINTABLE_CATEGORIES for each in name
    )


def query_of(query_string: bytes, allowed: frozenset[str]) -> dict[str, str]:
    """The allowed parameters; others are left out. Raises a 400 `Refusal`, also where one of them comes twice."""
    try:
        pairs = parse_qsl(
            query_string.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=QUERY_FIELDS_LIMIT
        )
    except ValueError:
        raise Refusal(400, "The query cannot be read") from None
    found: dict[str, str] = {}
    for name, value in pairs:
        if name not in allowed:
            continue
        if name in found:
            raise Refusal(400, f"The query has {name} more than once")
        found[name] = value
    return found


def url_path(names: tuple[str, ...], query: dict[str, str] | None = None) -> str:
    """A path of the coordinator's, with its query."""
    path = "".join("/" + path_segment(name) for name in names)
    return f"{path}?{urlencode(query)}" if query else path


def _name(segment: bytes) -> str:
    try:
        name = unquote_to_bytes(segment).decode("utf-8")
    except UnicodeDecodeError:
        raise _no_name() from None
    if not is_plain(name):
        raise _no_name()
    return name


def _no_name() -> Refusal:
    return Refusal(400, "The path has a segment that is no name: empty, dots, a control character, or encoded twice")
