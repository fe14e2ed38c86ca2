"""Results cut to what a client and its model can take, with a note on what was left out."""

import msgspec

from fsm_runner.mcp_server.limits import Limits
from fsm_runner.protocol.wire import JsonObject, SessionResult


def cut_text(text: str, limit_chars: int) -> str:
    left_out = len(text) - limit_chars
    if left_out <= 0:
        return text
    return f"{text[:limit_chars]}\n\n[cut here: {left_out:,} more characters were left out]"


def json_chars(value: object) -> int:
    return len(msgspec.json.encode(value).decode())


def result_of(session_id: str, result: SessionResult, limits: Limits) -> JsonObject:
    """`{session_id, result_text, result_data}`, and a `note` where the data is too large to be sent."""
    shown: JsonObject = {"session_id": session_id, "result_text": None, "result_data": result.result_data}
    if result.result_text is not None:
        text = (
            result.result_text
            if isinstance(result.result_text, str)
            else msgspec.json.encode(result.result_text).decode()
        )
        shown["result_text"] = cut_text(text, limits.result_text_limit_chars)
    size_chars = json_chars(result.result_data)
    if size_chars > limits.object_limit_chars:
        shown["result_data"] = None
        shown["note"] = (
            f"result_data was left out: its {size_chars:,} characters of JSON are more than the "
            f"{limits.object_limit_chars:,} that can be sent"
        )
    return shown


def fitting(items: list[JsonObject], limit_chars: int) -> list[JsonObject]:
    """As many of the first ones as have room together."""
    room_chars = limit_chars
    for count, item in enumerate(items):
        room_chars -= json_chars(item)
        if room_chars < 0:
            return items[:count]
    return items
