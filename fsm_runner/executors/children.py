"""What the servers for executors ask before an executor starts a child session."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from fsm_runner.errors import FsmRunnerError


class ChildRefused(FsmRunnerError):
    """The session may start no further one. The text is for the model that wants to start it."""


ChildStarted = Callable[[str], None]
"""Receives the id of the session that was started."""
ChildBounds = Callable[[str], AbstractAsyncContextManager[ChildStarted]]
"""Reserves a place for a child of the session, and yields a function to call when the child has been started.

A place for which that function was not called is free again afterwards. Entering raises `ChildRefused` if there is no
place, `CoordinatorError` if the place of the session itself cannot be looked up, and `JournalUnreadable`.
"""


@asynccontextmanager
async def unbounded(_: str) -> AsyncIterator[ChildStarted]:
    """Permit every start."""
    yield lambda _: None
