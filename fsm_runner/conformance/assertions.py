"""Assertions about the messages of an executor (protocol.md, sections 1.1, 1.4 and 3). Each raises `CaseFailed`."""

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from fsm_runner.conformance.gateway import Exchange
from fsm_runner.conformance.result import CaseFailed
from fsm_runner.protocol.wire import JsonObject

CLOCK_MARGIN = timedelta(minutes=5)
"""The permitted difference to this machine's clock: less than any time zone offset, more than a slow executor needs."""

_TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|\+00:00)")
_ROLES = ("user", "assistant")


def all_accepted(messages: Sequence[Exchange]) -> None:
    for each in messages:
        if not each.accepted:
            raise CaseFailed(f"the gateway did not accept a message: {each}")


def bound_first(messages: Sequence[Exchange]) -> None:
    """The session is bound before the first event."""
    binds = [each for each in messages if each.kind == "bind" and each.accepted]
    if not binds:
        raise CaseFailed("the session was never bound: no POST /bind was accepted")
    first_event = next((each for each in messages if each.kind == "event"), None)
    if first_event is not None and messages.index(first_event) < messages.index(binds[0]):
        raise CaseFailed(f"an event ({first_event.fields.get('event_type')}) arrived before the session was bound")


def one_result(results: Sequence[Exchange], source: str) -> None:
    if len(results) != 1:
        raise CaseFailed(f"{source} sent {len(results)} result events; expected one")


def has_result(results: Sequence[Exchange]) -> None:
    if not results:
        raise CaseFailed("it sent no result event")
    all_accepted(results)


def valid_result(event: JsonObject) -> None:
    """The result is either a text or an object; null counts as absent."""
    text, data = event.get("result_text"), event.get("result_data")
    if text is not None and data is not None:
        raise CaseFailed("the result event has both result_text and result_data; only one is allowed")
    if text is None and data is None:
        raise CaseFailed("the result event has neither result_text nor result_data")
    if text is not None and not isinstance(text, str):
        raise CaseFailed(f"result_text is {_kind(text)}, not a string")
    if data is not None and not isinstance(data, dict):
        raise CaseFailed(f"result_data is {_kind(data)}, not an object")


def valid_event(event: JsonObject) -> None:
    kind = event.get("event_type")
    match kind:
        case "message":
            _check_message(event)
        case "pre_tool" | "post_tool":
            if not isinstance(event.get("tool_name"), str):
                raise CaseFailed(f"a {kind} event has no tool_name (a string)")
            if not isinstance(event.get("tool_input"), dict):
                raise CaseFailed(f"a {kind} event has no tool_input (an object)")
        case "result":
            pass
        case "run_start" | "run_completed":
            raise CaseFailed(f"it sent a {kind} event, which the coordinator writes itself")
        case _:
            raise CaseFailed(f"it sent an event of unknown type {kind!r}")


def valid_timestamps(events: Sequence[Exchange]) -> None:
    """Timestamps are UTC, of one format and width, and never decrease: the coordinator sorts events by them as text."""
    latest = ""
    for event in events:
        timestamp = event.fields.get("timestamp")
        if not isinstance(timestamp, str) or _TIMESTAMP.fullmatch(timestamp) is None:
            raise CaseFailed(f"the timestamp {timestamp!r} is not ISO 8601 in UTC, like 2026-01-31T12:00:00.000000Z")
        _check_time(timestamp)
        if latest and _format(timestamp) != _format(latest):
            raise CaseFailed(f"the timestamps {latest} and {timestamp} differ in format or width")
        if timestamp < latest:
            raise CaseFailed(f"the timestamps go backwards: {timestamp} follows {latest}")
        latest = timestamp


def _check_time(timestamp: str) -> None:
    try:
        moment = datetime.fromisoformat(timestamp)
    except ValueError as defect:
        raise CaseFailed(f"the timestamp {timestamp!r} is not a valid time: {defect}") from None
    now = datetime.now(UTC)
    if abs(moment - now) > CLOCK_MARGIN:
        raise CaseFailed(f"the timestamp {timestamp} is not the current time in UTC ({now:%Y-%m-%dT%H:%M:%SZ})")


def _format(timestamp: str) -> str:
    return re.sub(r"\d", "0", timestamp)


def _check_message(event: JsonObject) -> None:
    if event.get("role") not in _ROLES:
        raise CaseFailed(f"a message event has the role {event.get('role')!r}, not user or assistant")
    content = event.get("content")
    if not isinstance(content, list) or not all(isinstance(each, dict) and "type" in each for each in content):
        raise CaseFailed('the content of a message event is not a list of blocks like {"type": "text", "text": "…"}')


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", int: "a number", float: "a number"}
    return names.get(type(value), type(value).__name__)
