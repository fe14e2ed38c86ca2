"""The trees of sessions: which session is below which, how many there are, and what they have used.

The journal has one record for each session. A tree is in memory only while a run of it is at work under a budget, or
while one of its sessions starts another.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Protocol

import msgspec
from loguru import logger
from msgspec import UNSET, UnsetType

from fsm_runner.coordinator_client.errors import CoordinatorError, Unreachable
from fsm_runner.journal.records import NOTHING_USED, TreeSession, TreeTotals, UsageSums

ANCESTORS_LIMIT = 100
"""The sessions above a session that are looked up. The last one then counts as the root."""
LOOK_UP_LIMIT_S = 5.0
"""The time for looking up the place of a session. A run is accepted within 10 s (`specs/run.toml`)."""

ParentOf = Callable[[str], Awaitable[str | None]]
"""Returns the parent of a session at the coordinator; None if it has none. Raises `CoordinatorError`."""


class TreeRecord(Protocol):
    """`Journal`, for trees."""

    def record_tree_session(self, session: TreeSession) -> None: ...

    async def tree_session(self, session_id: str) -> TreeSession | None:
        """Raises `JournalUnreadable`."""

    async def tree_totals(self, root_session_id: str) -> TreeTotals:
        """Raises `JournalUnreadable`."""


class Tree:
    """A tree in memory."""

    __slots__ = (
        "below_root",
        "early",
        "holders",
        "is_loaded",
        "listeners",
        "loading",
        "root_session_id",
        "starts",
        "used",
    )

    def __init__(self, root_session_id: str) -> None:
        self.root_session_id = root_session_id
        self.used = NOTHING_USED
        self.below_root = 0
        """The sessions except the root, without those in `early`."""
        self.starts = 0
        """The starts in progress."""
        self.early: set[str] = set()
        """Sessions that have appeared while a start is in progress. Each may be the one that is being started."""
        self.listeners: dict[str, Callable[[str], None]] = {}
        """By run: receives why all runs of the tree must end."""
        self.holders = 0
        self.is_loaded = False
        self.loading = asyncio.Lock()

    @property
    def size(self) -> int:
        """The number of sessions below the root, with those that are being started."""
        return self.below_root + max(self.starts, len(self.early))


class HeldSession:
    """A session of a tree in memory."""

    __slots__ = ("holders", "record", "tree")

    def __init__(self, tree: Tree, record: TreeSession) -> None:
        self.tree = tree
        self.record = record
        self.holders = 0


class SessionTrees:
    """The trees of one runner."""

    def __init__(self, record: TreeRecord, parent_of: ParentOf) -> None:
        self._record = record
        self._parent_of = parent_of
        self._trees: dict[str, Tree] = {}
        """By the root of the tree."""
        self._sessions: dict[str, HeldSession] = {}

    def __len__(self) -> int:
        """The number of trees in memory."""
        return len(self._trees)

    async def hold(
        self, session_id: str, *, parent: str | UnsetType | None = UNSET, may_guess: bool = False
    ) -> HeldSession:
        """Load the session and its tree, until `release`. A session that the journal does not have is recorded.

        `parent`: that of such a session; UNSET: the coordinator is asked. `may_guess`: if the coordinator does not
        answer, the highest session that is known counts as the root. Otherwise this raises `CoordinatorError`. Also
        raises `JournalUnreadable`.
        """
        while True:
            if (session := self._sessions.get(session_id)) is not None:
                session.holders += 1
                session.tree.holders += 1
                return session
            known = await self._record.tree_session(session_id)
            path = [known] if known is not None else await self._look_up(session_id, parent, may_guess=may_guess)
            tree = self._trees.setdefault(path[0].root_session_id, Tree(path[0].root_session_id))
            tree.holders += 1
            try:
                async with tree.loading:
                    session = await self._load(tree, path)
            except BaseException:
                self._release_tree(tree)
                raise
            if session is not None:
                return session
            self._release_tree(tree)

    def release(self, session: HeldSession) -> None:
        session.holders -= 1
        if session.holders == 0:
            del self._sessions[session.record.session_id]
        self._release_tree(session.tree)

    def add_usage(self, session: HeldSession, used: UsageSums) -> None:
        """Add what a run of the session has used."""
        session.record = msgspec.structs.replace(session.record, used=session.record.used + used)
        session.tree.used += used
        self._record.record_tree_session(session.record)

    @asynccontextmanager
    async def starting_child(self, session: HeldSession) -> AsyncIterator[Callable[[str], None]]:
        """Count a child of this held session from now on. Yields a function that receives the id of the child.

        The child does not count any more after the block if that function was not called.
        """
        tree = session.tree
        tree.starts += 1
        is_started = False

        def started(child_id: str) -> None:
            nonlocal is_started
            if is_started:
                return
            is_started = True
            tree.below_root += 1
            if child_id in tree.early:
                tree.early.remove(child_id)
            else:
                self._record.record_tree_session(
                    TreeSession(
                        session_id=child_id,
                        root_session_id=tree.root_session_id,
                        depth=session.record.depth + 1,
                    )
                )
            end()

        def end() -> None:
            tree.starts -= 1
            if tree.starts == 0:
                tree.below_root += len(tree.early)
                tree.early.clear()

        try:
            yield started
        finally:
            if not is_started:
                end()

    async def _load(self, tree: Tree, path: list[TreeSession]) -> HeldSession | None:
        """Load the first session of a path upwards. Return None if it has got into another tree meanwhile."""
        session_id = path[0].session_id
        if not tree.is_loaded:
            totals = await self._record.tree_totals(tree.root_session_id)
            tree.used, tree.below_root, tree.is_loaded = totals.used, totals.below_root, True
        for ancestor in path[1:]:
            if await self._record.tree_session(ancestor.session_id) is None:
                self._record.record_tree_session(ancestor)
                tree.below_root += ancestor.depth > 0
        # Not the record that led to the tree: another run of the session may have ended since.
        record = await self._record.tree_session(session_id)
        if session_id in self._sessions or (record is not None and record.root_session_id != tree.root_session_id):
            return None
        if record is None:
            record = path[0]
            self._record.record_tree_session(record)
            if record.depth > 0 and tree.starts > 0:
                tree.early.add(session_id)
            else:
                tree.below_root += record.depth > 0
        session = self._sessions[session_id] = HeldSession(tree, record)
        session.holders += 1
        return session

    def _release_tree(self, tree: Tree) -> None:
        tree.holders -= 1
        if tree.holders == 0:
            del self._trees[tree.root_session_id]

    async def _look_up(self, session_id: str, parent: str | UnsetType | None, *, may_guess: bool) -> list[TreeSession]:
        """Return the places of the session and of those above it that the journal does not have, in a path upwards."""
        path = [session_id]
        try:
            async with asyncio.timeout(LOOK_UP_LIMIT_S):
                while len(path) <= ANCESTORS_LIMIT:
                    above = await self._parent_of(path[-1]) if parent is UNSET else parent
                    if not above:
                        break
                    if above in path:
                        # A session that its own descendant has resumed. The root is the same for all of the circle.
                        return _places(path, min(path[path.index(above) :]))
                    known = await self._record.tree_session(above)
                    if known is not None and known.root_session_id in path:
                        return _places(path, known.root_session_id)
                    if known is not None:
                        return _places(path, known.root_session_id, known.depth + len(path))
                    path.append(above)
                    parent = UNSET
        except (CoordinatorError, TimeoutError) as fault:
            late = f"the parent of session {path[-1]} was not found within {LOOK_UP_LIMIT_S:g} s"
            error = Unreachable(late) if isinstance(fault, TimeoutError) else fault
            if not may_guess:
                raise error from None
            logger.warning("{}: counts as the root of its tree, since its parent is not known: {}", path[-1], error)
        return _places(path, path[-1])


def _places(path: list[str], root_session_id: str, depth: int | None = None) -> list[TreeSession]:
    """Return the places on a path upwards. `depth`: that of its first session; None if the root is on the path."""
    if depth is None:
        depth = path.index(root_session_id)
        path = path[: depth + 1]
    return [
        TreeSession(session_id=session_id, root_session_id=root_session_id, depth=depth - steps)
        for steps, session_id in enumerate(path)
    ]
