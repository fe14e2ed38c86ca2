"""Messages about runs that another runner has by now are not sent."""

import asyncio

import msgspec
import pytest

from fsm_runner.coordinator_client.errors import Refused, RegistrationSuperseded, RunReassigned
from fsm_runner.protocol import wire
from fsm_runner.reporting import messages
from fsm_runner.reporting.messages import OutboundMessage
from fsm_runner.reporting.outbox import NoMessageStore, Outbox
from tests.support.outbox import SESSION_ID, TAKEN, Gate, settle

RUN, OTHER = (wire.Run(run_id=run_id, session_id=SESSION_ID, attempt=2) for run_id in ("run_1", "run_2"))
REASSIGNED = RunReassigned("409", 3)
MESSAGES = {
    "started": messages.started(RUN.run_id, "me"),
    "event": messages.event(SESSION_ID, b"{}", RUN),
    "bind": messages.bind(SESSION_ID, wire.Bind(executor_session_id="e", hostname="h", executor_profile="p"), RUN),
    "metadata": messages.metadata(SESSION_ID, b"{}", RUN),
    "completed": messages.completed(RUN.run_id, "me"),
    "failed": messages.failed(RUN.run_id, "me", "why"),
    "stopped": messages.stopped(RUN.run_id, "me", "SIGTERM"),
    "session": messages.session_ended(SESSION_ID, "me", "finished", RUN),
}


class Refusing(Gate):
    """A deliverer that answers the first message as the test says."""

    def __init__(self, refusal: Refused) -> None:
        super().__init__()
        self._refusal: Refused | None = refusal

    async def deliver(self, delivery: OutboundMessage, *, maybe_delivered: bool = False) -> object:  # type: ignore[override]
        if (refusal := self._refusal) is not None:
            self._refusal = None
            raise refusal
        self.begun.append(delivery.path)
        return TAKEN


class KeptMessages(NoMessageStore):
    def __init__(self) -> None:
        self.kept: dict[int, bytes] = {}

    def store_message(self, session_id: str, content: bytes) -> int:
        self.kept[len(self.kept) + 1] = content
        return len(self.kept)

    def delete_message(self, message_id: int) -> None:
        del self.kept[message_id]


@pytest.mark.parametrize("name", MESSAGES)
async def test_whichever_message_is_refused_the_run_has_no_message_any_more(name: str) -> None:
    gate, store = Refusing(REASSIGNED), KeptMessages()
    box = Outbox(gate, store)  # type: ignore[arg-type]
    found: list[tuple[str, str, RunReassigned]] = []
    box.on_reassigned = lambda *reassigned: found.append(reassigned)
    first = box.put(SESSION_ID, MESSAGES[name])
    others = [box.put(SESSION_ID, each) for each in MESSAGES.values()]
    unrelated = box.put(SESSION_ID, messages.event(SESSION_ID, b"{}", OTHER))
    assert await unrelated is TAKEN
    assert found == [(SESSION_ID, RUN.run_id, REASSIGNED)]
    assert [await each for each in (first, *others)] == [REASSIGNED] * (1 + len(MESSAGES))
    assert [await box.put(SESSION_ID, each) for each in MESSAGES.values()] == [REASSIGNED] * len(MESSAGES)
    await settle()
    assert gate.begun == [MESSAGES["event"].path]
    assert store.kept == {}
    box.readmit(RUN.run_id)
    assert await box.put(SESSION_ID, MESSAGES["completed"]) is TAKEN
    await box.aclose()


async def test_a_message_that_is_being_sent_is_withdrawn_too() -> None:
    gate = Gate()
    box = Outbox(gate, NoMessageStore())
    sent, behind = (box.put(SESSION_ID, messages.event(SESSION_ID, b"{}", run)) for run in (RUN, OTHER))
    await settle()
    box.withdraw_run(SESSION_ID, RUN.run_id, REASSIGNED)
    assert await sent is REASSIGNED
    await settle()
    assert len(gate.begun) == 2
    assert not behind.done()
    await box.aclose()


async def test_nothing_at_all_is_sent_under_an_identity_that_another_process_has() -> None:
    gate, store, refusal = Gate(), KeptMessages(), RegistrationSuperseded("409", 409)
    box = Outbox(gate, store)
    queued = [box.put(session, each) for session in (SESSION_ID, "ses_2") for each in MESSAGES.values()]
    await settle()
    begun = list(gate.begun)
    box.withdraw_all(refusal)
    assert set(await asyncio.gather(*queued)) == {refusal}
    assert await box.put("ses_3", MESSAGES["completed"]) is refusal
    await settle()
    assert gate.begun == begun
    assert store.kept == {}
    await box.aclose()


async def test_a_stored_message_has_the_number_of_the_registration_under_which_it_was_written() -> None:
    numbers, store = [None, 7], KeptMessages()
    box = Outbox(Gate(), store, lambda: numbers.pop(0))
    for _ in range(2):
        box.put(SESSION_ID, MESSAGES["event"])
    await box.aclose()
    stored = [msgspec.msgpack.decode(content, type=OutboundMessage) for content in store.kept.values()]
    assert [(each.run_id, each.attempt, each.registration) for each in stored] == [("run_1", 2, None), ("run_1", 2, 7)]


def test_messages_of_earlier_versions_can_be_decoded() -> None:
    fields = {"path": "/sessions/ses_1/events", "body": b"{}", "method": "POST", "ending": None, "durable": True}
    message = msgspec.msgpack.decode(msgspec.msgpack.encode(fields), type=OutboundMessage)
    assert (message.concerned_run_id, message.attempt, message.registration) == (None, None, None)
    ending = {**fields, "ending": {"type": "session", "subject": "ses_1"}}
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(ending), type=OutboundMessage).concerned_run_id is None
