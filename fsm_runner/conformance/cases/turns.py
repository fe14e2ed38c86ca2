"""Further turns of a persistent executor (protocol.md, section 2)."""

import asyncio
from typing import Any

from fsm_runner.conformance import assertions
from fsm_runner.conformance.case import PERSISTENT, CaseContext, case, json_line
from fsm_runner.conformance.executor_process import ExecutorProcess
from fsm_runner.conformance.result import CaseFailed

FURTHER_TURNS = 3
IDLE_S = 0.5
"""The time for which an idle executor is observed."""

TURNS_WITH_NOISE = 2
"""The first turn and the one after the noise."""
NOISE = (
    b"this is no JSON\n",
    b"\n",
    b"[1, 2]\n",
    json_line({"type": "weather", "parameters": {"prompt": "not a turn"}}),
    json_line({"parameters": {"prompt": "not a turn either"}}),
)


@case(
    "further-turns",
    f"It completes {FURTHER_TURNS} further turns, each with one result event.",
    lifecycles=PERSISTENT,
    needs_start=True,
)
async def further_turns(context: CaseContext) -> None:
    async with context.idle_process() as process:
        for number in range(1, FURTHER_TURNS + 1):
            await _run_further_turn(context, process, f"further turn {number}")
        assertions.valid_timestamps(process.record.events())


@case(
    "unknown-messages",
    "Between turns it ignores lines that are not JSON and messages that it does not know.",
    lifecycles=PERSISTENT,
    needs_start=True,
)
async def unknown_messages(context: CaseContext) -> None:
    async with context.idle_process() as process:
        for line in NOISE:
            await process.write(line)
        await _run_further_turn(context, process, "the turn after the invalid lines", unknown={"field": [1]})
        await context.shut_down(process)
        if (count := len(process.record.turns_completed)) > TURNS_WITH_NOISE:
            raise CaseFailed(
                f"it completed {count} turns; expected {TURNS_WITH_NOISE}, since the other lines are not turns"
            )


@case("stays", "It keeps running after a turn and waits for the next one.", lifecycles=PERSISTENT, needs_start=True)
async def stays(context: CaseContext) -> None:
    async with context.idle_process() as process:
        try:
            async with asyncio.timeout(min(IDLE_S, context.grace_s)):
                await process.ended()
        except TimeoutError:
            return
        raise CaseFailed(f"it exited {process.how_it_ended} after its turn, without a shutdown and with its stdin open")


async def _run_further_turn(context: CaseContext, process: ExecutorProcess, name: str, **unknown: Any) -> None:
    results_before = len(process.record.results())
    await process.run_turn(json_line({"type": "turn", "parameters": context.environment.parameters, **unknown}))
    assertions.one_result(process.record.results()[results_before:], name)


CASES = (stays, further_turns, unknown_messages)
