"""The outbox stores messages for a later process, and sends those of an earlier one."""

import asyncio

import msgspec

from fsm_runner.coordinator_client.policy import EXECUTOR_MESSAGE_LIMIT_S
from fsm_runner.coordinator_client.response import ApiResponse
from fsm_runner.errors import FsmRunnerError
from fsm_runner.journal.records import StoredMessage
from fsm_runner.reporting import messages
from fsm_runner.reporting.messages import OutboundMessage
from fsm_runner.reporting.outbox import FLUSH_LIMIT_S, IN_MEMORY_BYTES, READ_RETRY_S, NoMessageStore, Outbox
from tests.support.logs import log_lines
from tests.support.outbox import SESSION_ID, TAKEN, Gate, message, settle
from tests.support.virtual_time import in_virtual_time

BIG = b"x" * (IN_MEMORY_BYTES // 3)


class FakeStore:
    """A `MessageStore`."""

    def __init__(self) -> None:
        self.messages: dict[int, tuple[str, bytes]] = {}
        self.last_id = 0
        self.stuck: FsmRunnerError | None = None
        self.read: list[int] = []
        self.unreadable_times = 0
        self.hangs = False

    def store_message(self, session_id: str, content: bytes) -> int:
        self.last_id += 1
        self.messages[self.last_id] = (session_id, content)
        return self.last_id

    def delete_message(self, message_id: int) -> None:
        del self.messages[message_id]

    async def message(self, message_id: int) -> bytes:
        self.read.append(message_id)
        if self.unreadable_times > 0:
            self.unreadable_times -= 1
            raise FsmRunnerError("cannot be read")
        return self.messages[message_id][1]

    async def flush(self) -> None:
        if self.hangs:
            await asyncio.Event().wait()
        if self.stuck is not None:
            raise self.stuck

    @property
    def paths(self) -> list[str]:
        return [msgspec.msgpack.decode(content, type=OutboundMessage).path for _, content in self.messages.values()]

    def recovered(self) -> list[StoredMessage]:
        return [StoredMessage(number, session_id, content) for number, (session_id, content) in self.messages.items()]


class RecordingGate(Gate):
    """Records each message, and whether it may have been delivered."""

    def __init__(self) -> None:
        super().__init__()
        self.deliveries: list[tuple[OutboundMessage, bool]] = []

    async def deliver(self, delivery: OutboundMessage, *, maybe_delivered: bool = False) -> ApiResponse:
        self.deliveries.append((delivery, maybe_delivered))
        return await super().deliver(delivery, maybe_delivered=maybe_delivered)


async def test_a_message_is_stored_until_it_is_acknowledged() -> None:
    gate, store = Gate(), FakeStore()
    box = Outbox(gate, store)
    box.put(SESSION_ID, message("1"))
    box.put(SESSION_ID, message("2"))
    assert store.paths == ["1", "2"]
    await settle()
    gate.acknowledge()
    await settle()
    assert store.paths == ["2"]
    gate.refuse()
    await settle()
    assert store.paths == []


async def test_a_message_is_deleted_before_its_future_is_resolved() -> None:
    gate, store = Gate(), FakeStore()
    box = Outbox(gate, store)
    paths: list[list[str]] = []
    box.put(SESSION_ID, message("1")).add_done_callback(lambda _: paths.append(store.paths))
    await settle()
    gate.acknowledge()
    await settle()
    assert paths == [[]]


async def test_a_withdrawn_or_abandoned_message_is_deleted() -> None:
    gate, store = Gate(), FakeStore()
    box = Outbox(gate, store)
    answers = [box.put(SESSION_ID, message(path)) for path in ("1", "2", "3", "4")]
    await settle()
    box.withdraw(SESSION_ID, [answers[3]])
    assert store.paths == ["1", "2", "3"]
    box.abandon(SESSION_ID, [answers[1]])
    assert store.paths == ["3"]
    await box.aclose()


async def test_a_started_report_is_not_stored_and_a_terminal_one_is() -> None:
    gate, store = Gate(), FakeStore()
    box = Outbox(gate, store)
    box.put(SESSION_ID, messages.started("run_1", "me"))
    box.put(SESSION_ID, messages.completed("run_1", "me"))
    assert store.paths == ["/runner/runs/run_1/completed"]
    await box.aclose()


async def test_unacknowledged_messages_stay_in_the_store_when_the_outbox_closes() -> None:
    gate, store = Gate(), FakeStore()
    box = Outbox(gate, store)
    for path in ("1", "2"):
        box.put(SESSION_ID, message(path))
    await settle()
    await box.aclose()
    assert store.paths == ["1", "2"]


async def test_restored_messages_are_sent_in_order_before_new_ones() -> None:
    store = FakeStore()
    earlier = Outbox(Gate(), store)
    for number in range(3):
        earlier.put(SESSION_ID, message(f"{number}"))
        earlier.put("ses_2", message(f"other {number}"))
    await earlier.aclose()

    gate = RecordingGate()
    box = Outbox(gate, store)
    box.restore(store.recovered())
    last = box.put(SESSION_ID, message("3"))
    while not last.done():
        await settle()
        gate.acknowledge()
        await settle()
    while gate.under_way:
        gate.acknowledge()
        await settle()
    of_lane = [path for path in gate.begun if not path.startswith("other")]
    assert of_lane == ["0", "1", "2", "3"]
    assert [path for path in gate.begun if path.startswith("other")] == ["other 0", "other 1", "other 2"]
    assert [maybe_delivered for each, maybe_delivered in gate.deliveries if each.path in of_lane] == [
        True,
        True,
        True,
        False,
    ]
    assert store.messages == {}


async def test_a_restored_message_is_the_one_that_was_put() -> None:
    store = FakeStore()
    put = [messages.failed("run_1", "me", "why"), messages.session_ended("ses_1", "me", "stopped"), message("1")]
    earlier = Outbox(Gate(), store)
    for each in put:
        earlier.put(SESSION_ID, each)
    await earlier.aclose()
    gate = RecordingGate()
    box = Outbox(gate, store)
    box.restore(store.recovered())
    for _ in put:
        await settle()
        gate.acknowledge()
        await settle()
    assert [each for each, _ in gate.deliveries] == put


async def test_a_stored_message_that_cannot_be_decoded_is_dropped_with_an_error() -> None:
    gate, store = Gate(), FakeStore()
    store.store_message(SESSION_ID, b"\xc1 no message")
    Outbox(gate, store)
    store.store_message(SESSION_ID, msgspec.msgpack.encode(message("2")))
    box = Outbox(gate, store)
    with log_lines() as lines:
        box.restore(store.recovered())
    await settle()
    assert gate.begun == ["2"]
    assert store.paths == ["2"]
    assert any(SESSION_ID in line and "cannot be decoded" in line for line in lines)
    await box.aclose()


async def test_a_long_restored_message_is_read_when_it_is_sent() -> None:
    gate, store = RecordingGate(), FakeStore()
    long = OutboundMessage("long", bytes(10_000))
    ids = [store.store_message(SESSION_ID, msgspec.msgpack.encode(each)) for each in (message("1"), long)]
    first, second = store.recovered()
    box = Outbox(gate, store)
    box.restore([first, StoredMessage(second.id, SESSION_ID, None, size_bytes=10_000)])
    await settle()
    assert box.queued_bytes(SESSION_ID) > 10_000
    assert store.read == []
    gate.acknowledge()
    await settle()
    assert store.read == [ids[1]]
    assert gate.deliveries[-1][0] == long
    gate.acknowledge()
    await settle()
    assert store.messages == {}
    assert box.queued_bytes(SESSION_ID) == 0


async def test_a_report_is_pending_until_it_is_acknowledged() -> None:
    gate, store = Gate(), FakeStore()
    box = Outbox(gate, store)
    assert box.pending_report("run_1") is None
    box.put(SESSION_ID, messages.started("run_1", "me"))
    assert box.pending_report("run_1") is None
    answered = box.put(SESSION_ID, messages.completed("run_1", "me"))
    assert box.pending_report("run_1") is answered
    assert box.pending_report("run_2") is None
    for _ in range(2):
        await settle()
        gate.acknowledge()
    assert await answered is TAKEN
    assert box.pending_report("run_1") is None


async def test_the_report_of_a_session_is_pending_until_it_is_abandoned_or_the_outbox_closes() -> None:
    box = Outbox(Gate(), FakeStore())
    answered = box.put(SESSION_ID, messages.session_ended("ses_1", "me", "finished"))
    assert box.pending_report("ses_1") is answered
    box.abandon(SESSION_ID, [answered])
    assert box.pending_report("ses_1") is None
    box.put(SESSION_ID, messages.session_ended("ses_1", "me", "finished"))
    await box.aclose()
    assert box.pending_report("ses_1") is None


async def test_a_restored_report_is_pending() -> None:
    store = FakeStore()
    earlier = Outbox(Gate(), store)
    earlier.put(SESSION_ID, messages.completed("run_1", "me"))
    await earlier.aclose()
    gate = Gate()
    box = Outbox(gate, store)
    box.restore(store.recovered())
    answered = box.pending_report("run_1")
    assert answered is not None
    await settle()
    gate.acknowledge()
    assert await answered is TAKEN


async def test_the_bodies_of_a_long_queue_are_read_back_when_they_are_sent() -> None:
    gate, store = RecordingGate(), FakeStore()
    box = Outbox(gate, store)
    for number in range(5):
        box.put(SESSION_ID, OutboundMessage(f"{number}", BIG + b"%d" % number))
    size_bytes = box.queued_bytes(SESSION_ID)
    for _ in range(5):
        await settle()
        gate.acknowledge()
        await settle()
    assert [each.body for each, _ in gate.deliveries] == [BIG + b"%d" % number for number in range(5)]
    assert store.read == [3, 4, 5]
    assert size_bytes > 5 * len(BIG)
    assert (box.queued_bytes(SESSION_ID), store.messages) == (0, {})


async def test_bodies_stay_in_memory_while_the_store_cannot_be_written() -> None:
    for store in (FakeStore(), NoMessageStore()):
        if isinstance(store, FakeStore):
            store.stuck = FsmRunnerError("the disk is full")
        gate = RecordingGate()
        box = Outbox(gate, store)
        for number in range(4):
            box.put(SESSION_ID, OutboundMessage(f"{number}", BIG))
        for _ in range(4):
            await settle()
            gate.acknowledge()
            await settle()
        assert [each.body for each, _ in gate.deliveries] == [BIG] * 4
        assert not isinstance(store, FakeStore) or store.read == []


@in_virtual_time
async def test_reading_a_body_back_is_retried() -> None:
    gate, store = RecordingGate(), FakeStore()
    box = Outbox(gate, store)
    store.unreadable_times = 3
    for number in range(4):
        box.put(SESSION_ID, OutboundMessage(f"{number}", BIG))
    for number in range(4):
        await asyncio.sleep(0 if number < 2 else 2 * 3 * READ_RETRY_S)
        await settle()
        gate.acknowledge()
        await settle()
    assert [each.body for each, _ in gate.deliveries] == [BIG] * 4
    assert store.read == [3, 3, 3, 3, 4]


@in_virtual_time
async def test_a_body_that_cannot_be_read_back_delays_the_report_of_its_run_for_a_limited_time() -> None:
    gate, store = RecordingGate(), FakeStore()
    message_id = store.store_message(SESSION_ID, msgspec.msgpack.encode(OutboundMessage("lost", BIG)))
    store.unreadable_times = 1_000_000
    box = Outbox(gate, store)
    box.restore([StoredMessage(message_id, SESSION_ID, None, size_bytes=len(BIG))])
    box.put(SESSION_ID, messages.completed("run_1", "me"))
    await asyncio.sleep(EXECUTOR_MESSAGE_LIMIT_S - 1)
    assert gate.begun == []
    await asyncio.sleep(2)
    assert gate.begun == ["/runner/runs/run_1/completed"]
    await box.aclose()


@in_virtual_time
async def test_a_terminal_report_stays_in_memory() -> None:
    gate, store = RecordingGate(), FakeStore()
    box = Outbox(gate, store)
    for number in range(6):
        box.put(SESSION_ID, OutboundMessage(f"{number}", BIG))
    end = messages.completed("run_1", "me")
    box.put(SESSION_ID, end)
    for _ in range(7):
        await settle()
        gate.acknowledge()
    await settle()
    assert gate.deliveries[-1][0] == end
    assert 7 not in store.read


@in_virtual_time
async def test_an_end_is_reported_although_the_disk_does_not_answer() -> None:
    gate, store = RecordingGate(), FakeStore()
    store.hangs = True
    box = Outbox(gate, store)
    box.put(SESSION_ID, messages.completed("run_1", "me"))
    await asyncio.sleep(FLUSH_LIMIT_S - 0.1)
    assert gate.begun == []
    await asyncio.sleep(0.2)
    assert gate.begun == ["/runner/runs/run_1/completed"]
    await box.aclose()
