"""How the Claude Code executor derives a limit of the provider from the reports of the program."""

from typing import Any

import pytest
from claude_agent_sdk import ResultMessage, SystemMessage
from claude_agent_sdk.types import Message, RateLimitEvent, RateLimitInfo

from claude_code_executor.diagnosis import Diagnosis
from claude_code_executor.limits import LONG_RETRY_S, UNNAMED, Limit, Limits

NOW_S = 1_795_976_000.0
"""2026-11-29 18:13:20 UTC."""
RESETS_AT_S = 1_795_980_405
TEXT = "You've hit your 5-hour limit · resets 7:26pm (UTC)"
END_OF_MINUTE_S = 1_795_980_420.0
"""The end of the minute in `TEXT`."""


def result(text: str | None = TEXT, status: int | None = 429, **fields: object) -> ResultMessage:
    given = {"subtype": "success", "duration_ms": 1, "duration_api_ms": 1, "is_error": True, "num_turns": 1}
    given |= {"session_id": "s", "result": text, "api_error_status": status}
    return ResultMessage(**{**given, **fields})  # type: ignore[arg-type]  # each test names its own


def event(status: Any = "rejected", resets_at: Any = RESETS_AT_S, **fields: Any) -> RateLimitEvent:
    return RateLimitEvent(RateLimitInfo(status, resets_at, **{"rate_limit_type": "five_hour", **fields}), "u", "s")


def retry(delay_ms: float, attempt: int = 1, status: int | None = 429) -> SystemMessage:
    fields = {"attempt": attempt, "max_retries": 10, "retry_delay_ms": delay_ms, "error_status": status}
    return SystemMessage("api_retry", fields)


def limit_of(found: ResultMessage, *messages: Message) -> Limit | None:
    limits = Limits(clock=lambda: NOW_S)
    for message in messages:
        limits.record(message)
    return limits.limit_of(found)


def test_the_programs_event_names_kind_and_reset() -> None:
    assert limit_of(result(), event()) == Limit("five_hour", RESETS_AT_S, "You've hit your 5-hour limit")
    opus = event(rate_limit_type="seven_day_opus")
    assert limit_of(result("You've hit your Opus limit"), opus) == Limit(
        "seven_day_opus", RESETS_AT_S, "You've hit your Opus limit"
    )


@pytest.mark.parametrize("resets_at", [None, 1_795_980_405_000, "soon", True, float("nan"), [1]])
def test_without_a_usable_time_in_the_event_that_of_the_text_counts(resets_at: object) -> None:
    assert limit_of(result(), event(resets_at=resets_at)) == Limit(
        "five_hour", END_OF_MINUTE_S, "You've hit your 5-hour limit"
    )
    unknown = limit_of(result("You've hit your 5-hour limit"), event(resets_at=resets_at))
    assert unknown == Limit("five_hour", None, "You've hit your 5-hour limit")


def test_a_reset_in_the_past_is_passed_on() -> None:
    """The runner decides how long to wait then."""
    past = limit_of(result(), event(resets_at=0))
    assert past is not None
    assert past.resets_at_s == 0


def test_a_limit_without_an_event_has_its_kind_from_the_text() -> None:
    assert limit_of(result(), event("allowed")) == limit_of(result())
    assert limit_of(result()) == Limit("five_hour", END_OF_MINUTE_S, "You've hit your 5-hour limit")


@pytest.mark.parametrize(
    ("text", "kind", "resets_at_s"),
    [
        ("API Error: Request rejected (429) · slow down", UNNAMED, None),
        ("API Error: Server is temporarily limiting requests (not your usage limit) · slow", UNNAMED, None),
        ("You've hit your weekly limit · resets Dec 2, 6pm (UTC)", "seven_day", 1_796_234_460.0),
        ("You’ve hit your session limit", "five_hour", None),
        ("5-hour limit reached ∙ resets 7:26pm (UTC)", "five_hour", END_OF_MINUTE_S),
        ("You've hit your limit · resets 7:26pm (UTC)", "usage_limit", END_OF_MINUTE_S),
        ("You've hit your monthly spend limit.", "usage_limit", None),
        ("Claude AI usage limit reached|1795980405", "usage_limit", RESETS_AT_S),
    ],
)
def test_the_text_names_the_limit_as_a_last_resort(text: str, kind: str, resets_at_s: float | None) -> None:
    found = limit_of(result(text))
    assert found is not None
    assert (found.kind, found.resets_at_s) == (kind, resets_at_s)
    assert "|" not in found.message
    # Texts about usage limits need no status.
    assert (limit_of(result(text, status=None)) is not None) == (kind != UNNAMED)


@pytest.mark.parametrize(
    "other",
    [
        result("You've hit your 5-hour limit · resets 7:26pm (UTC)", None, is_error=False),
        result("Context limit reached · /compact or /clear to continue", None),
        result("The answer is: You've hit your 5-hour limit", None),
        result("API Error: 529 Overloaded", 529),
        result("Credit balance is too low", 400),
        result(None, None, subtype="error_max_turns"),
        result(None, None, subtype="error_during_execution"),
        result("fine", None, is_error=False),
    ],
    ids=lambda each: str(each.result or each.subtype),
)
def test_other_results_are_no_limits_even_if_one_is_reached(other: ResultMessage) -> None:
    """The turn continues despite a rejected limit while additional usage is paid for."""
    assert limit_of(other, event(overage_status="allowed")) is None


def test_a_limit_of_an_earlier_turn_is_known() -> None:
    """The program reports each change once."""
    assert limit_of(result(None), event(), SystemMessage("init", {})) == Limit("five_hour", RESETS_AT_S, "")


INTERRUPTED = result(None, None, subtype="error_during_execution")


def test_a_retry_that_the_api_puts_off_for_long_ends_the_turn() -> None:
    limits = Limits(clock=lambda: NOW_S)
    assert limits.record(retry(48_000))
    found = limits.limit_of(INTERRUPTED)
    assert found is not None
    assert (found.kind, found.resets_at_s) == (UNNAMED, NOW_S + 48)
    # The request can be answered before the interrupt.
    assert limits.limit_of(result("fine", None, is_error=False)) is None
    limits.record(SystemMessage("init", {}))
    assert limits.limit_of(INTERRUPTED) is None


@pytest.mark.parametrize(
    "other",
    [
        retry(LONG_RETRY_S * 1000),
        retry(48_000, status=529),
        retry(48_000, status=None),
        # The program's own choice, since the API names no time.
        retry(39_900, attempt=7),
        retry(39_900, attempt=10**9),
        SystemMessage("api_retry", {"error_status": 429}),
        SystemMessage("api_retry", {"error_status": 429, "attempt": "1", "retry_delay_ms": "48000"}),
    ],
    ids=lambda each: str(each.data),
)
def test_other_retries_are_left_to_the_program(other: SystemMessage) -> None:
    limits = Limits(clock=lambda: NOW_S)
    assert not limits.record(other)
    assert limits.limit_of(INTERRUPTED) is None


def test_a_status_detail_has_no_time_that_is_none() -> None:
    details = [Diagnosis().detail_of(event(resets_at=each)) for each in (None, "soon", 1_795_980_405_000)]
    assert details == ["the usage limit five_hour is reached"] * 3
