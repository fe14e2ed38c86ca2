"""What has been noted and is not on disk yet."""

import asyncio
from typing import NamedTuple

Waiter = asyncio.Future[str | None]
"""None when the batch is on disk; why it is not, where it could not be written."""


class SteppedRow(NamedTuple):
    seq: int
    at: str
    monotonic_s: float
    process: str
    machine: str
    subject: str
    event: str
    source: str | None
    target: str
    outcome: str | None
    reason: str


class ClaimedRow(NamedTuple):
    run_id: str
    session_id: str
    agent: str | None
    runner_id: str
    claimed_at: str
    run: bytes


class SettledRow(NamedTuple):
    run_id: str
    path: str
    body: bytes
    authoritative: bool = True


class UsedRow(NamedTuple):
    run_id: str
    usage: bytes


class EndedRow(NamedTuple):
    run_id: str
    ended_at: str


class SessionBeganRow(NamedTuple):
    session_id: str
    runner_id: str
    began_at: str
    after_seq: int
    run: bytes


class SessionEndedRow(NamedTuple):
    session_id: str
    ended_at: str


class MessageRow(NamedTuple):
    id: int
    session_id: str
    content: bytes


class Batch:
    """Records of each kind in the order in which they were noted; they get to the disk together or not at all.

    Between kinds there is no order, except that a run is claimed, then settled, then ended.
    """

    __slots__ = ("claimed", "ended", "gone", "messages", "sessions", "settled", "stepped", "used", "waiters")

    def __init__(self) -> None:
        self.stepped: list[SteppedRow] = []
        self.claimed: list[ClaimedRow] = []
        self.settled: dict[str, SettledRow] = {}
        self.used: dict[str, UsedRow] = {}
        self.ended: dict[str, EndedRow] = {}
        self.sessions: list[SessionBeganRow | SessionEndedRow] = []
        self.messages: dict[int, MessageRow] = {}
        self.gone: list[int] = []
        self.waiters: list[Waiter] = []

    def is_empty(self) -> bool:
        return not (
            self.stepped
            or self.claimed
            or self.settled
            or self.used
            or self.ended
            or self.sessions
            or self.messages
            or self.gone
        )

    def forget_message(self, message_id: int) -> None:
        """One that has not reached the disk never does."""
        if self.messages.pop(message_id, None) is None:
            self.gone.append(message_id)

    def extend(self, newer: "Batch") -> None:
        """Take in what was noted after all of this, and who waits for it."""
        self.stepped.extend(newer.stepped)
        self.claimed.extend(newer.claimed)
        self.settled.update(newer.settled)
        self.used.update(newer.used)
        for ended in newer.ended.values():
            self.ended.setdefault(ended.run_id, ended)
        self.sessions.extend(newer.sessions)
        for message_id in newer.gone:
            self.forget_message(message_id)
        self.messages.update(newer.messages)
        self.waiters.extend(newer.waiters)

    def take_waiters(self) -> list[Waiter]:
        waiters, self.waiters = self.waiters, []
        return waiters


def release(waiters: list[Waiter], why_not: str | None) -> None:
    for waiter in waiters:
        if not waiter.done():
            waiter.set_result(why_not)
