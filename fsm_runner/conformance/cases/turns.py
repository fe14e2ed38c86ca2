"""A persistent executor between turns (protocol.md, section 2)."""

import asyncio
from typing import Any

from fsm_runner.conformance import judgement
from fsm_runner.conformance.attempt import Attempt, json_line
from fsm_runner.conformance.case import Case, CaseFailed
from fsm_runner.conformance.trial import Trial

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


async def further_turns(attempt: Attempt) -> None:
    async with attempt.idle_trial() as trial:
        for number in range(1, FURTHER_TURNS + 1):
            await _further_turn(attempt, trial, f"further turn {number}")
        judgement.timestamps(trial.record.events())


async def unknown_messages(attempt: Attempt) -> None:
    async with attempt.idle_trial() as trial:
        for line in NOISE:
            await trial.write(line)
        await _further_turn(attempt, trial, "the turn that came after lines without meaning", unknown={"field": [1]})
        await attempt.shut_down(trial)
        if (count := len(trial.record.turns_completed)) > TURNS_WITH_NOISE:
            raise CaseFailed(
                f"it completed {count} turns, where {TURNS_WITH_NOISE} were asked for, the rest being noise"
            )


async def stays(attempt: Attempt) -> None:
    async with attempt.idle_trial() as trial:
        try:
            async with asyncio.timeout(min(IDLE_S, attempt.grace_s)):
                await trial.ended()
        except TimeoutError:
            return
        raise CaseFailed(f"it ended {trial.how_it_ended} after its turn, with its stdin open and no shutdown")


async def _further_turn(attempt: Attempt, trial: Trial, name: str, **unknown: Any) -> None:
    told_before = len(trial.record.results())
    await trial.take_turn(json_line({"type": "turn", "parameters": attempt.stage.parameters, **unknown}))
    judgement.one_result(trial.record.results()[told_before:], name)


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
