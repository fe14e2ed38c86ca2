"""The record of one executor process: its requests, its completed turns, and a transcript for people."""

import asyncio
import time
from collections.abc import Callable

import msgspec

from fsm_runner.conformance.gateway import Exchange
from fsm_runner.executors.line_splitter import LineSplitter
from fsm_runner.executors.messages import TURN_COMPLETE, turn_end
from fsm_runner.reporting.executor_status import ExecutorStatus
from fsm_runner.util.text import escaped, without_middle

RUNNER_FIELDS = frozenset(ExecutorStatus.__struct_fields__)

ENTRY_LIMIT_CHARS = 600
ENTRIES_LIMIT = 200
KIND_WIDTH = 9


class Transcript:
    """A bounded log of the exchange between the suite and one process.

    `elapsed_s` returns the seconds since the start of the process.
    """

    def __init__(self, elapsed_s: Callable[[], float]) -> None:
        self._elapsed_s = elapsed_s
        self._lines: list[str] = []
        self._omitted_entries = 0

    def add(self, kind: str, text: str) -> None:
        if len(self._lines) >= ENTRIES_LIMIT:
            self._omitted_entries += 1
            return
        prefix = f"{self._elapsed_s():8.3f} s  {kind:<{KIND_WIDTH}}"
        first, *more = escaped(without_middle(text, ENTRY_LIMIT_CHARS)).splitlines() or [""]
        self._lines += [f"{prefix}{first}".rstrip(), *(" " * len(prefix) + line for line in more)]

    @property
    def lines(self) -> list[str]:
        omitted = [f"… {self._omitted_entries:,} entries left out …"] if self._omitted_entries else []
        return self._lines + omitted


class TurnComplete(msgspec.Struct, frozen=True):
    """A `turn_complete` line, and the monotonic time of its arrival."""

    line: bytes
    at: float


class Record:
    """Grows while the process lives. Only one task at a time may wait for a change."""

    def __init__(self) -> None:
        started_at = time.monotonic()
        self.transcript = Transcript(lambda: time.monotonic() - started_at)
        self.exchanges: list[Exchange] = []
        """In order of arrival. Some may have no response yet."""
        self.turns_completed: list[TurnComplete] = []
        self.waiting_for = ""
        """A description of what `until` currently waits for."""
        self._changed = asyncio.Event()
        self._lines = LineSplitter(TURN_COMPLETE)

    def session_messages(self) -> list[Exchange]:
        """Binds, events and metadata changes, accepted or not."""
        return [each for each in self.exchanges if each.kind is not None]

    def binds(self) -> list[Exchange]:
        return [each for each in self.exchanges if each.kind == "bind"]

    def events(self) -> list[Exchange]:
        return [each for each in self.exchanges if each.kind == "event"]

    def runner_metadata(self) -> list[Exchange]:
        """Metadata changes with a field for the runner itself (section 2.3)."""
        return [each for each in self.exchanges if each.kind == "metadata" and each.fields.keys() & RUNNER_FIELDS]

    def results(self) -> list[Exchange]:
        return [each for each in self.events() if each.fields.get("event_type") == "result"]

    async def until(self, predicate: Callable[[], bool], what: str) -> None:
        self.waiting_for = what
        while not predicate():
            self._changed.clear()
            await self._changed.wait()
        self.waiting_for = ""

    def notify_changed(self) -> None:
        self._changed.set()

    def add_stdout(self, chunk: bytes) -> None:
        self.transcript.add("stdout", chunk.decode(errors="replace"))
        for line in self._lines.feed(chunk):
            if turn_end(line):
                self.turns_completed.append(TurnComplete(line.content, time.monotonic()))
        self.notify_changed()

    def add_request(self, exchange: Exchange) -> None:
        self.exchanges.append(exchange)
        self.transcript.add("request", f"{exchange.method} {exchange.path}")
        self.notify_changed()

    def add_response(self, exchange: Exchange) -> None:
        if exchange.body:
            self.transcript.add("body", exchange.body.decode(errors="replace"))
        self.transcript.add("response", f"{exchange.status} {exchange.response.decode(errors='replace')}")
        self.notify_changed()
