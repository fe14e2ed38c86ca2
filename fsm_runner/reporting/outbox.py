"""Delivers the messages of runs and their executors to the coordinator.

The messages of a session are sent in order, each one until it is acknowledged, also by a later process of this runner.

The coordinator has no state machine (protocol.md, section 1.1): a `started` after the terminal report, or a `bind`
after `completed`, would undo it. So each session has one queue for all its senders, and a message is sent only after
the response to the one before it. For how long one message is retried: `give_up_after_s` in `messages.py`, and
`timeout_s` of `reporting` in `specs/run.toml` and `specs/session.toml`.
"""

import asyncio
from collections.abc import Callable, Iterable
from typing import Protocol

import msgspec
from loguru import logger

from fsm_runner.coordinator_client.errors import Refused, RegistrationSuperseded, RunReassigned
from fsm_runner.coordinator_client.policy import EXECUTOR_MESSAGE_LIMIT_S
from fsm_runner.coordinator_client.response import ApiResponse
from fsm_runner.errors import FsmRunnerError
from fsm_runner.journal.records import StoredMessage
from fsm_runner.reporting.messages import OutboundMessage
from fsm_runner.reporting.queue import DeliveryFuture, DeliveryStatus, QueuedMessage, SessionQueue

IN_MEMORY_BYTES = 1024 * 1024
"""The part of a session's queue that stays in memory; further messages are only in the store."""

FLUSH_LIMIT_S = 5.0
"""The longest time that a terminal report waits for the journal."""

READ_RETRY_S = 1.0
"""The interval between attempts to read a message back from the store."""


class MessageStore(Protocol):
    """Keeps queued messages for the runner's next process. `Journal` is one."""

    def store_message(self, session_id: str, content: bytes) -> int | None:
        """Store a message and return its id; None if this store keeps nothing."""

    def delete_message(self, message_id: int) -> None: ...

    async def message(self, message_id: int) -> bytes:
        """Return the content. Raises `FsmRunnerError` if it cannot be read."""

    async def flush(self) -> None:
        """Return once all messages are on disk. Raises `FsmRunnerError` if the write fails."""


class NoMessageStore:
    """The `MessageStore` of a process without a journal."""

    def store_message(self, session_id: str, content: bytes) -> int | None:
        return None

    def delete_message(self, message_id: int) -> None:
        """Nothing is stored."""

    async def message(self, message_id: int) -> bytes:
        raise KeyError(message_id)

    async def flush(self) -> None:
        """Nothing is stored."""


class Deliverer(Protocol):
    async def deliver(self, delivery: OutboundMessage, *, maybe_delivered: bool = False) -> ApiResponse: ...


