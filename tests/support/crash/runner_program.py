"""`fsm-runner` that kills itself: `python -m tests.support.crash.runner_program KILL_POINT [FAULT…] -- ARGUMENTS`.

It imports `fsm_runner` only when needed, so that the fork server can import this module's libraries before it forks.
"""

import os
import signal
import sys
from functools import partial
from typing import TYPE_CHECKING, NoReturn
from unittest.mock import patch

from tests.support.crash.kill_points import (
    BEFORE,
    WRITTEN,
    RecordKillPoint,
    StepKillPoint,
    WriteKillPoint,
    parse_kill_point,
)

if TYPE_CHECKING:
    from fsm_runner.journal.batch import Batch
    from fsm_runner.journal.journal import Journal
    from fsm_runner.journal.writer import Writer
    from fsm_runner.runtime.actors.actor import Actor

WRITE_COUNT_PREFIX = "journal writes:"
"""Begins the last line on stderr of a runner that has not killed itself; the number of writes follows."""
NO_FLUSH_S = 3600.0

# Faults that cannot be caused from outside the process.
HOLD_ACCEPT = "--hold-accept"
"""Runs stay in `claimed`."""
HOLD_START = "--hold-start"
"""Sessions stay in `starting`."""
BREAK_STOP = "--break-stop"
"""Stopping a run or a session fails."""
FEW_DESCRIPTORS = "--few-descriptors"
"""There are file descriptors for one run only."""
SLOW_ADMISSION = "--slow-admission"
"""No run continues after a limit."""
BREAK_WAIT = "--break-wait"
"""Waiting for a limit fails."""
OTHER_LIMIT = "--other-limit"
"""Another run meets a limit of the credential at the moment in which the first run is claimed."""
EXCEED_BUDGET_WAITING = "--exceed-budget-waiting"
"""A run exceeds its budget while it waits for a limit."""
HOLD_CHECK = "--hold-check"
"""The check of a run's result does not end."""
BREAK_WORKFLOW_WAIT = "--break-workflow-wait"
"""The waits of workflows fail."""
EXCEED_BUDGET_IN_WORKFLOW = "--exceed-budget-in-workflow"
"""A run exceeds its budget while its workflow waits."""


def kill_self() -> NoReturn:
    """End at once: no thread continues, no buffer is flushed, no `finally` runs."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise SystemError("survived SIGKILL")


def main(arguments: list[str]) -> None:
    """Run `fsm-runner`. `arguments`: the kill point, the faults, `--`, the arguments of `fsm-runner`."""
    at = arguments.index("--")
    point, injected_faults = parse_kill_point(arguments[0]), arguments[1:at]
    _shorten_retries()
    _shorten_waits()
    writes = _count_writes(point if isinstance(point, WriteKillPoint) else None)
    if isinstance(point, StepKillPoint):
        _flush_only_on_request()
        _kill_at_step(point)
    if isinstance(point, RecordKillPoint):
        _kill_at_record(point)
    for wanted, install in (
        (HOLD_ACCEPT, _hold_accept),
        (HOLD_START, _hold_start),
        (BREAK_STOP, _break_stop),
        (FEW_DESCRIPTORS, _limit_descriptors),
        (SLOW_ADMISSION, _hold_admission),
        (BREAK_WAIT, _break_wait),
        (OTHER_LIMIT, _reach_limit_elsewhere),
        (EXCEED_BUDGET_WAITING, _exceed_budget_waiting),
        (HOLD_CHECK, _hold_check),
        (BREAK_WORKFLOW_WAIT, _break_workflow_wait),
        (EXCEED_BUDGET_IN_WORKFLOW, _exceed_budget_in_workflow),
    ):
        if wanted in injected_faults:
            install()
    from fsm_runner.cli import main as fsm_runner

    sys.argv = ["fsm-runner", *arguments[at + 1 :]]
    try:
        fsm_runner()
    finally:
        print(WRITE_COUNT_PREFIX, writes[0], file=sys.stderr, flush=True)  # noqa: T201


def _shorten_retries() -> None:
    from fsm_runner.app.build import assembled_runner
    from fsm_runner.cli import runner
    from fsm_runner.coordinator_client.policy import Policies
    from fsm_runner.util.retry import RetryPolicy

    quick = RetryPolicy(base_s=0.01, cap_s=0.05)
    in_time = RetryPolicy(base_s=0.01, cap_s=0.05, limit_s=10)
    policies = Policies(
        register=quick,
        registration_conflict=in_time,
        poll=quick,
        short_poll=quick,
        heartbeat=quick,
        delivery=quick,
        script=in_time,
        deregister=in_time,
    )
    _replace(runner, "assembled_runner", partial(assembled_runner, policies=policies))


def _shorten_waits() -> None:
    from fsm_runner.runtime.control import provider_limits

    _replace(provider_limits, "UNKNOWN_RESET_BASE_S", 0.05)


def _replace(place: object, name: str, value: object) -> None:
    patch.object(place, name, value).start()


def _flush_only_on_request() -> None:
    """Keep records in memory until a flush is requested, however slow the machine is."""
    from functools import partialmethod

    from fsm_runner.journal.journal import Journal

    _replace(Journal, "__init__", partialmethod(Journal.__init__, flush_within_s=NO_FLUSH_S))


def _kill_at_step(point: StepKillPoint) -> None:
    from fsm_runner.runtime.actors.actor import Actor

    record = Actor._record

    def record_or_kill(actor: "Actor", event: str, source: str | None, reason: str) -> None:
        is_reached = point.matches(actor._machine.spec.name, source or "", event, actor.model.state)
        if is_reached and point.phase == BEFORE:
            kill_self()
        record(actor, event, source, reason)
        if is_reached:
            if point.phase == WRITTEN:
                _write_now(actor._recorder)  # type: ignore[arg-type]  # the program's own journal
            kill_self()

    _replace(Actor, "_record", record_or_kill)


def _write_now(journal: "Journal") -> None:
    """Write all buffered records in the journal's thread. The event loop is blocked meanwhile."""
    flusher = journal._flusher
    flusher._thread.submit(flusher._writer.write, flusher.pending).result()


