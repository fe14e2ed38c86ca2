"""What all runs of one runner share."""

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import msgspec

from fsm_runner.executors.interface import Executor
from fsm_runner.machine.engine import Machine
from fsm_runner.process.user import RunUser
from fsm_runner.protocol import wire
from fsm_runner.protocol.approvals import ListedApproval
from fsm_runner.reporting.session_channel import ReportingContext
from fsm_runner.runtime.actors.record import Record
from fsm_runner.runtime.blueprint import RunnerValues
from fsm_runner.runtime.control.budgets import NO_BUDGETS, Budgets
from fsm_runner.runtime.control.silence import SilenceLimit
from fsm_runner.runtime.expectations import ExpectationContext

if TYPE_CHECKING:
    from fsm_runner.runtime.workflow.workflows import Workflows


class Observer:
    """Receives the progress of runs; this one ignores it. The methods must not block."""

    def entered(self, run: wire.Run, state: str, *, final: bool) -> None:
        """The run entered a state."""

    def reported(self, run: wire.Run, state: str, detail: str) -> None:
        """The run has a status detail, from its executor or from the runner."""

    def asked(self, approval: ListedApproval) -> None:
        """The workflow of a run waits for an approval."""


class RunContext(msgspec.Struct, frozen=True, kw_only=True):
    """Shared by all runs of one runner."""

    machine: Machine
    executor: Executor
    reporting: ReportingContext
    record: Record
    look_up: Callable[[str], Awaitable[wire.RunState | None]]
    """Returns the run's state at the coordinator, waiting through outages; None if it knows no such run."""
    project_dir: str
    """The working directory of runs that name none."""
    runner_values: RunnerValues
    run_timeout_s: float | None
    retry_interrupted: bool
    """Whether a run is executed again after the runner process ended during the run."""
    observer: Observer
    expectations: ExpectationContext = msgspec.field(default_factory=ExpectationContext)
    budgets: Budgets = NO_BUDGETS
    user: RunUser | None = None
    """The user that executors run as; None: the runner's own."""
    workflows: "Workflows | None" = None
    """None: runs follow no workflows."""
    silence_limit: SilenceLimit | None = None
    """How long a run may be silent; None: no limit."""
