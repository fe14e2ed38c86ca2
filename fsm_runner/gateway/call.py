"""One request of an executor that came through its door."""

import asyncio
from collections.abc import Coroutine
from typing import Any

from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from fsm_runner.coordinator_client.api import CoordinatorApi
from fsm_runner.gateway import paths
from fsm_runner.gateway.body import RequestBody
from fsm_runner.gateway.endpoint import GatewayEndpoint
from fsm_runner.gateway.errors import Refusal, not_found, not_open


class Call:
    def __init__(
        self,
        endpoint: GatewayEndpoint,
        names: tuple[str, ...],
        api: CoordinatorApi,
        scope: Scope,
        receive: Receive,
        send: Send,
    ) -> None:
        self.endpoint = endpoint
        self.names = names
        """The path below the door, decoded."""
        self.api = api
        self.method: str = scope["method"]
        self.headers: list[tuple[bytes, bytes]] = scope["headers"]
        self.body = RequestBody(receive, self.headers, endpoint.limits, endpoint.body_turns)
        self._scope, self._receive, self._send = scope, receive, send
        self._answered = False

    def query(self, *allowed: str) -> dict[str, str]:
        """Raises a 400 `Refusal`."""
        return paths.query_of(self._scope["query_string"], frozenset(allowed))

    def not_open(self) -> Refusal:
        return not_open(self.method, self.names)

    async def answer(self, response: Response) -> None:
        await response(self._scope, self._receive, self.send)

    async def send(self, message: Message) -> None:
        self._answered = True
        await self._send(message)

    async def unless_hung_up(self, work: Coroutine[Any, Any, None]) -> None:
        """Do the work; leave off where the client leaves or the door is closed, which is a 404 `Refusal`.

        The work says when the body is of no interest to it any more (`RequestBody.let_go`).
        """
        working = asyncio.create_task(work, name=f"gateway {self.endpoint.session_id}")
        ends = [
            asyncio.create_task(self.body.hangup(), name=f"gateway hang-up {self.endpoint.session_id}"),
            asyncio.create_task(self.endpoint.closed.wait(), name=f"gateway door {self.endpoint.session_id}"),
        ]
        try:
            await asyncio.wait([working, *ends], return_when=asyncio.FIRST_COMPLETED)
        finally:
            left = [task for task in (working, *ends) if not task.done()]
            for task in left:
                task.cancel()
            if left:
                await asyncio.wait(left)
        if not working.cancelled():
            working.result()
        elif self.endpoint.closed.is_set() and not self._answered:
            raise not_found()
