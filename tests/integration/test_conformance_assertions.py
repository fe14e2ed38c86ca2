"""Assertions about an executor's messages, and the transcript."""

from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any, Self

import msgspec
import pytest

from fsm_runner.conformance import assertions
from fsm_runner.conformance.cases.questions import names_version
from fsm_runner.conformance.gateway import Exchange
from fsm_runner.conformance.record import ENTRIES_LIMIT, ENTRY_LIMIT_CHARS, Transcript
from fsm_runner.conformance.result import CaseFailed

NOW = datetime.now(UTC).replace(microsecond=0)


@pytest.fixture(autouse=True)
def frozen_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """`NOW` must remain current however long after the import a test runs."""

    class Clock(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Self:
            return cls.fromtimestamp(NOW.timestamp(), tz)

    monkeypatch.setattr(assertions, "datetime", Clock)


def message(path: str, status: int = 201, **fields: Any) -> Exchange:
    exchange = Exchange("POST", path, 0.0)
    exchange.body += msgspec.json.encode(fields)
    exchange.status = status
    return exchange


def at(*timestamps: Any) -> list[Exchange]:
    return [message("/events", timestamp=timestamp) for timestamp in timestamps]


def text(moment: datetime, form: str) -> str:
    return moment.strftime(form)


@pytest.mark.parametrize("form", ["%Y-%m-%dT%H:%M:%SZ", "%Y-%m-%dT%H:%M:%S.%fZ", "%Y-%m-%dT%H:%M:%S+00:00"])
def test_timestamps_may_have_any_format_of_utc_and_may_repeat(form: str) -> None:
    later = NOW + timedelta(seconds=1)
    assertions.valid_timestamps(at(text(NOW, form), text(NOW, form), text(later, form)))


@pytest.mark.parametrize(
    ("timestamps", "message"),
    [
        ((None,), "not ISO 8601"),
        ((NOW.timestamp(),), "not ISO 8601"),
        ((text(NOW, "%Y-%m-%dT%H:%M:%S"),), "not ISO 8601"),
        ((text(NOW, "%Y-%m-%d %H:%M:%SZ"),), "not ISO 8601"),
        ((text(NOW, "%Y-%m-%dT%H:%M:%S+01:00"),), "not ISO 8601"),
        (("2026-13-01T00:00:00Z",), "is not a valid time"),
        ((text(NOW + timedelta(hours=1), "%Y-%m-%dT%H:%M:%SZ"),), "not the current time in UTC"),
        ((text(NOW, "%Y-%m-%dT%H:%M:%S.1Z"), text(NOW, "%Y-%m-%dT%H:%M:%S.12Z")), "differ in format or width"),
        ((text(NOW, "%Y-%m-%dT%H:%M:%SZ"), text(NOW, "%Y-%m-%dT%H:%M:%S+00:00")), "differ in format or width"),
        ((text(NOW, "%Y-%m-%dT%H:%M:%S.2Z"), text(NOW, "%Y-%m-%dT%H:%M:%S.1Z")), "go backwards"),
    ],
)
def test_invalid_timestamps(timestamps: tuple[Any, ...], message: str) -> None:
    with pytest.raises(CaseFailed, match=message):
        assertions.valid_timestamps(at(*timestamps))


@pytest.mark.parametrize(
    "event",
    [
        {"event_type": "message", "role": "user", "content": [{"type": "text", "text": "hello"}]},
        {"event_type": "pre_tool", "tool_name": "look", "tool_input": {}},
        {"event_type": "post_tool", "tool_name": "look", "tool_input": {}, "tool_output": None, "error": None},
        {"event_type": "result", "result_text": "done"},
    ],
)
def test_valid_events(event: dict[str, Any]) -> None:
    assertions.valid_event(event)


@pytest.mark.parametrize(
    ("event", "message"),
    [
        ({}, "unknown type"),
        ({"event_type": "thought"}, "unknown type"),
        ({"event_type": "run_start"}, "the coordinator writes itself"),
        ({"event_type": "message", "role": "system", "content": []}, "the role 'system'"),
        ({"event_type": "message", "role": "user", "content": "hello"}, "list of blocks"),
        ({"event_type": "post_tool", "tool_input": {}}, "tool_name"),
        ({"event_type": "pre_tool", "tool_name": "look", "tool_input": "there"}, "tool_input"),
    ],
)
def test_invalid_events(event: dict[str, Any], message: str) -> None:
    with pytest.raises(CaseFailed, match=message):
        assertions.valid_event(event)


@pytest.mark.parametrize("result", [{"result_text": ""}, {"result_data": {}}, {"result_text": None, "result_data": {}}])
def test_valid_results(result: dict[str, Any]) -> None:
    assertions.valid_result(result)


@pytest.mark.parametrize(
    ("result", "message"),
    [
        ({}, "neither"),
        ({"result_text": None, "result_data": None}, "neither"),
        ({"result_text": "", "result_data": {}}, "both"),
        ({"result_text": 4}, "result_text is a number"),
        ({"result_data": []}, "result_data is a list"),
    ],
)
def test_invalid_results(result: dict[str, Any], message: str) -> None:
    with pytest.raises(CaseFailed, match=message):
        assertions.valid_result(result)


def test_a_rejected_bind_does_not_count() -> None:
    with pytest.raises(CaseFailed, match="never bound"):
        assertions.bound_first([message("/bind", 400)])


def test_a_bind_by_the_path_of_its_session_counts() -> None:
    assertions.bound_first([message("/sessions/ses_1/bind", 200), message("/events")])


def test_a_request_without_a_response_was_not_accepted() -> None:
    unanswered = message("/events")
    unanswered.status = None
    with pytest.raises(CaseFailed, match="got no response"):
        assertions.all_accepted([unanswered])


def test_a_transcript_is_bounded_and_printable() -> None:
    transcript = Transcript(lambda: 1.5)
    transcript.add("stdout", "\x1b[31mred\x07 and\nmore" + "x" * ENTRY_LIMIT_CHARS * 10)
    for _ in range(ENTRIES_LIMIT * 2):
        transcript.add("stdin", "again")
    shown = "\n".join(transcript.lines)
    assert transcript.lines[0].startswith("   1.500 s  stdout")
    assert "characters left out" in shown
    assert "entries left out" in transcript.lines[-1]
    assert len(transcript.lines) <= ENTRIES_LIMIT + 3
    assert all(each.isprintable() for line in transcript.lines for each in line)


@pytest.mark.parametrize("printed", ["2.2", '{"schema_versions": ["2.1", "2.2"]}', "v2.2\n", "It knows 2.1 and 2.2."])
def test_the_version_is_found(printed: str) -> None:
    assert names_version(printed)


@pytest.mark.parametrize("printed", ["", "2.1", "12.2", "2.22", "1.2.2", "2.2.1", "2,2"])
def test_other_versions_do_not_match(printed: str) -> None:
    assert not names_version(printed)
