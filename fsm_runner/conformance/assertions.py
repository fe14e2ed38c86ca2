"""Whether what an executor tells of its session is what the protocol says (sections 1.1, 1.4 and 3)."""

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from fsm_runner.conformance.case import CaseFailed
from fsm_runner.conformance.exchange import Exchange
from fsm_runner.protocol.wire import JsonObject

CLOCK_MARGIN = timedelta(minutes=5)
"""So far a timestamp may be from this machine's time: less than any time zone, more than a slow executor."""

_TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|\+00:00)")
_ROLES = ("user", "assistant")


def accepted(told: Sequence[Exchange]) -> None:
    for each in told:
        if not each.accepted:
            raise CaseFailed(f"the gateway did not accept what it was told: {each}")


def bound_first(told: Sequence[Exchange]) -> None:
    """The session is bound before the first event, with an id of the executor's own."""
    binds = [each for each in told if each.kind == "bind" and each.accepted]
    if not binds:
        raise CaseFailed("the session was never bound: no POST /bind was accepted")
    before = next((each for each in told if each.kind == "event"), None)
    if before is not None and told.index(before) < told.index(binds[0]):
        raise CaseFailed(f"an event ({before.fields.get('event_type')}) came before the session was bound")


def one_result(results: Sequence[Exchange], of: str) -> None:
    if len(results) != 1:
        raise CaseFailed(f"{len(results)} result events came of {of}, where there has to be one")


def a_result(results: Sequence[Exchange]) -> None:
    if not results:
        raise CaseFailed("no result event came")
    accepted(results)


def result_form(event: JsonObject) -> None:
    """A text or an object; null counts as absent."""
    text, data = event.get("result_text"), event.get("result_data")
    if text is not None and data is not None:
        raise CaseFailed("the result event has both result_text and result_data, where only one may be given")
    if text is None and data is None:
        raise CaseFailed("the result event has neither result_text nor result_data")
    if text is not None and not isinstance(text, str):
        raise CaseFailed(f"result_text is {_kind(text)}, not a string")
    if data is not None and not isinstance(data, dict):
        raise CaseFailed(f"result_data is {_kind(data)}, not an object")


def event_form(event: JsonObject) -> None:
    kind = event.get("event_type")
    match kind:
        case "message":
            _message_form(event)
        case "pre_tool" | "post_tool":
            if not isinstance(event.get("tool_name"), str):
                raise CaseFailed(f"a {kind} event has no tool_name, a string")
            if not isinstance(event.get("tool_input"), dict):
                raise CaseFailed(f"a {kind} event has no tool_input, an object")
        case "result":
            pass
        case "run_start" | "run_completed":
            raise CaseFailed(f"it sent a {kind} event, which the coordinator writes itself")
        case _:
            raise CaseFailed(f"it sent an event of a kind that there is not: {kind!r}")


def timestamps(events: Sequence[Exchange]) -> None:
    """UTC, in one format and width, not going backwards as text: the coordinator orders events by them."""
    latest = ""
    for event in events:
        timestamp = event.fields.get("timestamp")
        if not isinstance(timestamp, str) or _TIMESTAMP.fullmatch(timestamp) is None:
            raise CaseFailed(f"the timestamp {timestamp!r} is not ISO 8601 in UTC, like 2026-01-31T12:00:00.000000Z")
        _refuse_wrong_time(timestamp)
        if latest and _format(timestamp) != _format(latest):
            raise CaseFailed(f"the timestamps {latest} and {timestamp} differ in format or width")
        if timestamp < latest:
            raise CaseFailed(f"the timestamps go backwards: {timestamp} came after {latest}")
        latest = timestamp


def _refuse_wrong_time(timestamp: str) -> None:
    try:
        moment = datetime.fromisoformat(timestamp)
    except ValueError as defect:
        raise CaseFailed(f"the timestamp {timestamp!r} is no time: {defect}") from None
    now = datetime.now(UTC)
    if abs(moment - now) > CLOCK_MARGIN:
        raise CaseFailed(f"the timestamp {timestamp} is not the time in UTC, which was {now:%Y-%m-%dT%H:%M:%SZ}")


def _format(timestamp: str) -> str:
    return re.sub(r"\d", "0", timestamp)


def _message_form(event: JsonObject) -> None:
    if event.get("role") not in _ROLES:
        raise CaseFailed(f"a message event has the role {event.get('role')!r}, not user or assistant")
    content = event.get("content")
    if not isinstance(content, list) or not all(isinstance(each, dict) and "type" in each for each in content):
        raise CaseFailed('the content of a message event is not a list of blocks like {"type": "text", "text": "…"}')


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", int: "a number", float: "a number"}
    return names.get(type(value), "no such value")
