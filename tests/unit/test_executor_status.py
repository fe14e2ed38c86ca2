"""The fields of a session's metadata that are for the runner itself."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fsm_runner.journal.records import MOST_USED
from fsm_runner.reporting.executor_status import DETAIL_LIMIT_CHARS, ExecutorStatus, Usage, take_executor_status
from fsm_runner.reporting.provider_limit import ProviderLimit
from tests.support.logs import log_lines


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


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ({"output_tokens": "12"}, Usage()),
        ({"output_tokens": True}, Usage()),
        ({"output_tokens": None}, Usage()),
        ({"output_tokens": [12]}, Usage()),
        ({"cost_usd": "0.5"}, Usage()),
        ({"output_tokens": 1001.0}, Usage(output_tokens=1001)),
        ({"output_tokens": 0.1, "turns": 2.5}, Usage(output_tokens=1, turns=3)),
        ({"output_tokens": -0.5}, Usage(output_tokens=0)),
        ({"output_tokens": 1e300}, Usage(output_tokens=MOST_USED)),
        ({"cost_usd": 2}, Usage(cost_usd=2.0)),
    ],
)
def test_each_field_of_usage_counts_for_itself(counts: dict[str, Any], expected: Usage) -> None:
    status = status_of(usage={"input_tokens": 7, **counts})
    assert status == ExecutorStatus(usage=msgspec.structs.replace(expected, input_tokens=7))
    assert status.usage is not None
    for name, value in msgspec.structs.asdict(status.usage).items():
        assert isinstance(value, (float if name in ("cost_usd", "duration_s") else int) | None)


@pytest.mark.parametrize("value", ["12", True, [12], {"tokens": 12}, "x" * 10_000])
def test_a_field_of_usage_that_is_no_number_is_logged(value: Any) -> None:
    with log_lines("WARNING") as lines:
        take_executor_status({"usage": msgspec.json.encode({"turns": 2, "output_tokens": value})}, "ses_1")
    (line,) = lines
    shown = msgspec.json.encode(value).decode()
    assert line.startswith(f"ses_1: output_tokens of usage is no number and is ignored: {shown[:100]}")
    assert len(line) < 500


@pytest.mark.parametrize(
    ("usage", "lines"),
    [
        ("much", ['ses_1: usage is no JSON object and is ignored: "much"']),
        ([1], ["ses_1: usage is no JSON object and is ignored: [1]"]),
        ({}, ["ses_1: usage has none of the numbers that the runner counts, and is ignored: {}"]),
        (
            {"tokens": 12},
            ['ses_1: usage has none of the numbers that the runner counts, and is ignored: {"tokens":12}'],
        ),
        (None, []),
    ],
)
def test_usage_without_a_number_is_left_for_the_coordinator_and_logged(usage: Any, lines: list[str]) -> None:
    fields = {"usage": msgspec.json.encode(usage)}
    with log_lines("WARNING") as logged:
        assert take_executor_status(fields, "ses_1") is None
    assert logged == lines
    assert fields == {"usage": msgspec.json.encode(usage)}


@pytest.mark.parametrize(
    ("usage", "text"),
    [
        (Usage(cache_read_tokens=5_000, cache_written_tokens=20), "5,000 tokens from cache, 20 to cache"),
        (Usage(input_tokens=12, output_tokens=3, cache_read_tokens=5_000), "12 tokens in, 3 out, 5,000 from cache"),
        (Usage(output_tokens=3, cache_read_tokens=0), "3 tokens out"),
        (Usage(cache_read_tokens=0, duration_s=1.5), "no tokens"),
        (Usage(), "no tokens"),
    ],
)
def test_usage_for_people_is_never_empty(usage: Usage, text: str) -> None:
    assert str(usage) == text


def test_a_count_of_too_many_digits_is_left_for_the_coordinator() -> None:
    assert take_executor_status({"usage": b'{"turns": %s}' % (b"9" * 4301)}) is None


def test_the_fields_for_the_runner_are_removed() -> None:
    fields = {"status_detail": b'"waits"', "usage": b'{"turns": 1}', "last_resumed_at": b'"now"'}
    take_executor_status(fields)
    assert fields == {"last_resumed_at": b'"now"'}
    other_form = {"usage": b'"much"'}
    take_executor_status(other_form)
    assert other_form == {"usage": b'"much"'}


@pytest.mark.parametrize(
    ("limit", "lines"),
    [
        ({"resets_at": None}, ['ses_1: the reported limit has no `kind`, so it is ignored: {"resets_at":null}']),
        (
            {"kind": 5},
            ['ses_1: the reported limit has a `kind` that is empty or no text, so it is ignored: {"kind":5}'],
        ),
        (
            {"kind": " "},
            ['ses_1: the reported limit has a `kind` that is empty or no text, so it is ignored: {"kind":" "}'],
        ),
        ("five_hour", ['ses_1: the reported limit is no JSON object and is ignored: "five_hour"']),
        (None, []),
        ({"kind": "five_hour"}, []),
    ],
)
def test_a_limit_that_is_ignored_is_logged(limit: Any, lines: list[str]) -> None:
    with log_lines("WARNING") as logged:
        take_executor_status({"limit": msgspec.json.encode(limit)}, "ses_1")
    assert logged == lines


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
