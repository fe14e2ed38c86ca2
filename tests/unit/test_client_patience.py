"""How long one message is tried, while the coordinator takes others and while it takes none."""

from collections.abc import Callable

import pytest

from fsm_runner.coordinator_client.client import CoordinatorClient
from fsm_runner.coordinator_client.errors import CoordinatorError, NotAuthenticated, NotRegistered, Refused, Unreachable
from fsm_runner.coordinator_client.response import ApiResponse
from fsm_runner.reporting.messages import OutboundMessage
from fsm_runner.reporting.sender import MessageSender

TAKEN = ApiResponse("POST /", 200, b"{}")
PATIENCE_S = 60.0
TRIES_S = 10.0
"""From one try to the next."""
MANY = 50


class Coordinator:
    """Does not take the message `fault` stands for, for so many tries; `clock` goes on with each."""

    def __init__(self, fault: CoordinatorError, times: int) -> None:
        self.tries = 0
        self.now_s = 0.0
        self._fault = fault
        self._times = times

    async def deliver(self, path: str, body: bytes, method: str) -> ApiResponse:
        self.tries += 1
        if self.tries <= self._times:
            raise self._fault
        return TAKEN

    def client(self, between_tries: Callable[[CoordinatorClient], None]) -> CoordinatorClient:
        async def sleep(_: float) -> None:
            self.now_s += TRIES_S
            between_tries(client)

        # The client needs one method of the API, and takes it as it comes.
        client = CoordinatorClient(self, sleep=sleep, now=lambda: self.now_s)  # type: ignore[arg-type]
        client.sleep_until_back = sleep  # type: ignore[assignment,method-assign]
        return client


def others_are_taken(client: CoordinatorClient) -> None:
    client.note_response()


def nothing_is_taken(client: CoordinatorClient) -> None:
    pass


@pytest.mark.parametrize("fault", [Unreachable("500"), NotAuthenticated("403", 403)])
async def test_a_message_that_alone_is_not_taken_is_given_up(fault: CoordinatorError) -> None:
    coordinator = Coordinator(fault, MANY)
    with pytest.raises(Refused, match="given up"):
        await MessageSender(coordinator.client(others_are_taken)).deliver(
            OutboundMessage("/events", b"{}", give_up_after_s=PATIENCE_S)
        )
    assert coordinator.now_s == PATIENCE_S


async def test_nothing_is_given_up_while_the_coordinator_is_away() -> None:
    coordinator = Coordinator(Unreachable("reset"), MANY)
    answer = await MessageSender(coordinator.client(nothing_is_taken)).deliver(
        OutboundMessage("/events", b"{}", give_up_after_s=PATIENCE_S)
    )
    assert answer is TAKEN
    assert coordinator.tries == MANY + 1


@pytest.mark.parametrize(
    ("fault", "give_up_after_s"),
    [(Unreachable("500"), None), (NotRegistered("401"), PATIENCE_S), (NotRegistered("401"), None)],
)
async def test_reports_are_tried_for_ever_and_a_lost_registration_is_waited_out(
    fault: CoordinatorError, give_up_after_s: float | None
) -> None:
    coordinator = Coordinator(fault, MANY)
    message = OutboundMessage("/x", b"{}", give_up_after_s=give_up_after_s)
    assert await MessageSender(coordinator.client(others_are_taken)).deliver(message) is TAKEN
    assert coordinator.tries == MANY + 1
