"""What runs and their executors have to tell the coordinator: for each session in order, each message until it is
acknowledged, also by a later process of this runner.

The coordinator has no state machine (section 1.1): a `started` that arrives after the terminal report, or a
`bind` after `completed`, would undo it. So each session has one lane, whoever speaks for it, and the next message
is not sent before the one ahead of it has been answered.
"""

import asyncio
from collections import deque
from collections.abc import Iterable
from typing import Protocol

import msgspec
from loguru import logger

from fsm_runner.coordinator_client.errors import Refused
from fsm_runner.coordinator_client.policy import NOT_TAKEN_LIMIT_S
from fsm_runner.coordinator_client.response import Answer
from fsm_runner.errors import FsmRunnerError
from fsm_runner.journal.records import StoredMessage
from fsm_runner.reporting.messages import OutboundMessage

MESSAGE_OVERHEAD_BYTES = 512
"""What a waiting message counts beyond its body."""

IN_MEMORY_BYTES = 1024 * 1024
"""So much of each session waits in memory; the bodies of further messages are with the keeper alone."""

WRITE_DOWN_LIMIT_S = 5.0
"""How long an end waits to be written down before it is told all the same."""

READ_BACK_EACH_S = 1.0
"""How often it is tried to read a body back which the keeper cannot read."""


class Deliverer(Protocol):
    async def deliver(self, delivery: OutboundMessage, *, maybe_delivered: bool = False) -> Answer: ...


class MessageStore(Protocol):
    """Keeps messages for a later process."""

    def store_message(self, session_id: str, content: bytes) -> int | None:
        """What it is kept as; None: it is not."""

    def delete_message(self, message_id: int) -> None: ...

    async def message(self, message_id: int) -> bytes:
        """The content. Raises `FsmRunnerError` where it cannot be read."""

    async def flush(self) -> None:
        """Return when all messages are kept. Raises `FsmRunnerError` where they are not."""


class NoMessageStore:
    """The `MessageStore` of a process that leaves nothing to a later one."""

    def store_message(self, session_id: str, content: bytes) -> int | None:
        return None

    def delete_message(self, message_id: int) -> None:
        """There is nothing to forget."""

    async def message(self, message_id: int) -> bytes:
        raise KeyError(message_id)

    async def flush(self) -> None:
        """There is nothing to wait for."""


DeliveryFuture = asyncio.Future[Answer | Refused]
"""How the coordinator has answered a message. Whoever stops waiting does not stop the message."""


class QueuedMessage:
    """A message on its way."""

    __slots__ = ("answered", "delivery", "has_body", "kept_as", "maybe_delivered", "size_bytes", "tried")

    def __init__(self, delivery: OutboundMessage, kept_as: int | None, maybe_delivered: bool) -> None:
        self.delivery = delivery
        self.kept_as = kept_as
        self.maybe_delivered = maybe_delivered
        """Whether the coordinator may have it already."""
        self.answered: DeliveryFuture = asyncio.get_running_loop().create_future()
        self.tried = False
        self.has_body = True
        self.size_bytes = len(delivery.body) + MESSAGE_OVERHEAD_BYTES

    def drop_body(self) -> None:
        """The keeper has it."""
        self.delivery = msgspec.structs.replace(self.delivery, body=b"")
        self.has_body = False


class SessionQueue:
    """The messages of one session."""

    def __init__(self) -> None:
        self.letters: deque[QueuedMessage] = deque()
        self.size_bytes = 0
        self.sender: asyncio.Task[None] | None = None

    def add(self, letter: QueuedMessage) -> None:
        self.letters.append(letter)
        self.size_bytes += letter.size_bytes

    def remove(self, letter: QueuedMessage) -> None:
        self.letters.remove(letter)
        self.size_bytes -= letter.size_bytes


