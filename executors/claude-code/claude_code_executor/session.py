"""Runs a session: one Claude Code process, which gets the runner's turns as prompts."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator
from contextlib import aclosing

from claude_code_executor.config import decode_config
from claude_code_executor.environment import check_environment, remove_private_variables
from claude_code_executor.event_reporter import EventReporter
from claude_code_executor.program import Program, running_program
from fsm_executor import ExecutorError, Session, Turn

NOT_FOUND = 404


async def run_session(session: Session) -> None:
    """Raises `ExecutorError` if a turn fails, because an executor reports a failure by exiting."""
    config = decode_config(session.invocation.executor_config)
    check_environment(os.environ, config, os.geteuid())
    resume = await _conversation_id(session) if session.resumed else None
    # The first use reads the environment.
    _ = session.gateway
    remove_private_variables()
    async with running_program(session.invocation, config, resume) as program:
        reporter = EventReporter(session, program, config)
        async with aclosing(_turns(session, program)) as turns:
            async for turn in turns:
                await reporter.run_turn(turn)


async def _turns(session: Session, program: Program) -> AsyncGenerator[Turn, None]:
    """Yield the session's turns. Raises `ProgramEnded` if the program ends between two of them."""
    turns = session.turns()
    ended = asyncio.ensure_future(program.ended())
    try:
        while True:
            next_turn = asyncio.ensure_future(anext(turns, None))
            try:
                await asyncio.wait({next_turn, ended}, return_when=asyncio.FIRST_COMPLETED)
                if not next_turn.done():
                    raise program.end_error()
            finally:
                next_turn.cancel()
            turn = await next_turn
            if turn is None:
                return
            yield turn
    finally:
        ended.cancel()


async def _conversation_id(session: Session) -> str:
    """Return the program's id of the session to resume (protocol.md, section 2.2), and set `last_resumed_at`."""
    status, answer = await session.request("GET", f"/sessions/{session.id}")
    if status == NOT_FOUND:
        raise ExecutorError(f"session {session.id} not found: the coordinator does not know it")
    if not 200 <= status < 300:
        raise ExecutorError(f"session {session.id} cannot be resumed: the coordinator answered with {status}: {answer}")
    found = answer.get("session", answer) if isinstance(answer, dict) else {}
    conversation_id = found.get("executor_session_id") if isinstance(found, dict) else None
    if not isinstance(conversation_id, str) or not conversation_id:
        raise ExecutorError(
            f"session {session.id} has no executor_session_id, so there is no conversation to resume; "
            "start a new session"
        )
    await session.metadata(last_resumed_at=session.now())
    return conversation_id
