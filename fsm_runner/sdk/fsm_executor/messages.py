"""The messages on standard input: the invocation, further turns and the shutdown (protocol.md, section 2)."""

from __future__ import annotations

import json
from dataclasses import dataclass

from fsm_executor.errors import ProtocolError
from fsm_executor.invocation import Invocation, JsonObject, decode_invocation, decode_json
from fsm_executor.lines import LineReader


@dataclass(frozen=True)
class NextTurn:
    parameters: JsonObject


@dataclass(frozen=True)
class Shutdown:
    """The runner asks the executor to exit."""


@dataclass(frozen=True)
class EndOfInput:
    """No more messages will come. A one-shot executor gets this right after the invocation."""


Message = NextTurn | Shutdown | EndOfInput


def read_invocation(lines: LineReader) -> Invocation:
    """Read the invocation. Raises `ProtocolError`.

    A persistent executor gets one line and must not wait for more. A one-shot executor may get an object that spans
    several lines: if the first line is only the beginning of an object, the invocation is the whole input.
    """
    first = lines.line()
    while first is not None and not first.strip():
        first = lines.line()
    if first is None:
        raise ProtocolError("standard input is empty; an executor is started by a runner, which writes an invocation")
    return decode_invocation(first + b"\n" + lines.rest() if is_beginning(first) else first)


def is_beginning(line: bytes) -> bool:
    """Return whether the line is the beginning of valid JSON.

    A JSON token never spans lines. So if valid JSON is cut at the end of a line, the decoder fails exactly there.
    """
    try:
        text = line.decode("utf-8-sig").rstrip()
        json.loads(text)
    except json.JSONDecodeError as fault:
        return fault.pos >= len(text)
    except (ValueError, RecursionError):
        return False
    return False


def next_message(lines: LineReader) -> Message:
    """Read the next message, ignoring lines that are not a message. Raises `ProtocolError`."""
    while (line := lines.line()) is not None:
        message = _message(line)
        if message is not None:
            return message
    return EndOfInput()


def _message(line: bytes) -> Message | None:
    try:
        value = decode_json(line)
    except ProtocolError:
        return None
    if not isinstance(value, dict):
        return None
    if value.get("type") == "shutdown":
        return Shutdown()
    if value.get("type") != "turn":
        return None
    # The runner waits for the end of this turn. Without an error, the run would last until its time limit.
    if not isinstance(value.get("parameters"), dict):
        raise ProtocolError("a turn must have parameters (an object)")
    return NextTurn(value["parameters"])