class Outbox:
    """The messages of all sessions of one runner. `aclose` ends it; what is not answered then stays with `keeper`."""

    def __init__(self, deliverer: Deliverer, keeper: MessageStore) -> None:
        self._deliverer = deliverer
        self._keeper = keeper
        self._lanes: dict[str, SessionQueue] = {}
        self._endings: dict[str, DeliveryFuture] = {}
        self._to_spill: list[QueuedMessage] = []
        self._spilling: asyncio.Task[None] | None = None

    def put(self, session_id: str, delivery: OutboundMessage, *, maybe_delivered: bool = False) -> DeliveryFuture:
        """Send after all that was put before for this session; the future holds the answer, or the refusal.

        `maybe_delivered`: the coordinator may have it already, from an earlier process.
        """
        kept_as = self._keeper.store_message(session_id, msgspec.msgpack.encode(delivery)) if delivery.kept else None
        return self._add(session_id, QueuedMessage(delivery, kept_as, maybe_delivered))

    def restore(self, messages: Iterable[StoredMessage]) -> None:
        """Send what an earlier process has left, in its order. To be called before anything is put."""
        for message in messages:
            letter = self._restored(message)
            if letter is None:
                self._keeper.delete_message(message.id)
            else:
                self._add(message.session_id, letter)

    def _restored(self, message: StoredMessage) -> QueuedMessage | None:
        """None where it cannot be read."""
        if message.content is None:
            letter = QueuedMessage(OutboundMessage("", b""), message.id, maybe_delivered=True)
            letter.size_bytes = message.size_bytes
            letter.drop_body()
            return letter
        try:
            return QueuedMessage(_decoded(message.content), message.id, maybe_delivered=True)
        except msgspec.DecodeError as defect:
            logger.error("{}: a message that was kept cannot be read: {}", message.session_id, defect)
            return None

    def ending_of(self, subject: str) -> DeliveryFuture | None:
        """The message that tells the end of this run or session, where it is on its way."""
        return self._endings.get(subject)

    def _add(self, session_id: str, letter: QueuedMessage) -> DeliveryFuture:
        lane = self._lanes.setdefault(session_id, SessionQueue())
        lane.add(letter)
        if letter.delivery.ending is not None:
            self._endings[letter.delivery.ending.subject] = letter.answered
        if lane.sender is None:
            self._send(session_id, lane)
        elif lane.size_bytes > IN_MEMORY_BYTES and letter.kept_as is not None and letter.delivery.ending is None:
            self._spill(letter)
        return letter.answered

    def _spill(self, letter: QueuedMessage) -> None:
        self._to_spill.append(letter)
        if self._spilling is None or self._spilling.done():
            self._spilling = asyncio.create_task(self._spill_all(), name="outbox spill")

    async def _spill_all(self) -> None:
        while self._to_spill:
            letters, self._to_spill = self._to_spill, []
            try:
                await self._keeper.flush()
            except FsmRunnerError as fault:
                logger.debug("{} messages stay in memory: {}", len(letters), fault)
                return
            for letter in letters:
                if not letter.tried:
                    letter.drop_body()

    def _forget(self, lane: SessionQueue, letter: QueuedMessage) -> None:
        lane.remove(letter)
        if letter.kept_as is not None:
            self._keeper.delete_message(letter.kept_as)
        if letter.delivery.ending is not None:
            self._endings.pop(letter.delivery.ending.subject, None)

    def queued_bytes(self, session_id: str) -> int:
        """How much of this session is not answered yet."""
        lane = self._lanes.get(session_id)
        return 0 if lane is None else lane.size_bytes

    def withdraw(self, session_id: str, messages: Iterable[DeliveryFuture]) -> None:
        """Forget those of the messages that have not been tried yet. One that is under way is still waited for."""
        lane = self._lanes.get(session_id)
        if lane is None:
            return
        unwanted = set(messages)
        for letter in [each for each in lane.letters if each.answered in unwanted and not each.tried]:
            self._forget(lane, letter)
            letter.answered.cancel()

    def give_up(self, session_id: str, messages: Iterable[DeliveryFuture]) -> None:
        """Forget those of the messages that are not answered, and whatever stands before them in the lane."""
        lane = self._lanes.get(session_id)
        unwanted = {message for message in messages if not message.done()}
        if lane is None or not unwanted:
            return
        last = max((index for index, each in enumerate(lane.letters) if each.answered in unwanted), default=-1)
        given_up = list(lane.letters)[: last + 1]
        for letter in given_up:
            self._forget(lane, letter)
            letter.answered.cancel()
        if lane.sender is not None and any(letter.tried for letter in given_up):
            lane.sender.cancel()
            self._send(session_id, lane)

    async def aclose(self) -> None:
        """Give up what is left; whoever waits for its answer is told by a cancellation."""
        tasks = [lane.sender for lane in self._lanes.values() if lane.sender is not None]
        if self._spilling is not None:
            tasks.append(self._spilling)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        for lane in self._lanes.values():
            for letter in lane.letters:
                letter.answered.cancel()
        self._lanes.clear()
        self._endings.clear()

    def _send(self, session_id: str, lane: SessionQueue) -> None:
        lane.sender = asyncio.create_task(self._send_all(session_id, lane), name=f"outbox {session_id}")

    async def _send_all(self, session_id: str, lane: SessionQueue) -> None:
        while lane.letters:
            letter = lane.letters[0]
            letter.tried = True
            answer = await self._answer_to(session_id, letter)
            self._forget(lane, letter)
            if not letter.answered.done():
                letter.answered.set_result(answer)
        del self._lanes[session_id]

    async def _answer_to(self, session_id: str, letter: QueuedMessage) -> Answer | Refused:
        delivery = letter.delivery
        try:
            if not letter.has_body and letter.kept_as is not None:
                delivery = await self._read_back(letter.kept_as)
            if delivery.ending is not None:
                await self._write_down()
            return await self._deliverer.deliver(delivery, maybe_delivered=letter.maybe_delivered)
        except Refused as refusal:
            logger.error("{}: the coordinator refuses a message: {}", session_id, refusal)
            return refusal
        except Exception as defect:  # noqa: BLE001 - whoever waits has to hear of it, or would wait for ever
            logger.opt(exception=defect).error("{}: {} could not be sent", session_id, delivery.path)
            return Refused(f"{delivery.path} could not be sent: {defect!r}", 0)

    async def _write_down(self) -> None:
        """An end, before it is told; and that what stood before it is gone, since a bind that is repeated after an end
        would set the session back to running."""
        try:
            async with asyncio.timeout(WRITE_DOWN_LIMIT_S):
                await self._keeper.flush()
        except TimeoutError:
            logger.warning("an end is told without being written down: the disk does not answer")
        except FsmRunnerError as fault:
            logger.warning("an end is told without being written down: {}", fault)

    async def _read_back(self, message_id: int) -> OutboundMessage:
        """Raises `Refused` where it cannot be read for too long: what stands behind it would never be told."""
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + NOT_TAKEN_LIMIT_S
        while True:
            try:
                return _decoded(await self._keeper.message(message_id))
            except FsmRunnerError as fault:
                if loop.time() >= give_up_at:
                    raise Refused(f"given up, since it cannot be read: {fault}", 0) from fault
                logger.warning("a message waits until it can be read: {}", fault)
            await asyncio.sleep(READ_BACK_EACH_S)


def _decoded(content: bytes) -> OutboundMessage:
    """Raises `msgspec.DecodeError`."""
    return msgspec.msgpack.decode(content, type=OutboundMessage)