def _count_writes(point: WriteKillPoint | None) -> list[int]:
    """Return a list with one number, the count of writes so far."""
    from fsm_runner.journal.writer import Writer

    write, count = Writer.write, [0]

    def write_or_kill(writer: "Writer", batch: "Batch") -> None:
        count[0] += 1
        is_reached = point is not None and count[0] == point.number
        if is_reached and point is not None and point.phase == BEFORE:
            kill_self()
        write(writer, batch)
        if is_reached:
            kill_self()

    _replace(Writer, "write", write_or_kill)
    return count


def _kill_at_record(point: RecordKillPoint) -> None:
    from fsm_runner.journal.journal import Journal
    from fsm_runner.journal.writer import Writer

    record, write = getattr(Journal, point.method), Writer.write
    count = 0
    batch_of_record: list[Batch] = []

    def record_or_kill(journal: "Journal", *arguments: object) -> None:
        nonlocal count
        count += 1
        if count == point.number and point.phase == BEFORE:
            kill_self()
        record(journal, *arguments)
        if count == point.number:
            batch_of_record.append(journal._flusher.pending)

    def write_or_kill(writer: "Writer", batch: "Batch") -> None:
        write(writer, batch)
        if any(batch is each for each in batch_of_record):
            kill_self()

    _replace(Journal, point.method, record_or_kill)
    _replace(Writer, "write", write_or_kill)


def _hold_accept() -> None:
    import asyncio

    from fsm_runner.runtime.actors.run import RunActor

    async def accept(actor: RunActor) -> None:
        await actor._context.record.flush()
        await asyncio.Event().wait()

    _replace(RunActor, "_accept", accept)


def _hold_start() -> None:
    import asyncio

    from fsm_runner.runtime.actors.session import SessionActor

    async def start(_: SessionActor) -> None:
        await asyncio.Event().wait()

    _replace(SessionActor, "_start_process", start)


def _limit_descriptors() -> None:
    from fsm_runner.runtime.control import descriptors
    from fsm_runner.runtime.control.descriptors import DescriptorWatch

    _replace(descriptors, "FREED_AFTER_S", 0.0)
    _replace(DescriptorWatch, "has_room", property(lambda watch: len(watch._load) == 0))


def _break_stop() -> None:
    from fsm_runner.executors.persistent import PersistentProcess
    from fsm_runner.executors.procedural import ProceduralExecution
    from fsm_runner.process.errors import ProcessStuck

    async def stop(_: object) -> NoReturn:
        raise ProcessStuck("the process does not end")

    _replace(ProceduralExecution, "stop", stop)
    _replace(PersistentProcess, "stop", stop)


def _hold_admission() -> None:
    from fsm_runner.runtime.control import provider_limits
    from fsm_runner.runtime.control.provider_limits import ProviderLimits

    _replace(provider_limits, "JITTER_CAP_S", 0.1)
    _replace(ProviderLimits, "admit", lambda _: None)


def _break_wait() -> None:
    from fsm_runner.errors import FsmRunnerError
    from fsm_runner.runtime.control.provider_limits import LimitWait, ProviderLimits

    async def wait(*_: str | LimitWait) -> NoReturn:
        raise FsmRunnerError("the wait fails")

    _replace(ProviderLimits, "wait_for_admission", wait)


def _reach_limit_elsewhere() -> None:
    from fsm_runner.reporting.provider_limit import ProviderLimit
    from fsm_runner.runtime.control.provider_limits import ProviderLimits

    claimed = ProviderLimits.claimed

    def claimed_and_limited(limits: ProviderLimits, run_id: str) -> None:
        claimed(limits, run_id)
        limits.reached(ProviderLimit(kind="of another run"), "run_other")

    _replace(ProviderLimits, "claimed", claimed_and_limited)


def _exceed_budget_waiting() -> None:
    from fsm_runner.runtime.actors.run import RunActor

    wait = RunActor._await_limit

    async def exceed_and_wait(actor: RunActor) -> None:
        actor.post("budget_exceeded", "another run of the tree has used up its budget")
        await wait(actor)

    _replace(RunActor, "_await_limit", exceed_and_wait)


def _break_workflow_wait() -> None:
    from fsm_runner.errors import FsmRunnerError
    from fsm_runner.runtime.workflow.driver import WorkflowDriver

    async def wait(_: WorkflowDriver) -> NoReturn:
        raise FsmRunnerError("the wait fails")

    _replace(WorkflowDriver, "wait", wait)


def _exceed_budget_in_workflow() -> None:
    from fsm_runner.runtime.actors.run import RunActor

    wait = RunActor._await_workflow

    async def exceed_and_wait(actor: RunActor) -> None:
        actor.post("budget_exceeded", "another run of the tree has used up its budget")
        await wait(actor)

    _replace(RunActor, "_await_workflow", exceed_and_wait)


def _hold_check() -> None:
    import asyncio

    from fsm_runner.runtime.actors.run import RunActor

    async def check(_: RunActor) -> None:
        await asyncio.Event().wait()

    _replace(RunActor, "_check_result", check)


if __name__ == "__main__":
    main(sys.argv[1:])
