"""What has been noted and is not on disk yet."""

import asyncio
from typing import NamedTuple

Waiter = asyncio.Future[str | None]
"""None when the batch is on disk; why it is not, where it could not be written."""


class TransitionRow(NamedTuple):
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


class ClaimRow(NamedTuple):
    run_id: str
    session_id: str
    agent: str | None
    runner_id: str
    claimed_at: str
    run: bytes


class ReportRow(NamedTuple):
    run_id: str
    path: str
    body: bytes
    authoritative: bool = True


class UsageRow(NamedTuple):
    run_id: str
    usage: bytes


class RunEndRow(NamedTuple):
    run_id: str
    ended_at: str


class SessionStartRow(NamedTuple):
    session_id: str
    runner_id: str
    began_at: str
    after_seq: int
    run: bytes


class SessionEndRow(NamedTuple):
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

    __slots__ = ("claims", "deleted", "messages", "reports", "run_ends", "sessions", "transitions", "usages", "waiters")

    def __init__(self) -> None:
        self.transitions: list[TransitionRow] = []
        self.claims: list[ClaimRow] = []
        self.reports: dict[str, ReportRow] = {}
        self.usages: dict[str, UsageRow] = {}
        self.run_ends: dict[str, RunEndRow] = {}
        self.sessions: list[SessionStartRow | SessionEndRow] = []
        self.messages: dict[int, MessageRow] = {}
        self.deleted: list[int] = []
        self.waiters: list[Waiter] = []

    def is_empty(self) -> bool:
        return not (
            self.transitions
            or self.claims
            or self.reports
            or self.usages
            or self.run_ends
            or self.sessions
            or self.messages
            or self.deleted
        )

    def forget_message(self, message_id: int) -> None:
        """One that has not reached the disk never does."""
        if self.messages.pop(message_id, None) is None:
            self.deleted.append(message_id)

    def extend(self, newer: "Batch") -> None:
        """Take in what was noted after all of this, and who waits for it."""
        self.transitions.extend(newer.transitions)
        self.claims.extend(newer.claims)
        self.reports.update(newer.reports)
        self.usages.update(newer.usages)
        for ended in newer.run_ends.values():
            self.run_ends.setdefault(ended.run_id, ended)
        self.sessions.extend(newer.sessions)
        for message_id in newer.deleted:
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
