"""The interfaces of the actors: the names that `specs/` may use.

This module does not import the actors, so that checking a spec does not load their dependencies.
"""

from fsm_runner.config.paths import find
from fsm_runner.errors import UsageError
from fsm_runner.machine.check import checked
from fsm_runner.machine.defects import SpecError
from fsm_runner.machine.engine import Machine
from fsm_runner.machine.spec import ActorInterface


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


RUN = ActorInterface(
    name="run",
    activities=_names(
        "accept prepare_workspace execute await_limit await_workflow check_result stop_execution look_up report"
    ),
    facts=_names(
        "may_run_again waits_for_limit limit_is_over is_superseded credential_is_limited has_expectations "
        "workflow_waits workflow_has_begun"
    ),
    settings=_names("run_timeout_s limit_wait_s max_wall_s"),
    events=_names("stop_requested budget_exceeded fell_silent interrupted reassigned"),
    tags=_names("may_bind reports_started parked awaits_limit abandoned"),
    outcomes=_names("completed failed stopped superseded"),
)

RUNNER = ActorInterface(
    name="runner",
    activities=_names(
        "recover register await_reset await_runs stop_runs flush_reports deregister await_last_poll settle_late_run "
        "abandon_runs"
    ),
    facts=_names("journal_is_unwritable descriptors_are_short credential_is_limited late_run_arrived"),
    settings=_names("grace_period_s stop_limit_s"),
    events=_names(
        "coordinator_lost coordinator_answered registration_lost report_not_accepted registration_superseded "
        "outage_too_long "
        "journal_unwritable journal_writable descriptors_short descriptors_freed limit_reached limit_passed "
        "drain_requested stop_now_requested exit_requested"
    ),
    tags=_names("claims tests_limit leaving renews_registration reachable needs_attention unhealthy"),
    outcomes=_names("stopped refused gave_up superseded aborted"),
)

SESSION = ActorInterface(
    name="session",
    activities=_names("start_process take_turn await_exit stop_process report"),
    facts=_names("is_continued is_revivable"),
    settings=_names("run_timeout_s session_idle_timeout_s"),
    events=_names("turn_requested stop_requested close_requested interrupted reassigned"),
    tags=_names("has_turn ends_process reports"),
    outcomes=_names("finished failed stopped superseded"),
)

POLLER = ActorInterface(
    name="poller",
    activities=_names("await_change poll probe reconcile look_up_stops"),
    facts=_names("poll_may_be_cut pause_is_due reconciliation_is_due may_claim holds_runs"),
    settings=_names("call_limit_s pause_s recheck_s until_look_up_s"),
    events=_names("registered close_requested"),
    tags=_names("holds_poll"),
    outcomes=_names("closed broken"),
)

ACTOR_INTERFACES = {interface.name: interface for interface in (RUN, SESSION, RUNNER, POLLER)}


def load_machine(name: str) -> Machine:
    """Return the machine that `specs/{name}.toml` of the home declares, or of the package if the home has none.

    Raises `UsageError` with every defect if its actor cannot run it.
    """
    try:
        return Machine(checked(find(f"specs/{name}.toml"), ACTOR_INTERFACES[name]))
    except SpecError as error:
        raise UsageError(str(error)) from error
