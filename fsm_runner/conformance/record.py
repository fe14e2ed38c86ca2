"""What one process of an executor was seen to do."""

import asyncio
import time
from collections.abc import Callable

import msgspec

from fsm_runner.conformance.exchange import Exchange
from fsm_runner.conformance.transcript import Transcript
from fsm_runner.executors.line_splitter import LineSplitter
from fsm_runner.executors.messages import TURN_COMPLETE, is_turn_complete


class TurnComplete(msgspec.Struct, frozen=True):
    """A `turn_complete` line, and the monotonic time when it was there."""

    line: bytes
    at: float


class Record:
    """Grows as long as the process lives. One task at a time waits for it to change."""

    def __init__(self) -> None:
        started_at = time.monotonic()
        self.transcript = Transcript(lambda: time.monotonic() - started_at)
        self.exchanges: list[Exchange] = []
        """In the order in which they came; some may not be answered yet."""
        self.turns_completed: list[TurnComplete] = []
        self.waiting_for = ""
        """What `until` has not seen yet."""
        self._changed = asyncio.Event()
        self._lines = LineSplitter(TURN_COMPLETE)

    def told(self) -> list[Exchange]:
        """What it told of its session, accepted or not."""
        return [each for each in self.exchanges if each.kind is not None]

    def binds(self) -> list[Exchange]:
        return [each for each in self.exchanges if each.kind == "bind"]

    def events(self) -> list[Exchange]:
        return [each for each in self.exchanges if each.kind == "event"]

    def results(self) -> list[Exchange]:
        return [each for each in self.events() if each.fields.get("event_type") == "result"]

    async def until(self, predicate: Callable[[], bool], what: str) -> None:
        self.waiting_for = what
        while not predicate():
            self._changed.clear()
            await self._changed.wait()
        self.waiting_for = ""

    def changed(self) -> None:
        self._changed.set()

    def add_stdout(self, chunk: bytes) -> None:
        self.transcript.add("stdout", chunk.decode(errors="replace"))
        for line in self._lines.feed(chunk):
            if is_turn_complete(line):
                self.turns_completed.append(TurnComplete(line.content, time.monotonic()))
        self.changed()

    def add_request(self, exchange: Exchange) -> None:
        self.exchanges.append(exchange)
        self.transcript.add("request", f"{exchange.method} {exchange.path}")
        self.changed()

    def add_answer(self, exchange: Exchange) -> None:
        if exchange.body:
            self.transcript.add("body", exchange.body.decode(errors="replace"))
        self.transcript.add("answer", f"{exchange.status} {exchange.answer.decode(errors='replace')}")
        self.changed()
