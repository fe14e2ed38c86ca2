"""The fields of a session's metadata that are for the runner itself."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fsm_runner.journal.records import MOST_USED
from fsm_runner.reporting.executor_status import DETAIL_LIMIT_CHARS, ExecutorStatus, Usage, take_executor_status
from fsm_runner.reporting.provider_limit import ProviderLimit


def status_of(**fields: Any) -> ExecutorStatus | None:
    return take_executor_status({key: msgspec.json.encode(value) for key, value in fields.items()})


def test_other_fields_are_not_for_the_runner() -> None:
    assert status_of(last_resumed_at="2026-01-01T00:00:00.000000Z") is None


def test_a_long_detail_is_cut() -> None:
    assert status_of(status_detail="x" * 10_000) == ExecutorStatus("x" * DETAIL_LIMIT_CHARS)


def test_usage_is_what_an_executor_can_count() -> None:
    usage = Usage(input_tokens=1200, output_tokens=30, cost_usd=0.01234, turns=2)
    assert status_of(usage=msgspec.to_builtins(usage) | {"others": 1}) == ExecutorStatus(usage=usage)
    assert str(usage) == "1,200 tokens in, 30 out, 0.0123 USD, 2 turns"


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        ('{"input_tokens": -5, "turns": 0, "cost_usd": -1e300}', Usage(input_tokens=0, turns=0, cost_usd=0.0)),
        (f'{{"input_tokens": {"9" * 4300}, "cost_usd": 1e308}}', Usage(input_tokens=MOST_USED, cost_usd=MOST_USED)),
        (
            f'{{"duration_s": 0.5, "cache_read_tokens": {MOST_USED}}}',
            Usage(duration_s=0.5, cache_read_tokens=MOST_USED),
        ),
    ],
    ids=["negative", "huge", "possible"],
)
def test_counts_that_cannot_be_are_limited(usage: str, expected: Usage) -> None:
    status = take_executor_status({"usage": usage.encode()})
    assert status == ExecutorStatus(usage=expected)
    assert msgspec.json.encode(expected.plus(expected))


def test_a_count_of_too_many_digits_is_left_for_the_coordinator() -> None:
    assert take_executor_status({"usage": b'{"turns": %s}' % (b"9" * 4301)}) is None


def test_the_fields_for_the_runner_are_removed() -> None:
    fields = {"status_detail": b'"waits"', "usage": b'{"turns": 1}', "last_resumed_at": b'"now"'}
    take_executor_status(fields)
    assert fields == {"last_resumed_at": b'"now"'}
    other_form = {"usage": b'"much"'}
    take_executor_status(other_form)
    assert other_form == {"usage": b'"much"'}


def test_a_limit_is_for_the_runner() -> None:
    limit = {"kind": "five_hour", "resets_at": "2026-03-01T16:00:00+01:00", "scope": "session", "message": "wait"}
    status = status_of(limit=limit, last_resumed_at="now")
    assert status == ExecutorStatus(
        limit=ProviderLimit(kind="five_hour", resets_at="2026-03-01T15:00:00Z", scope="session", message="wait")
    )


@pytest.mark.parametrize("null", [b"null", b" null\n"])
def test_a_limit_of_null_is_removed_and_means_nothing(null: bytes) -> None:
    fields = {"limit": null}
    assert take_executor_status(fields) == ExecutorStatus()
    assert fields == {}


@pytest.mark.parametrize(
    "fields",
    [
        {"usage": "much"},
        {"usage": {"turns": "2"}},
        {"status_detail": {"a": 1}},
        {"limit": "five_hour"},
        {"limit": [{"kind": "five_hour"}]},
        {"limit": {"resets_at": "2026-03-01T15:00:00Z"}},
    ],
)
def test_a_field_of_another_type_is_left_for_the_coordinator(fields: dict[str, Any]) -> None:
    encoded = {key: msgspec.json.encode(value) for key, value in fields.items()}
    assert take_executor_status(encoded) is None
    assert encoded.keys() == fields.keys()


@given(st.dictionaries(st.sampled_from(["usage", "status_detail", "limit"]), st.binary(max_size=30)))
def test_no_metadata_is_a_fault_of_the_runner(fields: dict[str, bytes]) -> None:
    assert isinstance(take_executor_status(fields), ExecutorStatus | None)
