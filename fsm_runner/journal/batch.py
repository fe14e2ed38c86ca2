"""The records that are not on disk yet."""

import asyncio
from typing import NamedTuple

from fsm_runner.journal.records import TransitionRow

Waiter = asyncio.Future[str | None]
"""Resolved when the batch was written: None, or why the write failed."""


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
    """Records of each kind in the order of their calls. They are written together or not at all.

    Between kinds there is no order, except that a run is claimed, then reported, then ended.
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

    def delete_message(self, message_id: int) -> None:
        """Delete a message; one of this batch is not written at all."""
        if self.messages.pop(message_id, None) is None:
            self.deleted.append(message_id)

    def extend(self, newer: "Batch") -> None:
        """Append the records of a later batch, and its waiters."""
        self.transitions.extend(newer.transitions)
        self.claims.extend(newer.claims)
        self.reports.update(newer.reports)
        self.usages.update(newer.usages)
        for ended in newer.run_ends.values():
            self.run_ends.setdefault(ended.run_id, ended)
        self.sessions.extend(newer.sessions)
        for message_id in newer.deleted:
            self.delete_message(message_id)
        self.messages.update(newer.messages)
        self.waiters.extend(newer.waiters)

    def take_waiters(self) -> list[Waiter]:
        waiters, self.waiters = self.waiters, []
        return waiters


def release(waiters: list[Waiter], why_not: str | None) -> None:
    for waiter in waiters:
        if not waiter.done():
            waiter.set_result(why_not)
