"""What the outbox keeps for a later process, and what it makes of what an earlier one has left."""

import asyncio

import msgspec

from fsm_runner.coordinator_client.policy import EXECUTOR_MESSAGE_LIMIT_S
from fsm_runner.coordinator_client.response import ApiResponse
from fsm_runner.errors import FsmRunnerError
from fsm_runner.journal.records import StoredMessage
from fsm_runner.reporting import messages
from fsm_runner.reporting.message_store import NoMessageStore
from fsm_runner.reporting.messages import OutboundMessage
from fsm_runner.reporting.outbox import FLUSH_LIMIT_S, IN_MEMORY_BYTES, READ_RETRY_S, Outbox
from tests.support.logs import log_lines
from tests.support.outbox import LANE, TAKEN, Gate, message, settle
from tests.support.virtual_time import in_virtual_time

BIG = b"x" * (IN_MEMORY_BYTES // 3)


class Shelf:
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


class Doubting(Gate):
    """Keeps what it was told of each message."""

    def __init__(self) -> None:
        super().__init__()
        self.deliveries: list[tuple[OutboundMessage, bool]] = []

    async def deliver(self, delivery: OutboundMessage, *, maybe_delivered: bool = False) -> ApiResponse:
        self.deliveries.append((delivery, maybe_delivered))
        return await super().deliver(delivery, maybe_delivered=maybe_delivered)


async def test_a_message_is_kept_until_it_is_answered() -> None:
    gate, shelf = Gate(), Shelf()
    box = Outbox(gate, shelf)
    box.put(LANE, message("1"))
    box.put(LANE, message("2"))
    assert shelf.paths == ["1", "2"]
    await settle()
    gate.acknowledge()
    await settle()
    assert shelf.paths == ["2"]
    gate.refuse()
    await settle()
    assert shelf.paths == []


async def test_a_message_is_forgotten_before_whoever_waits_is_told() -> None:
    gate, shelf = Gate(), Shelf()
    box = Outbox(gate, shelf)
    kept: list[list[str]] = []
    box.put(LANE, message("1")).add_done_callback(lambda _: kept.append(shelf.paths))
    await settle()
    gate.acknowledge()
    await settle()
    assert kept == [[]]


async def test_a_message_that_is_withdrawn_or_given_up_is_forgotten() -> None:
    gate, shelf = Gate(), Shelf()
    box = Outbox(gate, shelf)
    answers = [box.put(LANE, message(path)) for path in ("1", "2", "3", "4")]
    await settle()
    box.withdraw(LANE, [answers[3]])
    assert shelf.paths == ["1", "2", "3"]
    box.abandon(LANE, [answers[1]])
    assert shelf.paths == ["3"]
    await box.aclose()


async def test_that_a_run_has_started_is_not_kept_and_its_end_is() -> None:
    gate, shelf = Gate(), Shelf()
    box = Outbox(gate, shelf)
    box.put(LANE, messages.started("run_1", "me"))
    box.put(LANE, messages.completed("run_1", "me"))
    assert shelf.paths == ["/runner/runs/run_1/completed"]
    await box.aclose()


async def test_what_is_not_answered_when_the_outbox_closes_stays_with_the_keeper() -> None:
    gate, shelf = Gate(), Shelf()
    box = Outbox(gate, shelf)
    for path in ("1", "2"):
        box.put(LANE, message(path))
    await settle()
    await box.aclose()
    assert shelf.paths == ["1", "2"]


async def test_what_was_left_is_sent_in_its_order_before_what_is_put_later() -> None:
    shelf = Shelf()
    earlier = Outbox(Gate(), shelf)
    for number in range(3):
        earlier.put(LANE, message(f"{number}"))
        earlier.put("ses_2", message(f"other {number}"))
    await earlier.aclose()

    gate = Doubting()
    box = Outbox(gate, shelf)
    box.restore(shelf.recovered())
    last = box.put(LANE, message("3"))
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
    assert shelf.messages == {}


async def test_a_restored_message_is_the_one_that_was_put() -> None:
    shelf = Shelf()
    put = [messages.failed("run_1", "me", "why"), messages.session_ended("ses_1", "me", "stopped"), message("1")]
    earlier = Outbox(Gate(), shelf)
    for each in put:
        earlier.put(LANE, each)
    await earlier.aclose()
    gate = Doubting()
    box = Outbox(gate, shelf)
    box.restore(shelf.recovered())
    for _ in put:
        await settle()
        gate.acknowledge()
        await settle()
    assert [each for each, _ in gate.deliveries] == put


async def test_a_kept_message_that_cannot_be_read_is_dropped_with_an_error_and_holds_nothing_up() -> None:
    gate, shelf = Gate(), Shelf()
    shelf.store_message(LANE, b"\xc1 no message")
    Outbox(gate, shelf)
    shelf.store_message(LANE, msgspec.msgpack.encode(message("2")))
    box = Outbox(gate, shelf)
    with log_lines() as lines:
        box.restore(shelf.recovered())
    await settle()
    assert gate.begun == ["2"]
    assert shelf.paths == ["2"]
    assert any(LANE in line and "cannot be decoded" in line for line in lines)
    await box.aclose()


async def test_a_long_message_of_an_earlier_process_is_read_when_it_is_its_turn() -> None:
    gate, shelf = Doubting(), Shelf()
    long = OutboundMessage("long", bytes(10_000))
    ids = [shelf.store_message(LANE, msgspec.msgpack.encode(each)) for each in (message("1"), long)]
    first, second = shelf.recovered()
    box = Outbox(gate, shelf)
    box.restore([first, StoredMessage(second.id, LANE, None, size_bytes=10_000)])
    await settle()
    assert box.queued_bytes(LANE) > 10_000
    assert shelf.read == []
    gate.acknowledge()
    await settle()
    assert shelf.read == [ids[1]]
    assert gate.deliveries[-1][0] == long
    gate.acknowledge()
    await settle()
    assert shelf.messages == {}
    assert box.queued_bytes(LANE) == 0


async def test_a_report_is_found_while_it_is_on_its_way_and_not_afterwards() -> None:
    gate, shelf = Gate(), Shelf()
    box = Outbox(gate, shelf)
    assert box.pending_report("run_1") is None
    box.put(LANE, messages.started("run_1", "me"))
    assert box.pending_report("run_1") is None
    answered = box.put(LANE, messages.completed("run_1", "me"))
    assert box.pending_report("run_1") is answered
    assert box.pending_report("run_2") is None
    for _ in range(2):
        await settle()
        gate.acknowledge()
    assert await answered is TAKEN
    assert box.pending_report("run_1") is None


async def test_the_end_of_a_session_is_found_too_and_no_more_when_it_is_given_up_or_closed() -> None:
    box = Outbox(Gate(), Shelf())
    answered = box.put(LANE, messages.session_ended("ses_1", "me", "finished"))
    assert box.pending_report("ses_1") is answered
    box.abandon(LANE, [answered])
    assert box.pending_report("ses_1") is None
    box.put(LANE, messages.session_ended("ses_1", "me", "finished"))
    await box.aclose()
    assert box.pending_report("ses_1") is None


async def test_a_restored_report_is_found_as_well() -> None:
    shelf = Shelf()
    earlier = Outbox(Gate(), shelf)
    earlier.put(LANE, messages.completed("run_1", "me"))
    await earlier.aclose()
    gate = Gate()
    box = Outbox(gate, shelf)
    box.restore(shelf.recovered())
    answered = box.pending_report("run_1")
    assert answered is not None
    await settle()
    gate.acknowledge()
    assert await answered is TAKEN


async def test_of_a_long_lane_the_bodies_are_read_back_when_their_turn_comes() -> None:
    gate, shelf = Doubting(), Shelf()
    box = Outbox(gate, shelf)
    for number in range(5):
        box.put(LANE, OutboundMessage(f"{number}", BIG + b"%d" % number))
    size_bytes = box.queued_bytes(LANE)
    for _ in range(5):
        await settle()
        gate.acknowledge()
        await settle()
    assert [each.body for each, _ in gate.deliveries] == [BIG + b"%d" % number for number in range(5)]
    assert shelf.read == [3, 4, 5]
    assert size_bytes > 5 * len(BIG)
    assert (box.queued_bytes(LANE), shelf.messages) == (0, {})


async def test_the_bodies_stay_in_memory_while_nothing_can_be_kept() -> None:
    for shelf in (Shelf(), NoMessageStore()):
        if isinstance(shelf, Shelf):
            shelf.stuck = FsmRunnerError("the disk is full")
        gate = Doubting()
        box = Outbox(gate, shelf)
        for number in range(4):
            box.put(LANE, OutboundMessage(f"{number}", BIG))
        for _ in range(4):
            await settle()
            gate.acknowledge()
            await settle()
        assert [each.body for each, _ in gate.deliveries] == [BIG] * 4
        assert not isinstance(shelf, Shelf) or shelf.read == []


@in_virtual_time
async def test_a_body_that_cannot_be_read_back_is_waited_for() -> None:
    gate, shelf = Doubting(), Shelf()
    box = Outbox(gate, shelf)
    shelf.unreadable_times = 3
    for number in range(4):
        box.put(LANE, OutboundMessage(f"{number}", BIG))
    for number in range(4):
        await asyncio.sleep(0 if number < 2 else 2 * 3 * READ_RETRY_S)
        await settle()
        gate.acknowledge()
        await settle()
    assert [each.body for each, _ in gate.deliveries] == [BIG] * 4
    assert shelf.read == [3, 3, 3, 3, 4]


@in_virtual_time
async def test_a_body_that_can_never_be_read_back_holds_the_end_of_its_run_up_for_a_limited_time() -> None:
    gate, shelf = Doubting(), Shelf()
    kept = shelf.store_message(LANE, msgspec.msgpack.encode(OutboundMessage("lost", BIG)))
    shelf.unreadable_times = 1_000_000
    box = Outbox(gate, shelf)
    box.restore([StoredMessage(kept, LANE, None, size_bytes=len(BIG))])
    box.put(LANE, messages.completed("run_1", "me"))
    await asyncio.sleep(EXECUTOR_MESSAGE_LIMIT_S - 1)
    assert gate.begun == []
    await asyncio.sleep(2)
    assert gate.begun == ["/runner/runs/run_1/completed"]
    await box.aclose()


@in_virtual_time
async def test_the_end_of_a_run_stays_in_memory_however_much_waits_before_it() -> None:
    gate, shelf = Doubting(), Shelf()
    box = Outbox(gate, shelf)
    for number in range(6):
        box.put(LANE, OutboundMessage(f"{number}", BIG))
    end = messages.completed("run_1", "me")
    box.put(LANE, end)
    for _ in range(7):
        await settle()
        gate.acknowledge()
    await settle()
    assert gate.deliveries[-1][0] == end
    assert 7 not in shelf.read


@in_virtual_time
async def test_an_end_is_told_though_the_disk_does_not_answer() -> None:
    gate, shelf = Doubting(), Shelf()
    shelf.hangs = True
    box = Outbox(gate, shelf)
    box.put(LANE, messages.completed("run_1", "me"))
    await asyncio.sleep(FLUSH_LIMIT_S - 0.1)
    assert gate.begun == []
    await asyncio.sleep(0.2)
    assert gate.begun == ["/runner/runs/run_1/completed"]
    await box.aclose()
