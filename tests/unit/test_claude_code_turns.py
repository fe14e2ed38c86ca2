"""Turns of the Claude Code executor: their end and failures."""

import asyncio
from typing import cast

import pytest
from claude_agent_sdk import ResultMessage, SystemMessage, TextBlock, UserMessage
from claude_agent_sdk.types import Message

from claude_code_executor import stall_monitor
from claude_code_executor.config import Config
from claude_code_executor.program import Program
from claude_code_executor.program_state import Phase, ProgramState
from claude_code_executor.results import TurnFailed, TurnResults
from claude_code_executor.stall_monitor import StallMonitor

PROMPT_ID = "the id of the prompt"
WARNING = SystemMessage("informational", {"level": "warning", "content": "9 times."})
FEEDBACK = UserMessage([TextBlock("Stop hook feedback:\ngo on")])
REFUSAL = SystemMessage("informational", {"prompt_submit_outcome": {"kind": "blocked", "reason": "not that"}})


def result(**fields: object) -> ResultMessage:
    given = {"subtype": "success", "duration_ms": 1, "duration_api_ms": 1, "is_error": False, "num_turns": 2}
    return ResultMessage(**{"session_id": "s", **given, **fields})  # type: ignore[arg-type]  # each test names its own


def results(*answers: ResultMessage) -> TurnResults:
    found = TurnResults(PROMPT_ID)
    for answer in answers:
        found.record(answer)
    return found


def test_a_turn_is_answered_by_the_result_of_its_prompt() -> None:
    notified = result(origin={"kind": "task-notification"})
    own = result(user_message_uuid=PROMPT_ID)
    assert not results(notified).is_answered
    assert results(notified, own).is_answered
    assert results(own, notified).is_answered
    # The program may not name the prompt.
    assert results(result()).is_answered


def test_the_last_result_counts_for_which_the_model_was_asked() -> None:
    answers = [result(result="one"), result(result="two"), result(result="", num_turns=0)]
    assert results(*answers).last.result == "two"
    assert results(result(result="/cost", num_turns=0)).last.result == "/cost"


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ([result(result="", terminal_reason="hook_stopped")], "a hook has stopped the turn"),
        ([WARNING, result(result="")], "ended without an answer: 9 times"),
        ([WARNING, FEEDBACK, result(result="")], r"9 times\. Stop hook feedback: go on"),
        ([REFUSAL, result(result="blocked", num_turns=0)], "UserPromptSubmit hook has blocked the prompt: not that"),
    ],
    ids=["stopped", "warned", "feedback", "refused"],
)
def test_an_answer_that_hooks_have_prevented_is_a_failure(messages: list[Message], reason: str) -> None:
    found = TurnResults(PROMPT_ID)
    for message in messages:
        found.record(message)
    with pytest.raises(TurnFailed, match=reason):
        found.raise_missing_answer()


@pytest.mark.parametrize(
    "messages",
    [
        [result(result="")],
        [WARNING, result(result="an answer")],
        [WARNING, result(structured_output={})],
        [REFUSAL, result(result="an answer")],
    ],
    ids=["no words", "an answer", "data", "a later prompt"],
)
def test_an_answer_is_one_whatever_the_hooks_say(messages: list[Message]) -> None:
    found = TurnResults(PROMPT_ID)
    for message in messages:
        found.record(message)
    found.raise_missing_answer()


def session_state(name: str) -> SystemMessage:
    return SystemMessage("session_state_changed", {"state": name})


def background(*task_ids: str, **fields: object) -> SystemMessage:
    tasks = [{"task_id": task_id, "description": f"task {task_id}", **fields} for task_id in task_ids]
    return SystemMessage("background_tasks_changed", {"tasks": tasks})


