"""The options of `submit` for the queue, durations, and what a coordinator must repeat."""

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from fsm_runner.cli.moments import moment_of
from fsm_runner.cli.queue_options import QueueFlags, unconfirmed
from fsm_runner.config.parse import duration
from fsm_runner.errors import UsageError
from fsm_runner.protocol.wire import RunCreated, RunRequest

GIVEN = QueueFlags(priority="-3", not_before="2026-03-01T16:00:00+01:00", queue_ttl="15m", idempotency_key="nightly")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("90s", 90), ("0.5", 0.5), ("15m", 900), ("2h", 7_200), ("30d", 2_592_000), ("1.5h", 5_400)],
)
def test_a_duration_has_a_unit_or_is_in_seconds(text: str, seconds: float) -> None:
    assert duration(text) == seconds


@pytest.mark.parametrize("text", ["", "s", "0", "0s", "-1m", "1 day", "1w", "nan", "inf", "infd", "1e9d", "36501d"])
def test_other_text_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="expected a duration above 0 and up to 36500d"):
        duration(text)


def test_the_options_become_fields_of_the_request() -> None:
    assert GIVEN.fields() == {
        "priority": -3,
        "not_before": "2026-03-01T15:00:00.000000Z",
        "queue_ttl_seconds": 900,
        "idempotency_key": "nightly",
    }
    assert set(QueueFlags().fields().values()) == {None}


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (QueueFlags(priority="11"), "--priority: '11'"),
        (QueueFlags(priority="1.5"), "--priority: '1.5'"),
        (QueueFlags(priority=""), "--priority: ''"),
        (QueueFlags(not_before="2026-03-01T15:00:00"), "--not-before: '2026-03-01T15:00:00': expected a time with"),
        (QueueFlags(not_before="20260301"), "--not-before: '20260301': expected a time with an offset"),
        (QueueFlags(not_before="0001-01-01T00:00+12:00"), "--not-before: '0001-01-01T00:00+12:00'"),
        (QueueFlags(not_before="soon"), "--not-before: 'soon'"),
        (QueueFlags(queue_ttl="0"), "--queue-ttl: '0'"),
        (QueueFlags(idempotency_key=" "), "--idempotency-key: the value is empty"),
        (QueueFlags(not_before="1709300000"), "--not-before: '1709300000' means 19,783 days in seconds; give a unit"),
        (QueueFlags(idempotency_key="a\0b"), "--idempotency-key: 'a\\x00b' has control characters: remove them"),
        (QueueFlags(idempotency_key="x" * 201), "--idempotency-key: has 201 characters"),
        (QueueFlags(not_before="2h", idempotency_key="x"), "would later name another time"),
    ],
)
def test_an_invalid_option_is_refused_by_its_name(options: QueueFlags, named: str) -> None:
    with pytest.raises(UsageError) as refused:
        options.fields()
    assert named in str(refused.value)


def test_a_duration_is_from_now_or_ago() -> None:
    now = datetime.now(UTC)
    later, earlier = moment_of("--x", "1h", 1), moment_of("--x", "1h", -1)
    assert 3_600 <= (later - now).total_seconds() < 3_660
    assert -3_600 <= (earlier - now).total_seconds() < -3_540


@pytest.mark.parametrize(
    ("changes", "flags"),
    [
        ({}, []),
        ({"not_before": "2026-03-01T15:00:00Z"}, []),
        ({"not_before": "2026-03-01T15:00:01.000000Z"}, ["--not-before"]),
        ({"not_before": "2026-03-01T15:00:00"}, ["--not-before"]),
        ({"not_before": None, "priority": 3}, ["--priority", "--not-before"]),
        ({"queue_ttl_seconds": "900"}, ["--queue-ttl"]),
        ({"idempotency_key": msgspec.UNSET}, ["--idempotency-key"]),
    ],
)
def test_the_response_must_repeat_each_option(changes: dict[str, Any], flags: list[str]) -> None:
    fields = GIVEN.fields()
    request = RunRequest(type="start_session", parameters={}, **fields)
    assert unconfirmed(request, RunCreated(run_id="run_1", session_id="ses_1", **{**fields, **changes})) == flags


def test_options_that_are_not_given_need_no_confirmation() -> None:
    request = RunRequest(type="start_session", parameters={})
    assert unconfirmed(request, RunCreated(run_id="run_1", session_id="ses_1")) == []
