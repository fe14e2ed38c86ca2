"""Scenarios of runs that meet a limit of their provider."""

from collections.abc import Callable
from typing import Any

from tests.support.command_executor import scripted_executor_source
from tests.support.coordinated_home import SCRIPTED
from tests.support.crash.kill_points import WRITTEN, StepKillPoint
from tests.support.crash.scenario import Scenario, ScenarioContext, Steps

ON_WAITING = StepKillPoint("run", "waiting_for_limit", "detail", "waiting_for_limit", WRITTEN)
"""The wait is on disk."""


def one_shot_limit(_: ScenarioContext) -> Steps:
    return [["bind"], ["limit"], ["exit", 1]]


def live_limit(_: ScenarioContext) -> Steps:
    return [["bind"], ["limit"], ["limited"]]


def far_limit(_: ScenarioContext) -> Steps:
    return [["bind"], ["limit", 1000], ["exit", 1]]


def session_limit(_: ScenarioContext) -> Steps:
    return [["bind"], ["limit", None, "session"], ["exit", 1]]


def nothing(_: ScenarioContext) -> Steps:
    return [["bind"]]


async def stop_when_limited(context: ScenarioContext) -> None:
    await context.wait_until_limited()
    await context.stop()


def with_executor(name: str, steps: Callable[[ScenarioContext], Steps], **fields: Any) -> Scenario:
    """Return a scenario of a one-shot executor. A further execution of the run has no steps."""
    fields = {"profile": {"lifecycle": "one_shot"}, **fields}
    return Scenario(name=name, agent=SCRIPTED, executor=scripted_executor_source(), steps=steps, **fields)
