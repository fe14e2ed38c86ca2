"""A persistent executor between turns (protocol.md, section 2)."""

import asyncio
from typing import Any

from fsm_runner.conformance import assertions
from fsm_runner.conformance.case import Case, CaseFailed
from fsm_runner.conformance.case_context import CaseContext, json_line
from fsm_runner.conformance.executor_process import ExecutorProcess

FURTHER_TURNS = 3
IDLE_S = 0.5
"""So long an executor is watched that should only wait."""

TURNS_WITH_NOISE = 2
"""The first one and the one that comes after the noise."""
NOISE = (
    b"this is no JSON\n",
    b"\n",
    b"[1, 2]\n",
    json_line({"type": "weather", "parameters": {"prompt": "not a turn"}}),
    json_line({"parameters": {"prompt": "not a turn either"}}),
)


async def further_turns(context: CaseContext) -> None:
    async with context.idle_trial() as process:
        for number in range(1, FURTHER_TURNS + 1):
            await _further_turn(context, process, f"further turn {number}")
        assertions.timestamps(process.record.events())


async def unknown_messages(context: CaseContext) -> None:
    async with context.idle_trial() as process:
        for line in NOISE:
            await process.write(line)
        await _further_turn(context, process, "the turn that came after lines without meaning", unknown={"field": [1]})
        await context.shut_down(process)
        if (count := len(process.record.turns_completed)) > TURNS_WITH_NOISE:
            raise CaseFailed(
                f"it completed {count} turns, where {TURNS_WITH_NOISE} were asked for, the rest being noise"
            )


async def stays(context: CaseContext) -> None:
    async with context.idle_trial() as process:
        try:
            async with asyncio.timeout(min(IDLE_S, context.grace_s)):
                await process.ended()
        except TimeoutError:
            return
        raise CaseFailed(f"it ended {process.how_it_ended} after its turn, with its stdin open and no shutdown")


async def _further_turn(context: CaseContext, process: ExecutorProcess, name: str, **unknown: Any) -> None:
    told_before = len(process.record.results())
    await process.take_turn(json_line({"type": "turn", "parameters": context.environment.parameters, **unknown}))
    assertions.one_result(process.record.results()[told_before:], name)


CASES = (
    Case(
        name="stays",
        asks="It stays after its turn and waits for the next.",
        check=stays,
        lifecycles=("persistent",),
        needs_start=True,
    ),
    Case(
        name="further-turns",
        asks=f"It carries out {FURTHER_TURNS} further turns, each with one new result event.",
        check=further_turns,
        lifecycles=("persistent",),
        needs_start=True,
    ),
    Case(
        name="unknown-messages",
        asks="Between turns it passes over lines that are no JSON, and messages that it does not know.",
        check=unknown_messages,
        lifecycles=("persistent",),
        needs_start=True,
    ),
)
