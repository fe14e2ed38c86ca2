"""Limits of a provider, as executors report them."""

import json
import time
from typing import Any

import pytest

from fsm_runner.reporting.provider_limit import (
    KIND_LIMIT_CHARS,
    MESSAGE_LIMIT_CHARS,
    ProviderLimit,
    decode_provider_limit,
)
from tests.support.logs import log_lines

AT_15 = 1_772_377_200.0
"""2026-03-01T15:00:00Z in Unix seconds."""


def decoded(**fields: Any) -> ProviderLimit:
    limit = decode_provider_limit(json.dumps({"kind": "five_hour", **fields}).encode(), "ses_1")
    assert limit is not None
    return limit


def test_a_limit_has_all_fields() -> None:
    limit = decoded(resets_at="2026-03-01T15:00:00Z", scope="session", message="You've hit your limit", other=1)
    assert limit == ProviderLimit(
        kind="five_hour", resets_at="2026-03-01T15:00:00Z", scope="session", message="You've hit your limit"
    )
    assert limit.resets_at_s == AT_15
    assert str(limit) == "the limit five_hour is reached; it resets at 2026-03-01 15:00:00 UTC"


def test_only_the_kind_is_required() -> None:
    limit = decoded()
    assert limit == ProviderLimit(kind="five_hour", resets_at=None, scope="credential", message="")
    assert limit.resets_at_s is None
    assert str(limit) == "the limit five_hour is reached; the time of its reset is unknown"


@pytest.mark.parametrize("data", [b"null", b'"five_hour"', b"[]", b"{}", b'{"kind": 5}', b'{"kind": " \\n"}', b"{"])
def test_without_a_kind_it_is_no_limit(data: bytes) -> None:
    assert decode_provider_limit(data) is None


@pytest.mark.parametrize("scope", [None, "", "account", "CREDENTIAL", 1, ["session"], {"session": 1}])
def test_an_unknown_scope_is_the_credential(scope: Any) -> None:
    assert decoded(scope=scope).scope == "credential"


def test_long_texts_are_cut_and_short_ones_are_on_one_line() -> None:
    limit = decoded(kind="k" * 1_000, message="m" * 10_000)
    assert (len(limit.kind), len(limit.message)) == (KIND_LIMIT_CHARS, MESSAGE_LIMIT_CHARS)
    limit = decoded(kind="five\n hour", message="\x1b[31mwait\nfor it")
    assert (limit.kind, limit.message) == ("five hour", r"\x1b[31mwait for it")


@pytest.mark.parametrize(
    ("text", "utc"),
    [
        ("2026-03-01T15:00:00Z", "2026-03-01T15:00:00Z"),
        ("2026-03-01T16:30:00+01:30", "2026-03-01T15:00:00Z"),
        ("2026-03-01 10:00:00.250-05:00", "2026-03-01T15:00:00.250000Z"),
        ("2026-03-01T15:00:00", "2026-03-01T15:00:00Z"),  # no offset
        ("2026-03-01", "2026-03-01T00:00:00Z"),
        ("0001-01-01T00:00:00Z", "0001-01-01T00:00:00Z"),
        ("9999-12-31T23:59:59Z", "9999-12-31T23:59:59Z"),
    ],
)
def test_a_reset_is_in_utc(text: str, utc: str) -> None:
    limit = decoded(resets_at=text)
    assert limit.resets_at == utc
    assert limit.resets_at_s is not None
    assert utc[:19].replace("T", " ") in str(limit)


def test_a_reset_without_an_offset_is_in_utc_wherever_the_runner_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()
    try:
        assert decoded(resets_at="2026-03-01T15:00:00").resets_at_s == AT_15
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize(
    "value",
    [
        "",
        "soon",
        "1772377200",
        1_772_377_200,
        True,
        {},
        "2026-13-01T15:00:00Z",
        "2026-03-01T15:00:60Z",  # a leap second
        "2026-03-01T15:00:00+24:00",
        "2026-03-01T15:00:00+99:99",
        "0000-01-01T00:00:00Z",
        "10000-01-01T00:00:00Z",
        "+292277026596-12-04T15:30:07Z",
        "0001-01-01T00:00:00+01:00",  # in UTC, it is before the first year
        "9999-12-31T23:59:59-01:00",
        "Infinity",
        "NaN",
        "2026-03-01T15:00:00Z" + " " * 1_000_000,
        "\ufffd026-03-01T15:00:00Z",
        "２０２６-03-01T15:00:00Z",
    ],
)
def test_a_reset_that_is_no_time_is_absent_and_logged_once(value: Any) -> None:
    with log_lines() as lines:
        limit = decoded(resets_at=value)
        assert (limit.resets_at, limit.resets_at_s) == (None, None)
        assert str(limit).endswith("unknown")
    (line,) = lines
    assert line.startswith("ses_1: the limit five_hour has a resets_at that is no time, which is ignored: ")
    assert len(line) < 500


def test_a_limit_that_was_not_decoded_has_no_reset_if_its_text_is_no_time() -> None:
    limit = ProviderLimit(kind="five_hour", resets_at="soon")
    assert limit.resets_at_s is None
    assert str(limit).endswith("unknown")
