"""What the session of a run learns from the run's executions."""

from types import SimpleNamespace
from typing import Any

from fsm_runner.executors.interface import Assignment
from fsm_runner.reporting.executor_status import ExecutorStatus
from fsm_runner.reporting.provider_limit import ProviderLimit
from fsm_runner.reporting.session_channel import ExecutorEvent
from fsm_runner.runtime.actors.executions import Executions
from fsm_runner.runtime.control.budgets import NO_BUDGETS
from fsm_runner.runtime.control.silence import SilenceWatch
from fsm_runner.runtime.expectations import ExpectationContext, RunExpectations
from tests.support.fake_api import ME
from tests.support.polling import PROJECT_DIR, RUN
from tests.support.record import InstantRecord


class NoLimits:
    def passed(self, run_id: str) -> None: ...


def test_a_run_waits_from_the_report_of_a_limit_until_its_provider_answers_or_it_does_not_wait() -> None:
    tags = {"may_bind"}
    context: Any = SimpleNamespace(executor=None, reporting=None, record=InstantRecord())
    limits: Any = NoLimits()
    executions = Executions(
        Assignment(RUN, PROJECT_DIR, ME),
        context,
        limits,
        NO_BUDGETS.of(RUN, lambda _: None),
        SilenceWatch(RUN.run_id, None, lambda _: None),
        RunExpectations(ExpectationContext()),
        lambda tag: tag in tags,
        lambda _: None,
    )
    reached = ExecutorStatus(limit=ProviderLimit(kind="five_hour"))

    def waits() -> bool:
        return executions.continues_session

    executions.note_status(reached)
    assert waits()
    executions.note_event(ExecutorEvent("message", "assistant"))
    assert not waits()
    executions.note_status(reached)
    tags.clear()
    assert not waits(), "it fails"
    tags.add("parked")
    assert waits()
