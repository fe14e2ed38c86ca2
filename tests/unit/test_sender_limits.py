"""How long a message is retried, during an outage and while the coordinator accepts other messages."""

from collections.abc import Callable

import pytest

from fsm_runner.coordinator_client.client import CoordinatorClient
from fsm_runner.coordinator_client.errors import CoordinatorError, NotAuthenticated, NotRegistered, Refused, Unreachable
from fsm_runner.reporting.messages import OutboundMessage
from fsm_runner.reporting.sender import MessageSender
from tests.support.fake_api import FakeApi

LIMIT_S = 60.0
INTERVAL_S = 10.0
"""The interval between attempts."""
MANY = 50


class Coordinator:
    """Fails the first `times` deliveries with `fault`. Each wait between them advances the clock."""

    def __init__(self, fault: CoordinatorError, times: int) -> None:
        self.now_s = 0.0
        self.api = FakeApi()
        self.api.answers_in_turn.extend([fault] * times)

    @property
    def attempts(self) -> int:
        return len(self.api.exchanges)

    def client(self, between_attempts: Callable[[CoordinatorClient], None]) -> CoordinatorClient:
        async def sleep(_: float) -> None:
            self.now_s += INTERVAL_S
            between_attempts(client)

        # The client needs one method of the API.
        client = CoordinatorClient(self.api, sleep=sleep, now=lambda: self.now_s)  # type: ignore[arg-type]
        client.sleep_until_back = sleep  # type: ignore[assignment,method-assign]
        return client


def others_are_accepted(client: CoordinatorClient) -> None:
    client.note_response()


def nothing_is_accepted(client: CoordinatorClient) -> None:
    pass


@pytest.mark.parametrize("fault", [Unreachable("500"), NotAuthenticated("403", 403)])
async def test_a_message_that_fails_alone_is_given_up(fault: CoordinatorError) -> None:
    coordinator = Coordinator(fault, MANY)
    with pytest.raises(Refused, match="given up"):
        await MessageSender(coordinator.client(others_are_accepted)).deliver(
            OutboundMessage("/events", b"{}", give_up_after_s=LIMIT_S)
        )
    assert coordinator.now_s == LIMIT_S


async def test_no_message_is_given_up_during_an_outage() -> None:
    coordinator = Coordinator(Unreachable("reset"), MANY)
    answer = await MessageSender(coordinator.client(nothing_is_accepted)).deliver(
        OutboundMessage("/events", b"{}", give_up_after_s=LIMIT_S)
    )
    assert answer.status == 200
    assert coordinator.attempts == MANY + 1


@pytest.mark.parametrize(
    ("fault", "give_up_after_s"),
    [(Unreachable("500"), None), (NotRegistered("401"), LIMIT_S), (NotRegistered("401"), None)],
)
async def test_reports_and_lost_registrations_are_retried_without_limit(
    fault: CoordinatorError, give_up_after_s: float | None
) -> None:
    coordinator = Coordinator(fault, MANY)
    message = OutboundMessage("/x", b"{}", give_up_after_s=give_up_after_s)
    assert (await MessageSender(coordinator.client(others_are_accepted)).deliver(message)).status == 200
    assert coordinator.attempts == MANY + 1
