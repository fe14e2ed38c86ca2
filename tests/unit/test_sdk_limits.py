"""Turns of the SDK that end at a limit, with input that ends before, between or after them."""

import json
from typing import Any

import pytest

from fsm_executor.clock import EventClock
from fsm_executor.errors import ExecutorError
from fsm_executor.invocation import invocation_of
from fsm_executor.session import Session

INVOCATION = {"schema_version": "2.2", "mode": "start", "session_id": "ses_1", "parameters": {"prompt": "0"}}
LIMITED = {"type": "turn_complete", "result": "", "limited": True}


class UnconnectedSession(Session):
    """Sends no messages, and keeps the lines that it writes."""

    def __init__(self) -> None:
        self.lines: list[Any] = []
        super().__init__(
            invocation_of(INVOCATION), lambda line: self.lines.append(json.loads(line)), EventClock(), lambda: None
        )

    async def metadata(self, **fields: Any) -> None:
        pass

    async def event(self, fields: dict[str, Any]) -> None:
        pass


async def take_turns(session: Session, *limited: str) -> list[str]:
    """Take all turns; those with one of these prompts end at a limit. Return the prompts."""
    prompts = []
    async for turn in session.turns():
        prompts.append(turn.prompt)
        if turn.prompt in limited:
            await turn.limited("five_hour")
        else:
            await turn.complete("done")
    return prompts


async def test_without_further_input_the_turn_raises_and_writes_no_line() -> None:
    session = UnconnectedSession()
    session.end_of_input()
    async for turn in session.turns():
        with pytest.raises(ExecutorError, match="the limit five_hour is reached; the time of its reset is unknown"):
            await turn.limited("five_hour")
        assert turn.completed
        break
    assert session.lines == []
    assert not session.turn_in_progress
    assert session.limit_reached is not None


async def test_a_turn_that_has_arrived_is_taken_although_the_input_has_ended() -> None:
    session = UnconnectedSession()
    session.add_turn({"prompt": "1"})
    session.end_of_input()
    assert await take_turns(session, "0") == ["0", "1"]
    assert session.lines == [LIMITED, {"type": "turn_complete", "result": "done"}]
    assert session.limit_reached is None


async def test_the_end_of_input_fails_a_session_only_if_its_last_turn_was_limited() -> None:
    session = UnconnectedSession()
    session.add_turn({"prompt": "1"})
    session.end_of_input()
    with pytest.raises(ExecutorError, match="five_hour"):
        await take_turns(session, "1")
    assert session.lines == [{"type": "turn_complete", "result": "done"}]


async def test_a_stop_of_the_runner_ends_a_limited_session_without_an_error() -> None:
    session = UnconnectedSession()
    session.stop()
    session.end_of_input()
    assert await take_turns(session, "0") == ["0"]
    assert session.lines == [LIMITED]
    assert session.limit_reached is None
