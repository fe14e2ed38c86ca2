"""What comes on standard input: the invocation, then further turns and the end (protocol.md, section 2)."""

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
    """The runner wants the executor to end."""


@dataclass(frozen=True)
class EndOfInput:
    """Nothing more will come. In one-shot form that is so from the beginning."""


Message = NextTurn | Shutdown | EndOfInput


def read_invocation(lines: LineReader) -> Invocation:
    """Wait for it. Raises `ProtocolError`.

    A persistent executor gets one line and must not wait for more. A one-shot executor may get the object spread over
    several: where the first line is the beginning of one, the rest of the input belongs to it.
    """
    first = lines.line()
    while first is not None and not first.strip():
        first = lines.line()
    if first is None:
        raise ProtocolError("standard input is empty; an executor is started by a runner, which writes an invocation")
    return decode_invocation(first + b"\n" + lines.rest() if is_beginning(first) else first)


def is_beginning(line: bytes) -> bool:
    """Whether this line is sound JSON as far as it goes, and not yet whole.

    No token of JSON goes over the end of a line, so a sound one that is cut there is refused at its very end and
    nowhere before.
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
    """Wait for it; lines that are no message are passed over. Raises `ProtocolError`."""
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
    # The runner waits for this turn's end: passing it over would leave the run to its time limit.
    if not isinstance(value.get("parameters"), dict):
        raise ProtocolError("a turn has to have parameters, an object")
    return NextTurn(value["parameters"])
