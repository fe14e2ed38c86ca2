"""Reads the places of sessions in their trees, and what they have used."""

import sqlite3
from collections.abc import Collection
from typing import Any

import msgspec

from fsm_runner.journal.records import TreeSession, TreeTotals, UsageSums

_SESSION = """
SELECT session_id, root_session_id, depth, cost_usd, tokens, turns FROM tree_sessions WHERE session_id = ?
"""
_TOTALS = """
SELECT count(*) FILTER (WHERE session_id != root_session_id), total(cost_usd),
    coalesce(sum(tokens), 0), coalesce(sum(turns), 0)
FROM tree_sessions WHERE root_session_id = ? AND session_id NOT IN (SELECT value FROM json_each(?))
"""


def tree_session_of(columns: tuple[Any, ...]) -> TreeSession:
    """Return a row of the table `tree_sessions`, or its first six columns, as a record."""
    session_id, root_session_id, depth, *used = columns[:6]
    return TreeSession(session_id=session_id, root_session_id=root_session_id, depth=depth, used=UsageSums(*used))


def tree_session(connection: sqlite3.Connection, session_id: str) -> TreeSession | None:
    row = connection.execute(_SESSION, (session_id,)).fetchone()
    return None if row is None else tree_session_of(row)


def tree_totals(connection: sqlite3.Connection, root_session_id: str, newer: Collection[TreeSession]) -> TreeTotals:
    """Return the totals of a tree. `newer`: records of its sessions that replace those on disk."""
    replaced = msgspec.json.encode([session.session_id for session in newer]).decode()
    below_root, *used = connection.execute(_TOTALS, (root_session_id, replaced)).fetchone()
    total = UsageSums(*used)
    for session in newer:
        below_root += session.session_id != root_session_id
        total += session.used
    return TreeTotals(below_root, total)
