"""The decoder of provider limits: each object with a kind is a limit, and no value raises."""

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from fsm_runner.reporting.provider_limit import (
    KIND_LIMIT_CHARS,
    MESSAGE_LIMIT_CHARS,
    ProviderLimit,
    decode_provider_limit,
)

KEYS = ["kind", "resets_at", "scope", "message", "other"]
numbers = st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
offsets = st.integers(-24 * 60 + 1, 24 * 60 - 1).map(lambda minutes: timezone(timedelta(minutes=minutes)))
odd_times = st.from_regex(r"[+-]?\d{1,9}-?\d\d-?\d\d[T ]?(\d\d(:?\d\d(:?\d\d([.,]\d*)?)?)?)?(Z|[+-]\d\d(:?\d\d)?)?")
values = st.recursive(
    st.none() | st.booleans() | numbers | st.text() | odd_times | st.sampled_from(["credential", "session"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


def check(limit: ProviderLimit) -> None:
    assert 0 < len(limit.kind) <= KIND_LIMIT_CHARS
    assert len(limit.message) <= MESSAGE_LIMIT_CHARS
    assert (limit.resets_at is None) == (limit.resets_at_s is None)
    assert "\n" not in str(limit)
    assert msgspec.json.decode(msgspec.json.encode(limit), type=ProviderLimit) == limit
    assert decode_provider_limit(msgspec.json.encode(limit)) == limit


@given(st.dictionaries(st.sampled_from(KEYS), values))
def test_each_object_with_a_kind_is_a_limit(fields: dict[str, Any]) -> None:
    limit = decode_provider_limit(msgspec.json.encode(fields))
    kind = fields.get("kind")
    assert (limit is not None) == (isinstance(kind, str) and kind.strip() != "")
    if limit is not None:
        check(limit)


@given(st.binary(max_size=60) | st.binary(max_size=60).map(lambda data: b'{"kind": "k", "resets_at": ' + data + b"}"))
def test_no_bytes_raise(data: bytes) -> None:
    limit = decode_provider_limit(data)
    if limit is not None:
        check(limit)


@given(st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30), timezones=offsets))
def test_each_time_is_the_same_moment_in_utc(moment: datetime) -> None:
    limit = decode_provider_limit(msgspec.json.encode({"kind": "k", "resets_at": moment.isoformat()}))
    assert limit is not None
    assert limit.resets_at is not None
    assert limit.resets_at.endswith("Z")
    assert datetime.fromisoformat(limit.resets_at) == moment.astimezone(UTC)
    assert limit.resets_at_s == moment.timestamp()
