"""The calls that are under way, so that they can be ended before they are through."""

from collections.abc import Iterator
from contextlib import contextmanager

import anyio

CallKey = tuple[str, str | int]
"""The calling session and the id that its client gave the request."""


class Calls:
    def __init__(self) -> None:
        self._scopes: dict[anyio.CancelScope, CallKey | None] = {}

    @contextmanager
    def one(self, key: CallKey | None) -> Iterator[anyio.CancelScope]:
        """The scope of one call: it is left early, with `cancelled_caught`, where the call is to end."""
        with anyio.CancelScope() as scope:
            self._scopes[scope] = key
            try:
                yield scope
            finally:
                del self._scopes[scope]

    def give_up(self, key: CallKey) -> None:
        """The client does not wait any more. Where two clients of one session gave the same id, neither is ended."""
        found = [scope for scope, its_key in self._scopes.items() if its_key == key]
        if len(found) == 1:
            found[0].cancel()

    def end_all(self) -> None:
        for scope in self._scopes:
            scope.cancel()
