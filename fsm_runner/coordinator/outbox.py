"""What a run has to tell the coordinator, in order, each message until it is acknowledged.

The coordinator has no state machine (section 1.1): a `started` that arrives after the terminal report, or a
`bind` after `completed`, would undo it. So a run has one outbox, and the next message is not sent before the
one ahead of it has been answered.
"""

import asyncio
from collections import deque
from typing import Protocol

import msgspec
from loguru import logger

from fsm_runner.coordinator import wire
from fsm_runner.coordinator.faults import Refused
from fsm_runner.coordinator.transport import path_segment


class Delivery(msgspec.Struct, frozen=True):
    """One message: where it goes and its JSON body."""

    path: str
    body: bytes


class Deliverer(Protocol):
    async def deliver(self, path: str, body: bytes) -> None: ...


class Outbox:
    """The messages of one run. `aclose` ends it."""

    def __init__(self, deliverer: Deliverer, run_id: str) -> None:
        self._deliverer = deliverer
        self._run_id = run_id
        self._waiting: deque[tuple[Delivery, asyncio.Future[Refused | None]]] = deque()
        self._sender: asyncio.Task[None] | None = None

    def put(self, delivery: Delivery) -> "asyncio.Future[Refused | None]":
        """Send after all that was put before; the future holds None once acknowledged, or the refusal."""
        answered: asyncio.Future[Refused | None] = asyncio.get_running_loop().create_future()
        self._waiting.append((delivery, answered))
        if self._sender is None or self._sender.done():
            self._sender = asyncio.create_task(self._send_all(), name=f"outbox {self._run_id}")
        return answered

    def discard_unsent(self) -> None:
        """Forget what has not been tried yet. What is under way is still waited for."""
        while len(self._waiting) > 1:
            _, answered = self._waiting.pop()
            answered.cancel()

    async def aclose(self) -> None:
        """Give up what is left; whoever waits for its answer is told by a cancellation."""
        if self._sender is not None and not self._sender.done():
            self._sender.cancel()
            await asyncio.wait([self._sender])
        while self._waiting:
            _, answered = self._waiting.pop()
            answered.cancel()

    async def _send_all(self) -> None:
        while self._waiting:
            delivery, answered = self._waiting[0]
            refusal = await self._send(delivery)
            self._waiting.popleft()
            if not answered.done():
                answered.set_result(refusal)

    async def _send(self, delivery: Delivery) -> Refused | None:
        try:
            await self._deliverer.deliver(delivery.path, delivery.body)
        except Refused as refusal:
            logger.error("{}: the coordinator refuses a message: {}", self._run_id, refusal)
            return refusal
        except Exception as defect:  # noqa: BLE001 - whoever waits has to hear of it, or would wait for ever
            logger.opt(exception=defect).error("{}: {} could not be sent", self._run_id, delivery.path)
            return Refused(f"{delivery.path} could not be sent: {defect!r}", 0)
        return None


def started(run_id: str, runner_id: str) -> Delivery:
    return _of_run(run_id, "started", wire.RunnerRef(runner_id))


def completed(run_id: str, runner_id: str) -> Delivery:
    return _of_run(run_id, "completed", wire.Completed(runner_id=runner_id))


def failed(run_id: str, runner_id: str, error: str) -> Delivery:
    return _of_run(run_id, "failed", wire.Failed(runner_id=runner_id, error=error))


def stopped(run_id: str, runner_id: str, signal: wire.StopSignal) -> Delivery:
    return _of_run(run_id, "stopped", wire.Stopped(runner_id=runner_id, signal=signal))


def bind(session_id: str, body: wire.Bind) -> Delivery:
    return Delivery(f"/sessions/{path_segment(session_id)}/bind", msgspec.json.encode(body))


def event(session_id: str, body: wire.ResultEvent) -> Delivery:
    return Delivery(f"/sessions/{path_segment(session_id)}/events", msgspec.json.encode(body))


def _of_run(run_id: str, report: str, body: msgspec.Struct) -> Delivery:
    return Delivery(f"/runner/runs/{path_segment(run_id)}/{report}", msgspec.json.encode(body))
