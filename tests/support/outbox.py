"""A deliverer for the outbox whose answers are given by hand."""

import asyncio
from collections import deque

from fsm_runner.coordinator_client.errors import Refused
from fsm_runner.coordinator_client.response import ApiResponse
from fsm_runner.reporting.messages import OutboundMessage

SESSION_ID = "ses_1"
TAKEN = ApiResponse("POST /", 200, b"{}")


class Gate:
    """A deliverer whose answers are given by hand, in the order of the calls."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.acknowledged: list[str] = []
        self._open: deque[asyncio.Future[ApiResponse]] = deque()

    async def deliver(self, delivery: OutboundMessage, *, maybe_delivered: bool = False) -> ApiResponse:
        self.begun.append(delivery.path)
        answer: asyncio.Future[ApiResponse] = asyncio.get_running_loop().create_future()
        self._open.append(answer)
        given = await answer
        self.acknowledged.append(delivery.path)
        return given

    @property
    def under_way(self) -> int:
        return sum(not answer.done() for answer in self._open)

    def acknowledge(self) -> None:
        self._open.popleft().set_result(TAKEN)

    def refuse(self) -> None:
        self._open.popleft().set_exception(Refused("404", 404))


async def settle() -> None:
    """Let every task run until it waits for something that is not there yet."""
    for _ in range(5):
        await asyncio.sleep(0)


def message(path: str) -> OutboundMessage:
    return OutboundMessage(path, b"{}")
