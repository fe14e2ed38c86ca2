"""What runs and their executors have to tell the coordinator: for each session in order, each message until it is
acknowledged.

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

from fsm_runner.coordinator import wire
from fsm_runner.coordinator.faults import Refused
from fsm_runner.coordinator.policy import NOT_TAKEN_LIMIT_S
from fsm_runner.coordinator.transport import Answer, path_segment

MESSAGE_OVERHEAD_BYTES = 512
"""What a waiting message counts beyond its body."""


class Delivery(msgspec.Struct, frozen=True):
    """One message: where it goes and its JSON body."""

    path: str
    body: bytes
    method: str = "POST"
    patience_s: float | None = None
    """How long it is tried while the coordinator takes other messages; None: for ever."""


class Deliverer(Protocol):
    async def deliver(
        self, path: str, body: bytes, method: str = "POST", patience_s: float | None = None
    ) -> Answer: ...


Answered = asyncio.Future[Answer | Refused]
"""How the coordinator has answered a message. Whoever stops waiting does not stop the message."""


class _Letter:
    """A message on its way."""

    __slots__ = ("answered", "delivery", "tried")

    def __init__(self, delivery: Delivery) -> None:
        self.delivery = delivery
        self.answered: Answered = asyncio.get_running_loop().create_future()
        self.tried = False

    @property
    def size_bytes(self) -> int:
        return len(self.delivery.body) + MESSAGE_OVERHEAD_BYTES


class _Lane:
    """The messages of one session."""

    def __init__(self) -> None:
        self.letters: deque[_Letter] = deque()
        self.size_bytes = 0
        self.sender: asyncio.Task[None] | None = None

    def add(self, letter: _Letter) -> None:
        self.letters.append(letter)
        self.size_bytes += letter.size_bytes

    def remove(self, letter: _Letter) -> None:
        self.letters.remove(letter)
        self.size_bytes -= letter.size_bytes


class Outbox:
    """The messages of all sessions of one runner. `aclose` ends it."""

    def __init__(self, deliverer: Deliverer) -> None:
        self._deliverer = deliverer
        self._lanes: dict[str, _Lane] = {}

    def put(self, session_id: str, delivery: Delivery) -> Answered:
        """Send after all that was put before for this session; the future holds the answer, or the refusal."""
        lane = self._lanes.setdefault(session_id, _Lane())
        letter = _Letter(delivery)
        lane.add(letter)
        if lane.sender is None:
            self._send(session_id, lane)
        return letter.answered

    def waiting_bytes(self, session_id: str) -> int:
        """How much of this session is not answered yet."""
        lane = self._lanes.get(session_id)
        return 0 if lane is None else lane.size_bytes

    def withdraw(self, session_id: str, messages: Iterable[Answered]) -> None:
        """Forget those of the messages that have not been tried yet. One that is under way is still waited for."""
        lane = self._lanes.get(session_id)
        if lane is None:
            return
        unwanted = set(messages)
        for letter in [each for each in lane.letters if each.answered in unwanted and not each.tried]:
            lane.remove(letter)
            letter.answered.cancel()

    def give_up(self, session_id: str, messages: Iterable[Answered]) -> None:
        """Forget those of the messages that are not answered, and whatever stands before them in the lane."""
        lane = self._lanes.get(session_id)
        unwanted = {message for message in messages if not message.done()}
        if lane is None or not unwanted:
            return
        last = max((index for index, each in enumerate(lane.letters) if each.answered in unwanted), default=-1)
        given_up = list(lane.letters)[: last + 1]
        for letter in given_up:
            lane.remove(letter)
            letter.answered.cancel()
        if lane.sender is not None and any(letter.tried for letter in given_up):
            lane.sender.cancel()
            self._send(session_id, lane)

    async def aclose(self) -> None:
        """Give up what is left; whoever waits for its answer is told by a cancellation."""
        senders = [lane.sender for lane in self._lanes.values() if lane.sender is not None]
        for sender in senders:
            sender.cancel()
        if senders:
            await asyncio.wait(senders)
        for lane in self._lanes.values():
            for letter in lane.letters:
                letter.answered.cancel()
        self._lanes.clear()

    def _send(self, session_id: str, lane: _Lane) -> None:
        lane.sender = asyncio.create_task(self._send_all(session_id, lane), name=f"outbox {session_id}")

    async def _send_all(self, session_id: str, lane: _Lane) -> None:
        while lane.letters:
            letter = lane.letters[0]
            letter.tried = True
            answer = await self._answer_to(session_id, letter.delivery)
            lane.remove(letter)
            if not letter.answered.done():
                letter.answered.set_result(answer)
        del self._lanes[session_id]

    async def _answer_to(self, session_id: str, delivery: Delivery) -> Answer | Refused:
        try:
            return await self._deliverer.deliver(delivery.path, delivery.body, delivery.method, delivery.patience_s)
        except Refused as refusal:
            logger.error("{}: the coordinator refuses a message: {}", session_id, refusal)
            return refusal
        except Exception as defect:  # noqa: BLE001 - whoever waits has to hear of it, or would wait for ever
            logger.opt(exception=defect).error("{}: {} could not be sent", session_id, delivery.path)
            return Refused(f"{delivery.path} could not be sent: {defect!r}", 0)


def started(run_id: str, runner_id: str) -> Delivery:
    return _of_run(run_id, "started", wire.RunnerRef(runner_id))


def completed(run_id: str, runner_id: str, session_status: wire.CompletedSession = "finished") -> Delivery:
    return _of_run(run_id, "completed", wire.Completed(runner_id=runner_id, session_status=session_status))


def failed(run_id: str, runner_id: str, error: str) -> Delivery:
    return _of_run(run_id, "failed", wire.Failed(runner_id=runner_id, error=error))


def stopped(run_id: str, runner_id: str, signal: wire.StopSignal) -> Delivery:
    return _of_run(run_id, "stopped", wire.Stopped(runner_id=runner_id, signal=signal))


def session_ended(session_id: str, runner_id: str, status: wire.EndedSession) -> Delivery:
    """Of a persistent executor that has ended between turns."""
    body = wire.SessionEnded(runner_id=runner_id, status=status)
    return Delivery(f"/runner/sessions/{path_segment(session_id)}/status", msgspec.json.encode(body))


def bind(session_id: str, body: wire.Bind) -> Delivery:
    return _of_executor(session_id, "bind", msgspec.json.encode(body))


def event(session_id: str, body: bytes) -> Delivery:
    return _of_executor(session_id, "events", body)


def metadata(session_id: str, body: bytes) -> Delivery:
    return _of_executor(session_id, "metadata", body, "PATCH")


def _of_executor(session_id: str, what: str, body: bytes, method: str = "POST") -> Delivery:
    """Its content is somebody else's: one that cannot be taken must not keep the run's report from being told."""
    return Delivery(f"/sessions/{path_segment(session_id)}/{what}", body, method, NOT_TAKEN_LIMIT_S)


def _of_run(run_id: str, report: str, body: msgspec.Struct) -> Delivery:
    return Delivery(f"/runner/runs/{path_segment(run_id)}/{report}", msgspec.json.encode(body))
