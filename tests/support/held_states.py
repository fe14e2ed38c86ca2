"""Holds workflows at states, so that a test can end them there."""

import asyncio
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fsm_runner.runtime.workflow.step import Ended, Step, Visit
from fsm_runner.runtime.workflow.steps import Steps
from fsm_runner.workflow.interpreter import Interpreter
from tests.support.watch import Watch

BEFORE, AFTER, LATE = "before", "after", "late"
"""The moments: the visit is on disk and its activity has not begun; the activity has ended, and the journal does not
have that; the time limit has passed when the activity begins, which is not held."""


def place(state: str, moment: str) -> str:
    """Return the name of the project directory of a run that is held at the first visit of this state."""
    return f"{state}-{moment}"


class HeldStates:
    """Holds the run in each project directory whose name is a `place`, once."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._reached: set[str] = set()
        self._watch = Watch(lambda: f"reached: {', '.join(sorted(self._reached))}")
        self._step_of = Steps.step_of
        self._visit_of = Steps.visit_of
        held = self

        def visit_of(steps: Steps, *arguments: Any) -> Visit:
            visit = held._visit_of(steps, *arguments)
            if held._moment_of(visit) != LATE:
                return visit
            held._note(visit)
            return msgspec.structs.replace(visit, due_s=time.time())

        def step_of(steps: Steps, visit: Visit, interpreter: Interpreter, *, is_interruption: bool) -> Step:
            step = held._step_of(steps, visit, interpreter, is_interruption=is_interruption)
            if (moment := held._moment_of(visit)) in (BEFORE, AFTER):
                perform = step.perform

                async def performed() -> Ended:
                    ended = await perform() if moment == AFTER else None
                    held._note(visit)
                    await asyncio.Event().wait()
                    raise AssertionError(ended)

                step.perform = performed  # type: ignore[method-assign]
            return step

        monkeypatch.setattr(Steps, "visit_of", visit_of)
        monkeypatch.setattr(Steps, "step_of", step_of)

    async def reached(self, places: Iterable[str]) -> None:
        wanted = set(places)
        await self._watch.until(lambda: wanted <= self._reached, f"workflows at {', '.join(sorted(wanted))}")

    def _moment_of(self, visit: Visit) -> str | None:
        state, _, moment = Path(visit.project_dir).name.rpartition("-")
        is_held = state == visit.state_name and place(state, moment) not in self._reached
        return moment if is_held else None

    def _note(self, visit: Visit) -> None:
        self._reached.add(Path(visit.project_dir).name)
        self._watch.changed()
