"""The undelivered messages of one session, in order."""

import asyncio
from collections import deque
from collections.abc import Collection
from enum import Enum, auto

from fsm_runner.coordinator_client.errors import Refused
from fsm_runner.coordinator_client.response import ApiResponse
from fsm_runner.reporting.messages import OutboundMessage

MESSAGE_OVERHEAD_BYTES = 512
"""Counted for each queued message in addition to its body."""

DeliveryFuture = asyncio.Future[ApiResponse | Refused]
"""The coordinator's response to a message. Cancelling the future does not cancel the message."""


class DeliveryStatus(Enum):
    UNSENT = auto()
    MAYBE_DELIVERED = auto()
    """An earlier process may have sent it. For a run's report, the sender asks the coordinator first."""
    SENDING = auto()


class QueuedMessage:
    """A message that the coordinator has not acknowledged."""

    __slots__ = ("message", "response", "run_id", "size_bytes", "status", "stored_id")

    def __init__(
        self, message: OutboundMessage | None, stored_id: int | None, status: DeliveryStatus, content_bytes: int = 0
    ) -> None:
        self.message = message
        """None while only the store has it: it is read back before it is sent. Never None for a report."""
        self.run_id = None if message is None else message.concerned_run_id
        """The run that it concerns; None if that is not known."""
        self.stored_id = stored_id
        self.status = status
        self.size_bytes = MESSAGE_OVERHEAD_BYTES + (content_bytes if message is None else len(message.body))
        self.response: DeliveryFuture = asyncio.get_running_loop().create_future()

    @property
    def subject(self) -> str | None:
        """The run or session whose end this message reports."""
        return None if self.message is None or self.message.ending is None else self.message.ending.subject


class SessionQueue:
    """The messages of one session. `sender` is the task that sends them, first in, first out."""

    def __init__(self) -> None:
        self.messages: deque[QueuedMessage] = deque()
        self.size_bytes = 0
        self.sender: asyncio.Task[None] | None = None

    def add(self, message: QueuedMessage) -> None:
        self.messages.append(message)
        self.size_bytes += message.size_bytes

    def remove(self, message: QueuedMessage) -> None:
        self.messages.remove(message)
        self.size_bytes -= message.size_bytes

    def unsent(self, responses: Collection[DeliveryFuture]) -> list[QueuedMessage]:
        """Return those of the messages that are not being sent."""
        return [each for each in self.messages if each.response in responses and each.status != DeliveryStatus.SENDING]

    def up_to_last(self, responses: Collection[DeliveryFuture]) -> list[QueuedMessage]:
        """Return the head of the queue, up to and including the last of the messages."""
        last = max((index for index, each in enumerate(self.messages) if each.response in responses), default=-1)
        return list(self.messages)[: last + 1]
