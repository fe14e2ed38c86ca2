"""What the driver of a workflow needs of an activity. Each visit of a state has a `Step` of its own."""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import msgspec

from fsm_runner.process.child.child import Child
from fsm_runner.protocol.statuses import StopSignal
from fsm_runner.protocol.wire import JsonObject, Run
from fsm_runner.workflow.definition import Activity, Ending, State


class Visit(msgspec.Struct, frozen=True, kw_only=True):
    """One visit of a state, which is in the journal before its step begins."""

    run: Run
    """The run to which the workflow belongs."""
    project_dir: Path
    runner_id: str
    number: int
    """The number of the visit in the workflow; the first one is 1."""
    workflow: str = ""
    """The name of the workflow."""
    state_name: str
    state: State
    arguments: Activity
    """The activity with all templates expanded, but `each` and what contains `${item}` or `${index}`."""
    schema: JsonObject | None
    due_s: float | None
    """The deadline as Unix time, in seconds. The driver ends the step then; None: without a limit."""
    progress: bytes | None = None
    """What the step has saved in this visit, perhaps in an earlier process."""
    save: Callable[[bytes], None]
    """Record progress in the journal. Does not block."""


class Ended(msgspec.Struct, frozen=True):
    """How a step ended, and the value that it produced."""

    ending: Ending
    value: JsonObject
    """The fields of the activity (docs/workflows.md, "Values"), with `ok` and `error`. The driver cleans it."""


class Step(Protocol):
    """One visit's activity."""

    @property
    def process(self) -> Child | None:
        """The process that works in this runner for the step; None if there is none."""

    async def perform(self) -> Ended:
        """Carry out the activity, or continue it after an interruption, and return its result.

        Cancelling this ends nothing: the driver calls `stop` or `aclose` then. Raises `FsmRunnerError` for a fault that
        ends the whole run, such as a limit of the provider.
        """

    async def stop(self) -> StopSignal:
        """End everything that the step has started, and return what it took. May be called before `perform` began."""

    async def aclose(self) -> None:
        """Kill what the step has started in this process, and release what it holds. Also called after the end."""