@pytest.mark.parametrize(
    ("messages", "phase", "is_done"),
    [
        ([session_state("running")], Phase.WORKING, False),
        ([session_state("running"), session_state("idle")], Phase.IDLE, True),
        ([background("a"), session_state("idle")], Phase.IDLE, False),
        ([background("a"), background(), session_state("idle")], Phase.IDLE, True),
        # When a task ends while the program is idle, it starts a turn or reports idle again.
        ([background("a"), session_state("idle"), background()], Phase.BETWEEN, False),
        ([background("a"), session_state("idle"), background(), session_state("running")], Phase.WORKING, False),
        ([background("a"), session_state("idle"), background(), session_state("idle")], Phase.IDLE, True),
        ([background("a"), session_state("idle"), background("a", "b")], Phase.IDLE, False),
        # So it does after the end of a turn without background tasks, and after the end of those.
        ([result()], Phase.BETWEEN, False),
        ([result(), session_state("idle")], Phase.IDLE, True),
        ([result(), SystemMessage("init", {})], Phase.WORKING, False),
        ([background("a"), result()], Phase.WORKING, False),
        ([background("a"), result(), background()], Phase.BETWEEN, False),
        ([background("a", ambient=True), background("b", off_host=True), session_state("idle")], Phase.IDLE, True),
    ],
)
def test_the_program_is_done_when_it_is_idle_with_nothing_in_the_background(
    messages: list[Message], phase: Phase, is_done: bool
) -> None:
    state = ProgramState()
    state.record_prompt()
    for message in messages:
        state.record(message)
    assert (state.phase, state.is_done) == (phase, is_done)


def test_only_background_work_continues_after_the_turn_of_the_model() -> None:
    state = ProgramState()
    state.record_prompt()
    state.record(background("a"))
    assert not state.is_in_background
    state.record(result())
    assert state.is_in_background


@pytest.mark.parametrize(("task_type", "has_agents"), [("local_agent", True), ("local_bash", False)])
def test_subagents_are_distinguished_from_commands(task_type: str, has_agents: bool) -> None:
    state = ProgramState()
    state.record(background("a", task_type=task_type))
    assert state.has_agents is has_agents
    state.record(background())
    assert not state.has_agents


def test_background_work_that_is_abandoned_may_still_lead_to_a_turn() -> None:
    state = ProgramState()
    for message in (background("a"), session_state("idle")):
        state.record(message)
    state.forget_background()
    assert (state.background, state.phase) == ({}, Phase.BETWEEN)
    state.assume_idle()
    assert state.is_done


class SilentProgram:
    """A program that sends no further messages."""

    def __init__(self, *messages: Message) -> None:
        self.state = ProgramState()
        self.state.record_prompt()
        for message in messages:
            self.state.record(message)
        self.was_stopped = False

    async def next_message(self) -> Message:
        await asyncio.Event().wait()
        raise AssertionError

    async def stop_background(self) -> None:
        self.was_stopped = True


async def wait_for(program: SilentProgram, config: Config) -> list[str]:
    """Return the status details that are reported until a time limit is reached."""
    details: list[str] = []

    async def report_detail(detail: str) -> None:
        details.append(detail)

    assert await StallMonitor(cast(Program, program), config, report_detail, lambda: ()).next_message() is None
    return details


async def test_a_turn_that_the_program_does_not_begin_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stall_monitor, "BETWEEN_LIMIT_S", 0.01)
    idle = SilentProgram(background("a"), result(), session_state("idle"), background())
    assert await wait_for(idle, Config()) == []
    assert idle.state.is_done


async def test_other_background_work_continues_if_the_program_begins_no_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stall_monitor, "BETWEEN_LIMIT_S", 0.01)
    program = SilentProgram(background("a", "b"), result(), session_state("idle"), background("b"))
    assert await wait_for(program, Config()) == ["the turn waits for background work: task b"]
    assert (program.was_stopped, program.state.phase) == (False, Phase.IDLE)


async def test_background_work_that_is_silent_is_stopped_after_its_limit() -> None:
    program = SilentProgram(background("a"), result(), session_state("idle"))
    details = await wait_for(program, Config(stall_notice_s=0.02, background_limit_s=0.05))
    assert details == [
        "the turn waits for background work: task a",
        "no progress for 0.02 s: the turn waits for background work: task a",
        "no progress for 0.04 s: the turn waits for background work: task a",
        "background work is stopped after 0.05 s without progress: task a",
    ]
    assert program.was_stopped
