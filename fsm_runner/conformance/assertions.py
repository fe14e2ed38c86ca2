"""Assertions about the messages of an executor (protocol.md, sections 1.1, 1.4, 2.3, 3). Each raises `CaseFailed`."""

import math
import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from fsm_runner.conformance.gateway import Exchange
from fsm_runner.conformance.result import CaseFailed
from fsm_runner.protocol.wire import JsonObject
from fsm_runner.reporting.executor_status import Usage
from fsm_runner.reporting.provider_limit import KIND_LIMIT_CHARS, MESSAGE_LIMIT_CHARS, ProviderLimit
from fsm_runner.reporting.session_channel import ExecutorEvent

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


def valid_status(fields: JsonObject) -> None:
    """The metadata for the runner has the form of section 2.3. Null counts as absent."""
    detail, usage, limit = (fields.get(name) for name in ("status_detail", "usage", "limit"))
    if detail is not None and not isinstance(detail, str):
        raise CaseFailed(f"status_detail is {_kind(detail)}, not a string")
    if usage is not None:
        _check_form("usage", usage, Usage)
        _check_usage(usage)
    if limit is not None:
        _check_limit(limit)


def not_withdrawn(limit: Exchange, messages: Sequence[Exchange]) -> None:
    """No event after the limit shows that the provider has answered since (section 2.3)."""
    for each in messages[messages.index(limit) + 1 :]:
        kind, role = each.fields.get("event_type") or "", each.fields.get("role")
        if each.kind == "event" and ExecutorEvent(kind, role).shows_progress:
            what = "message of the assistant" if kind == "message" else f"{kind} event"
            raise CaseFailed(
                f"it sent a limit and then a {what}, which withdraws the limit, so the run does not wait for the "
                "reset; expected the limit after all events of its turn"
            )


def _check_usage(usage: JsonObject) -> None:
    for name, value in usage.items():
        if isinstance(value, int | float) and not 0 <= value < math.inf:
            raise CaseFailed(f"usage: {name} is {value}, not a number from 0")


def _check_limit(limit: JsonObject) -> None:
    _check_form("limit", limit, ProviderLimit)
    if not limit["kind"].strip():
        raise CaseFailed("limit: kind is empty")
    for name, limit_chars in (("kind", KIND_LIMIT_CHARS), ("message", MESSAGE_LIMIT_CHARS)):
        if len(limit.get(name, "")) > limit_chars:
            raise CaseFailed(f"limit: {name} is longer than {limit_chars} characters")
    resets_at = limit.get("resets_at")
    if resets_at is not None and not _has_offset(resets_at):
        raise CaseFailed(f"limit: resets_at is {resets_at!r}, not ISO 8601 with an offset, like 2026-01-31T12:00:00Z")


def _check_form(field: str, value: Any, form: type) -> None:
    try:
        msgspec.convert(value, form)
    except msgspec.ValidationError as defect:
        raise CaseFailed(f"{field}: {defect}") from None


def _has_offset(text: str) -> bool:
    try:
        return datetime.fromisoformat(text).tzinfo is not None
    except ValueError:
        return False


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
