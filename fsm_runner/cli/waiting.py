"""Explains why a run is pending: compares its demands with the properties of each online runner."""

from collections.abc import Iterable, Sequence

from fsm_runner.coordinator_server.matching import Demands, demands_from
from fsm_runner.protocol.event_clock import utc_now
from fsm_runner.protocol.wire import DECODE_FAULTS, ListedRunner, Run

LISTED_RUNNERS = 10
"""The most runners in the hint. Further ones are counted."""


def reasons_to_wait(run: Run, runners: Iterable[ListedRunner]) -> list[str]:
    """Return the lines of the hint: one for the run, then one for each online runner."""
    if run.not_before is not None and run.not_before > utc_now():
        return [f"{run.run_id} is not claimed before {run.not_before}"]
    waiting = f"{run.run_id} is waiting for a runner that takes it"
    online = [runner for runner in runners if runner.status == "online"]
    if not online:
        return [f"{waiting}; no runner is online"]
    try:
        demands = demands_from(run.demands)
    except DECODE_FAULTS:  # the coordinator may be another program
        return [f"{waiting}; online: {', '.join(sorted(map(_name, online)))}"]
    lines = sorted({_name(runner): _line(runner, demands) for runner in online}.items())
    more = [f"  … and {len(lines) - LISTED_RUNNERS} more"] if len(lines) > LISTED_RUNNERS else []
    return [f"{waiting}; online:", *(line for _, line in lines[:LISTED_RUNNERS]), *more]


def _line(runner: ListedRunner, demands: Demands) -> str:
    """Return the runner with the demands that it does not meet, in words."""
    compared = (
        ("profile", demands.executor_profile, runner.executor_profile),
        ("type", demands.executor_type, _executor_type(runner)),
        ("host name", demands.hostname, runner.hostname),
        ("project directory", demands.project_dir, runner.project_dir),
    )
    reasons = [
        f"its {what} is {offered!r}, the run demands {demanded!r}"
        for what, demanded, offered in compared
        # A coordinator may hide the property.
        if demanded is not None and offered is not None and demanded != offered
    ]
    tags = runner.tags or ()
    if missing := [tag for tag in demands.tags if tag not in tags]:
        reasons.append(f"it lacks {_tags(missing)}")
    if runner.require_matching_tags and not set(tags) & set(demands.tags):
        demanded = _tags(demands.tags) if demands.tags else "no tag"
        reasons.append(f"it takes only runs that share one of its tags ({', '.join(tags)}), the run demands {demanded}")
    met = (
        "meets all demands; it may be full, or the agent may belong to another runner or have reached its `max_running`"
    )
    return f"  {_name(runner)}: {'; '.join(reasons) or met}"


def _executor_type(runner: ListedRunner) -> str | None:
    stated = (runner.executor or {}).get("type")
    return stated if isinstance(stated, str) else None


def _name(runner: ListedRunner) -> str:
    where = f" on {runner.hostname}" if runner.hostname else ""
    identity = f" ({runner.runner_id})" if runner.runner_id else ""
    return f"profile {runner.executor_profile}{where}{identity}"


def _tags(tags: Sequence[str]) -> str:
    return f"the tag{'s' if len(tags) > 1 else ''} {', '.join(tags)}"
