"""Bounds the sessions that executors start, whichever server they ask."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fsm_runner.config.budgets import ChildLimits
from fsm_runner.executors.children import ChildRefused, ChildStarted
from fsm_runner.runtime.control.session_trees import HeldSession, SessionTrees


class Children:
    """`ChildBounds` of one runner."""

    def __init__(self, limits: ChildLimits, trees: SessionTrees) -> None:
        self._limits = limits
        self._trees = trees

    @asynccontextmanager
    async def __call__(self, session_id: str) -> AsyncIterator[ChildStarted]:
        session = await self._trees.hold(session_id)
        try:
            # Nothing is awaited between the check and the start that counts.
            self._check(session)
            async with self._trees.starting_child(session) as started:
                yield started
        finally:
            self._trees.release(session)

    def _check(self, session: HeldSession) -> None:
        """Raise `ChildRefused` if the session may start no further one."""
        depth, root_session_id = session.record.depth, session.tree.root_session_id
        advice = "Do the work in this session instead."
        if depth >= (max_depth := self._limits.max_depth):
            raise ChildRefused(
                f"This session may not start other sessions: {depth} sessions are above it, and sessions may be "
                f"nested {max_depth} deep (children.max_depth). {advice}"
            )
        if (count := session.tree.size) >= (max_count := self._limits.max_count):
            raise ChildRefused(
                f"This session may not start other sessions: {count} of at most {max_count} sessions have been "
                f"started below session {root_session_id} (children.max_count). Resume one of them, or do the work in "
                "this session instead."
            )
