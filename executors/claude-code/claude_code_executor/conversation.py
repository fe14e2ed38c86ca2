"""A session: one program, and the runner's turns as its own."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator
from contextlib import aclosing

from claude_code_executor.config import decoded_config
from claude_code_executor.narrator import Narrator
from claude_code_executor.program import Program, running_program
from claude_code_executor.surroundings import check_surroundings, leave_own_variables_out
from fsm_executor import ExecutorError, Session
from fsm_executor.turn import Turn

NOT_FOUND = 404


async def converse(session: Session) -> None:
    """Raises `ExecutorError` where a turn fails: the protocol's way to say so is to end."""
    config = decoded_config(session.invocation.executor_config)
    check_surroundings(os.environ, config, os.geteuid())
    resume = await _conversation_id(session) if session.resumed else None
    # It is read from the environment when it is used for the first time.
    _ = session.gateway
    leave_own_variables_out()
    async with running_program(session.invocation, config, resume) as program:
        narrator = Narrator(session, program, config)
        async with aclosing(_turns(session, program)) as turns:
            async for turn in turns:
                await narrator.carry_out(turn)


async def _turns(session: Session, program: Program) -> AsyncGenerator[Turn, None]:
    """As they come. Raises `ProgramEnded` where the program ends in between."""
    turns = session.turns()
    ended = asyncio.ensure_future(program.ended())
    try:
        while True:
            coming = asyncio.ensure_future(anext(turns, None))
            try:
                await asyncio.wait({coming, ended}, return_when=asyncio.FIRST_COMPLETED)
                if not coming.done():
                    raise program.ending()
            finally:
                coming.cancel()
            turn = await coming
            if turn is None:
                return
            yield turn
    finally:
        ended.cancel()


async def _conversation_id(session: Session) -> str:
    """What the program has called this session (protocol.md, section 2.2: resume)."""
    status, answer = await session.request("GET", f"/sessions/{session.id}")
    if status == NOT_FOUND:
        raise ExecutorError(f"session {session.id} not found: the coordinator does not know it")
    if not 200 <= status < 300:
        raise ExecutorError(f"session {session.id} cannot be resumed: the coordinator answered with {status}: {answer}")
    found = answer.get("session", answer) if isinstance(answer, dict) else {}
    conversation_id = found.get("executor_session_id") if isinstance(found, dict) else None
    if not isinstance(conversation_id, str) or not conversation_id:
        raise ExecutorError(f"session {session.id} has no executor_session_id, so there is no conversation to resume")
    await session.metadata(last_resumed_at=session.now())
    return conversation_id
