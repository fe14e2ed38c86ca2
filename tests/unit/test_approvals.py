"""Approvals: one decision counts, it is on disk before it is an answer, and it survives a kill."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest

from fsm_runner.coordinator_client.api import CoordinatorApi
from fsm_runner.errors import EXIT_UNRECORDED, FsmRunnerError
from fsm_runner.protocol.approvals import COMMENT_LIMIT_CHARS, Decided, DecisionRequest
from fsm_runner.runtime.workflow import approval as approval_module
from fsm_runner.runtime.workflow import approvals as approvals_module
from fsm_runner.runtime.workflow.approval import ApprovalStep
from fsm_runner.runtime.workflow.approvals import AlreadyDecided, Approvals, NotPending, NotRecorded, NotTaken
from fsm_runner.runtime.workflow.step import Ended
from fsm_runner.util import wall_clock
from fsm_runner.workflow.definition import Approval
from tests.support.logs import log_lines
from tests.support.watch import PATIENCE_S
from tests.support.workflow_steps import PARENT, new_context, new_visit

NOW_S = 1_772_000_000.0
RUN_ID = PARENT.run_id


class Asked:
    """A step that waits for a decision, with a journal and a clock that the test controls."""

    def __init__(self, progress: bytes | None = None, *, due_s: float | None = NOW_S + 60, number: int = 4) -> None:
        self.now_s = NOW_S
        self.approvals = Approvals(lambda text: text.replace("s3cret", "***"), lambda: self.now_s)
        self.saved: list[bytes] = []
        self.may_flush = asyncio.Event()
        self.may_flush.set()
        self.unwritable: FsmRunnerError | None = None
        context = new_context(cast("CoordinatorApi", None), approvals=self.approvals, flush=self._flush)
        visit = new_visit(
            "approval",
            Approval(question="Merge s3cret?\0"),
            Path("/"),
            number=number,
            state_name="ask",
            workflow="ask-first",
            due_s=due_s,
            progress=progress,
            save=self.saved.append,
        )
        self.step = ApprovalStep(visit, context)

    async def _flush(self) -> None:
        await self.may_flush.wait()
        if self.unwritable is not None:
            raise self.unwritable

    async def decide(self, *, approved: bool = True, by: str = "ada", comment: str = "") -> Decided:
        return await self.approvals.decide(RUN_ID, approved=approved, by=by, comment=comment)


@asynccontextmanager
async def performing(asked: Asked) -> AsyncIterator[asyncio.Task[Ended]]:
    task = asyncio.create_task(asked.step.perform())
    await asyncio.sleep(0)
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait([task])


async def ended(task: "asyncio.Task[Ended]") -> Ended:
    return await asyncio.wait_for(asyncio.shield(task), PATIENCE_S)


@pytest.mark.parametrize(("approved", "ending"), [(True, "done"), (False, "denied")])
async def test_a_decision_ends_the_step_with_its_value(approved: bool, ending: str) -> None:
    asked = Asked()
    async with performing(asked) as task:
        (listed,) = asked.approvals.pending()
        assert (listed.run_id, listed.workflow, listed.state, listed.visit) == (RUN_ID, "ask-first", "ask", 4)
        assert listed.question == "Merge ***?�"
        assert (listed.due, asked.step.request.due) == ("2026-02-25T06:14:20Z",) * 2
        decision = await asked.decide(approved=approved, comment="why")
        result = await ended(task)
    assert (result.ending, result.value["ok"]) == (ending, approved)
    assert (result.value["by"], result.value["comment"]) == ("ada", "why")
    assert (asked.step.decided, asked.approvals.pending()) == (decision, [])
    assert bool(result.value["error"]) != approved


async def test_of_two_decisions_the_first_counts_and_the_second_learns_of_it() -> None:
    asked = Asked()
    async with performing(asked) as task:
        first, second = await asyncio.gather(
            asked.decide(approved=False, by="ada", comment="no"), asked.decide(by="bob"), return_exceptions=True
        )
        assert isinstance(first, Decided)
        assert isinstance(second, AlreadyDecided)
        assert str(second) == f"{RUN_ID} was already denied by ada at {first.at}: no"
        assert (await ended(task)).value["by"] == "ada"
        await asked.step.aclose()
        with pytest.raises(AlreadyDecided, match="denied by ada"):
            await asked.decide(by="eve")


async def test_no_one_gets_a_decision_before_it_is_on_disk() -> None:
    asked = Asked()
    asked.may_flush.clear()
    async with performing(asked) as task:
        decisions = [asyncio.create_task(asked.decide(by=by)) for by in ("ada", "bob")]
        done, _ = await asyncio.wait([task, *decisions], timeout=0.05)
        assert not done
        assert asked.step.decided is None
        assert b"ada" in asked.saved[-1]
        asked.may_flush.set()
        assert (await decisions[0]).by == "ada"
        with pytest.raises(AlreadyDecided):
            await decisions[1]
        await ended(task)


async def test_a_decision_that_is_not_on_disk_yet_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(approvals_module, "RECORD_LIMIT_S", 0.02)
    monkeypatch.setattr(approval_module, "FLUSH_RETRY_S", 0.01)
    asked = Asked()
    asked.unwritable = FsmRunnerError("the disk is full")
    with log_lines("INFO") as lines:
        async with performing(asked) as task:
            with pytest.raises(NotRecorded, match=f"{RUN_ID} is approved by ada, but .* not on disk yet") as first:
                await asked.decide()
            assert first.value.exit_code == EXIT_UNRECORDED
            with pytest.raises(AlreadyDecided, match=r"already approved by ada .* not on disk yet"):
                await asked.decide(approved=False, by="bob")
            (listed,) = asked.approvals.pending()
            assert listed.unrecorded is not None
            assert (listed.unrecorded.by, listed.unrecorded.approved) == ("ada", True)
            assert not task.done()
            assert not [line for line in lines if "approved" in line]
            asked.unwritable = None
            assert (await ended(task)).value["by"] == "ada"
            assert asked.approvals.pending() == []
    assert len([line for line in lines if f"{RUN_ID}: approved by ada" in line]) == 1


async def test_a_decision_of_an_earlier_process_is_logged_once() -> None:
    before = Asked()
    with log_lines("INFO") as lines:
        async with performing(before) as task:
            before.approvals.receive([request()])
            await ended(task)
        after = Asked(before.saved[-1])
        async with performing(after) as task:
            after.approvals.receive([request()])
            assert (await ended(task)).value["by"] == "ada"
    assert len([line for line in lines if "approved by ada" in line]) == 1


async def test_a_decision_that_an_earlier_process_has_written_counts() -> None:
    before = Asked()
    before.may_flush.clear()
    async with performing(before):
        deciding = asyncio.create_task(before.decide(approved=False, comment="no"))
        await asyncio.sleep(0)
        killed_after = before.saved[-1]
        deciding.cancel()
    after = Asked(killed_after)
    after.now_s = NOW_S + 1_000  # the deadline has passed meanwhile
    async with performing(after) as task:
        result = await ended(task)
        assert (result.ending, result.value["by"], result.value["comment"]) == ("denied", "ada", "no")
        with pytest.raises(AlreadyDecided, match="denied by ada"):
            await after.decide()


async def test_an_approval_is_open_again_after_a_restart() -> None:
    before = Asked()
    async with performing(before):
        (listed,) = before.approvals.pending()
    after = Asked(before.saved[-1])
    async with performing(after) as task:
        assert after.approvals.pending() == [listed]
        await after.decide()
        assert (await ended(task)).ending == "done"


async def test_the_deadline_denies_and_a_later_decision_learns_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wall_clock, "CHECK_INTERVAL_S", 0.01)
    asked = Asked()
    async with performing(asked) as task:
        asked.now_s = NOW_S + 60
        result = await ended(task)
        assert (result.ending, result.value["by"]) == ("denied", "deadline")
        assert asked.step.has_expired
        with pytest.raises(AlreadyDecided, match=f"the approval of {RUN_ID} expired at"):
            await asked.decide()


async def test_a_decision_after_the_deadline_does_not_count_although_the_step_still_waits() -> None:
    asked = Asked()
    async with performing(asked) as task:
        asked.now_s = NOW_S + 60
        with pytest.raises(AlreadyDecided, match="expired"):
            await asked.decide()
        assert (await ended(task)).value["by"] == "deadline"


async def test_a_decision_counts_while_the_step_is_interrupted() -> None:
    asked = Asked()
    async with performing(asked):
        pass
    deciding = asyncio.create_task(asked.decide())
    async with performing(asked) as task:
        assert (await ended(task)).ending == "done"
        assert (await deciding).by == "ada"


async def test_a_stop_ends_the_wait_of_those_who_decide() -> None:
    asked = Asked()
    asked.may_flush.clear()
    async with performing(asked):
        deciding = asyncio.create_task(asked.decide())
        await asyncio.sleep(0)
        assert await asked.step.stop() == "shutdown"
        with pytest.raises(NotTaken, match="fsm-runner history"):
            await deciding
    with pytest.raises(NotPending):
        await asked.decide()


def request(**fields: Any) -> DecisionRequest:
    parts = {"run_id": RUN_ID, "visit": 4, "approved": True, "by": "ada", "at": "2026-03-01T15:00:00Z", "id": "d1"}
    return DecisionRequest(**{**parts, **fields})


async def test_decisions_of_a_coordinator_count_once_however_often_they_come() -> None:
    asked = Asked()
    asked.approvals.receive([request()])
    async with performing(asked) as task:
        asked.approvals.receive([request(visit=3), request(run_id="run_other")])
        assert len(asked.approvals.pending()) == 1
        asked.approvals.receive([request(), request(), request(id="d2", by="bob", approved=False)])
        with pytest.raises(AlreadyDecided, match="approved by ada"):
            await asked.decide()
        assert (await ended(task)).value["by"] == "ada"
        asked.approvals.receive([request()])
    assert asked.step.decided is not None
    assert asked.step.decided.id == "d1"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("comment", "x" * (COMMENT_LIMIT_CHARS + 1)),
        ("by", "x" * 256),
        ("by", "deadline"),
        ("by", ""),
        ("id", "x" * 101),
        ("at", "never"),
        ("at", "2026-03-01"),
    ],
)
async def test_a_decision_of_a_coordinator_has_the_limits_of_others(field: str, value: str) -> None:
    asked = Asked()
    with log_lines("WARNING") as lines:
        async with performing(asked) as task:
            asked.approvals.receive([request(**{field: value}), request(by="bob")])
            assert (await ended(task)).value["by"] == "bob"
    assert len([line for line in lines if f"does not count: `{field}`" in line]) == 1


async def test_a_comment_is_data() -> None:
    asked = Asked()
    comment = "${params.x} \x1b[2J\0\ud800 s3cret"
    async with performing(asked) as task:
        asked.approvals.receive([request(comment=comment)])
        value = (await ended(task)).value
    assert value["comment"] == "${params.x} \x1b[2J�� ***"
    assert b"s3cret" not in asked.saved[-1]
