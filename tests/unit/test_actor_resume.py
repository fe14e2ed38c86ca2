"""An actor records each step, and continues where an earlier process ended."""

import asyncio
import tomllib

import pytest

from fsm_runner.errors import FsmRunnerError
from fsm_runner.journal.records import Transition
from fsm_runner.machine.check import check
from fsm_runner.machine.decoder import decode
from fsm_runner.machine.engine import Machine, Step
from fsm_runner.runtime.actors.actor import Actor, Position
from tests.support.record import InstantRecord
from tests.support.virtual_time import run_virtually

CHORE = """
name = "chore"
initial = "begun"

[events]
interrupted = "The process ended."
quit = "No more of it."

[states.begun]
invoke = "work"
timeout_s = 10
on_done = "worked"
on_error = "broke"
on_timeout = "took_too_long"

[states.repairing]
invoke = "repair"
timeout_s = 10
on_done = "repaired"
on_error = "broke"
on_timeout = "took_too_long"
ignore = ["interrupted"]

[states.done]
final = true
tone = "neutral"
outcome = "done"

[states.spoiled]
final = true
tone = "neutral"
outcome = "spoiled"

[[transitions]]
from = "begun"
event = "interrupted"
to = "repairing"
decides = "spoiled"
[[transitions]]
from = "begun"
event = "worked"
to = "done"
decides = "done"
[[transitions]]
from = "repairing"
event = "repaired"
to = "done"
decides = "done"
[[transitions]]
from = ["begun", "repairing"]
event = "quit"
to = "done"
decides = "done"
[[transitions]]
from = ["begun", "repairing"]
event = "broke"
to = "spoiled"
decides = "spoiled"
[[transitions]]
from = ["begun", "repairing"]
event = "took_too_long"
to = "spoiled"
decides = "spoiled"
"""


class Chore(Actor):
    def __init__(self, resume_from: Position | None, work_error: Exception | None = None) -> None:
        decoded = decode(tomllib.loads(CHORE))
        assert not decoded.problems
        assert check(decoded.spec) == ()
        self.record = InstantRecord()
        self.performed: list[str] = []
        self.passed: list[Step] = []
        self._work_error = work_error
        activities = {"work": self._work, "repair": self._mend}
        super().__init__("chore 1", Machine(decoded.spec), activities, recorder=self.record, resume_from=resume_from)

    def on_step(self, step: Step, payload: object) -> None:
        self.passed.append(step)

    async def _work(self) -> str:
        self.performed.append("work")
        await asyncio.sleep(1)
        if self._work_error is not None:
            raise self._work_error
        return "well done"

    async def _mend(self) -> int:
        self.performed.append("repair")
        return 3


def lived(resume_from: Position | None, work_error: Exception | None = None, quit_reason: object = None) -> Chore:
    async def live() -> Chore:
        chore = Chore(resume_from, work_error)
        if quit_reason is not None:
            asyncio.get_running_loop().call_later(0.5, chore.post, "quit", quit_reason)
        assert await chore.run() == chore.state
        return chore

    return run_virtually(live)


def step(event: str, source: str | None, target: str, outcome: str | None, reason: str = "") -> Transition:
    return Transition("chore", "chore 1", event, source, target, outcome, reason)


def test_a_life_is_recorded_from_its_beginning() -> None:
    chore = lived(None)
    assert chore.record.steps == [
        step("begun", None, "begun", None),
        step("worked", "begun", "done", "done", "well done"),
    ]
    assert [passed.event for passed in chore.passed] == ["worked"]


def test_a_resumed_life_begins_with_the_interruption() -> None:
    chore = lived(Position("begun", None))
    assert chore.performed == ["repair"]
    assert chore.record.steps == [
        step("interrupted", "begun", "repairing", "spoiled"),
        step("repaired", "repairing", "done", "spoiled"),
    ]
    assert [passed.event for passed in chore.passed] == ["interrupted", "repaired"]


def test_a_state_that_ignores_the_interruption_is_entered_again_and_recorded() -> None:
    chore = lived(Position("repairing", "spoiled"))
    assert chore.performed == ["repair"]
    assert chore.record.steps == [
        step("interrupted", "repairing", "repairing", "spoiled"),
        step("repaired", "repairing", "done", "spoiled"),
    ]
    assert [passed.event for passed in chore.passed] == ["repaired"]


def test_the_outcome_of_an_earlier_process_is_kept() -> None:
    assert lived(Position("repairing", "spoiled")).model.outcome == "spoiled"
    assert lived(Position("repairing", None)).model.outcome == "done"


def test_a_life_without_a_recorded_transition_is_resumed_from_the_initial_state() -> None:
    chore = lived(Position("", None))
    assert chore.performed == ["repair"]
    assert chore.model.outcome == "spoiled"
    assert chore.record.steps[0] == step("interrupted", "begun", "repairing", "spoiled")


def test_a_life_in_a_final_state_ends_at_once() -> None:
    chore = lived(Position("done", "done"))
    assert (chore.performed, chore.passed) == ([], [])


@pytest.mark.parametrize(
    ("error", "reason"),
    [(FsmRunnerError("no brush"), "no brush"), (OSError(2, "gone"), "[Errno 2] gone"), (ValueError(), "ValueError")],
)
def test_the_reason_of_a_failed_activity_is_recorded(error: Exception, reason: str) -> None:
    assert lived(None, error).record.steps[-1] == step("broke", "begun", "spoiled", "spoiled", reason)


@pytest.mark.parametrize(("said", "reason"), [("an operator wants it", "an operator wants it"), (42, "")])
def test_the_reason_of_a_posted_event_is_recorded(said: object, reason: str) -> None:
    assert lived(None, quit_reason=said).record.steps[-1] == step("quit", "begun", "done", "done", reason)


def test_an_ignored_event_is_not_recorded() -> None:
    async def live() -> Chore:
        chore = Chore(Position("repairing", None))
        chore.post("interrupted")
        await chore.run()
        return chore

    assert [each.event for each in run_virtually(live).record.steps] == ["interrupted", "repaired"]