class Outbox:
    """The queues of all sessions of one runner.

    `aclose` stops sending; unacknowledged messages stay in the store.
    """

    def __init__(
        self,
        deliverer: Deliverer,
        store: MessageStore,
        registration: Callable[[], int | None] = lambda: None,
    ) -> None:
        """`registration` returns the number of the runner's registration; None: it has none."""
        self._deliverer = deliverer
        self._store = store
        self._registration = registration
        self.on_reassigned: Callable[[str, str, RunReassigned], None] = lambda *_: None
        """Called with session and run for a message that is refused because the run is not this runner's any more."""
        self._reassigned: dict[str, RunReassigned] = {}
        """Why no message is sent, by run."""
        self._superseded: RegistrationSuperseded | None = None
        """Why no message at all is sent; None: messages are sent."""
        self._queues: dict[str, SessionQueue] = {}
        self._reports: dict[str, DeliveryFuture] = {}
        self._to_spill: list[QueuedMessage] = []
        self._spilling: asyncio.Task[None] | None = None

    def put(self, session_id: str, message: OutboundMessage, *, maybe_delivered: bool = False) -> DeliveryFuture:
        """Queue a message. `maybe_delivered`: an earlier process may have sent it.

        A message about a run that is not this runner's any more is not sent: the response is the refusal.
        """
        if (refusal := self._superseded or self._reassigned.get(message.concerned_run_id or "")) is not None:
            return _refused(refusal)
        if (registration := self._registration()) is not None:
            message = msgspec.structs.replace(message, registration=registration)
        stored_id = self._store.store_message(session_id, msgspec.msgpack.encode(message)) if message.durable else None
        status = DeliveryStatus.MAYBE_DELIVERED if maybe_delivered else DeliveryStatus.UNSENT
        return self._add(session_id, QueuedMessage(message, stored_id, status))

    def restore(self, stored: Iterable[StoredMessage]) -> None:
        """Queue the messages of an earlier process, in their order. Call this before `put`."""
        for each in stored:
            try:
                message = None if each.content is None else _decoded(each.content)
            except msgspec.DecodeError as defect:
                logger.error("{}: a stored message cannot be decoded and is dropped: {}", each.session_id, defect)
                self._store.delete_message(each.id)
            else:
                queued = QueuedMessage(message, each.id, DeliveryStatus.MAYBE_DELIVERED, each.size_bytes)
                self._add(each.session_id, queued)

    def pending_report(self, subject: str) -> DeliveryFuture | None:
        """Return the response to the queued report on the end of this run or session, if there is one."""
        return self._reports.get(subject)

    def queued_bytes(self, session_id: str) -> int:
        """Return the size of the session's unacknowledged messages."""
        return queue.size_bytes if (queue := self._queues.get(session_id)) else 0

    def withdraw(self, session_id: str, messages: Iterable[DeliveryFuture]) -> None:
        """Remove those of the messages whose delivery has not begun; their futures are cancelled."""
        if (queue := self._queues.get(session_id)) is not None:
            self._cancel(queue, queue.unsent(set(messages)))

    def abandon(self, session_id: str, messages: Iterable[DeliveryFuture]) -> None:
        """Remove those of the messages that are unacknowledged, and all messages ahead of them."""
        if (queue := self._queues.get(session_id)) is None:
            return
        abandoned = queue.up_to_last({each for each in messages if not each.done()})
        self._cancel(queue, abandoned)
        if queue.sender is not None and any(each.status == DeliveryStatus.SENDING for each in abandoned):
            queue.sender.cancel()
            self._start_sender(session_id, queue)

    def withdraw_run(self, session_id: str, run_id: str, refusal: RunReassigned) -> None:
        """Remove all messages about a run and send no more of them, until `readmit`."""
        self._reassigned[run_id] = refusal
        if (queue := self._queues.get(session_id)) is not None:
            self._refuse(session_id, queue, [each for each in queue.messages if each.run_id == run_id], refusal)

    def readmit(self, run_id: str) -> None:
        """Send messages about a run again: what this runner had started for it has ended."""
        self._reassigned.pop(run_id, None)

    def withdraw_all(self, refusal: RegistrationSuperseded) -> None:
        """Remove all messages and send nothing more."""
        self._superseded = refusal
        for session_id, queue in list(self._queues.items()):
            self._refuse(session_id, queue, list(queue.messages), refusal)

    async def aclose(self) -> None:
        """Stop sending and cancel all futures."""
        owned = [self._spilling, *(queue.sender for queue in self._queues.values())]
        tasks = [task for task in owned if task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        for queue in self._queues.values():
            for each in queue.messages:
                each.response.cancel()
        self._queues.clear()
        self._reports.clear()

    def _add(self, session_id: str, message: QueuedMessage) -> DeliveryFuture:
        queue = self._queues.setdefault(session_id, SessionQueue())
        queue.add(message)
        if message.subject is not None:
            self._reports[message.subject] = message.response
        if queue.sender is None:
            self._start_sender(session_id, queue)
        elif queue.size_bytes > IN_MEMORY_BYTES and message.stored_id is not None and message.subject is None:
            self._to_spill.append(message)
            if self._spilling is None or self._spilling.done():
                self._spilling = asyncio.create_task(self._spill_all(), name="outbox spill")
        return message.response

    def _remove(self, queue: SessionQueue, message: QueuedMessage) -> None:
        queue.remove(message)
        if message.stored_id is not None:
            self._store.delete_message(message.stored_id)
        if message.subject is not None:
            self._reports.pop(message.subject, None)

    def _cancel(self, queue: SessionQueue, messages: list[QueuedMessage]) -> None:
        for each in messages:
            self._remove(queue, each)
            each.response.cancel()

    def _refuse(self, session_id: str, queue: SessionQueue, messages: list[QueuedMessage], refusal: Refused) -> None:
        for each in messages:
            self._remove(queue, each)
            if not each.response.done():
                each.response.set_result(refusal)
        if queue.sender is not None and any(each.status == DeliveryStatus.SENDING for each in messages):
            queue.sender.cancel()
            self._start_sender(session_id, queue)

    async def _spill_all(self) -> None:
        """Drop messages from memory once the store has them on disk."""
        while self._to_spill:
            messages, self._to_spill = self._to_spill, []
            try:
                await self._store.flush()
            except FsmRunnerError as fault:
                logger.debug("{} queued messages stay in memory: {}", len(messages), fault)
                return
            for each in messages:
                if each.status != DeliveryStatus.SENDING:
                    each.message = None

    def _start_sender(self, session_id: str, queue: SessionQueue) -> None:
        queue.sender = asyncio.create_task(self._send_all(session_id, queue), name=f"outbox {session_id}")

    async def _send_all(self, session_id: str, queue: SessionQueue) -> None:
        while queue.messages:
            message = queue.messages[0]
            response = await self._response_to(session_id, message)
            self._remove(queue, message)
            if not message.response.done():
                message.response.set_result(response)
            if isinstance(response, RunReassigned) and message.run_id is not None:
                self.withdraw_run(session_id, message.run_id, response)
                self.on_reassigned(session_id, message.run_id, response)
        del self._queues[session_id]

    async def _response_to(self, session_id: str, queued: QueuedMessage) -> ApiResponse | Refused:
        maybe_delivered = queued.status == DeliveryStatus.MAYBE_DELIVERED
        queued.status = DeliveryStatus.SENDING
        message = queued.message
        try:
            if message is None:
                message = await self._read_back(session_id, queued.stored_id)
            if message.ending is not None or message.waits_for_disk:
                await self._flush_before(message)
            return await self._deliverer.deliver(message, maybe_delivered=maybe_delivered)
        except RunReassigned as refusal:
            return refusal
        except Refused as refusal:
            logger.error("{}: a message was not delivered: {}", session_id, refusal)
            return refusal
        except Exception as defect:  # noqa: BLE001 - the waiting actor would otherwise wait forever
            path = f"message {queued.stored_id}" if message is None else message.path
            logger.opt(exception=defect).error("{}: {} could not be sent", session_id, path)
            return Refused(f"{path} could not be sent: {defect!r}", 0)

    async def _flush_before(self, message: OutboundMessage) -> None:
        """Flush the journal, so that a later process does not resend messages that precede the end.

        A repeated bind would set an ended session back to running (protocol.md, section 1.1).
        """
        what = "a message" if message.ending is None else "the end"
        try:
            async with asyncio.timeout(FLUSH_LIMIT_S):
                await self._store.flush()
        except TimeoutError:
            logger.warning("{}: {} is sent before the journal write completed", message.subject, what)
        except FsmRunnerError as fault:
            logger.warning("{}: {} is sent nevertheless: {}", message.subject, what, fault)

    async def _read_back(self, session_id: str, message_id: int | None) -> OutboundMessage:
        """Read a spilled message. Raises `Refused` after a limit, so that it does not block the run's report."""
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + EXECUTOR_MESSAGE_LIMIT_S
        while True:
            try:
                return _decoded(await self._store.message(message_id or 0))
            except FsmRunnerError as fault:
                if loop.time() >= give_up_at:
                    raise Refused(f"a queued message was dropped: {fault}", 0) from fault
                logger.warning("{}: a queued message cannot be read, retrying: {}", session_id, fault)
            await asyncio.sleep(READ_RETRY_S)


def _refused(refusal: Refused) -> DeliveryFuture:
    response: DeliveryFuture = asyncio.get_running_loop().create_future()
    response.set_result(refusal)
    return response


def _decoded(content: bytes) -> OutboundMessage:
    """Decode a stored message. Raises `msgspec.DecodeError`."""
    return msgspec.msgpack.decode(content, type=OutboundMessage)
