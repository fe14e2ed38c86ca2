"""The interfaces of the actors: the names that `specs/` may use.

This module does not import the actors, so that checking a spec does not load their dependencies.
"""

from fsm_runner.machine.spec import ActorInterface

RUN = ActorInterface(
    name="run",
    activities=frozenset({"accept", "prepare_workspace", "execute", "stop_execution", "look_up", "report"}),
    facts=frozenset({"may_run_again"}),
    settings=frozenset({"run_timeout_s"}),
    events=frozenset({"stop_requested", "interrupted"}),
    tags=frozenset({"may_bind", "reports_started"}),
    outcomes=frozenset({"completed", "failed", "stopped", "superseded"}),
)

RUNNER = ActorInterface(
    name="runner",
    activities=frozenset(
        {
            "recover",
            "register",
            "await_runs",
            "stop_runs",
            "flush_reports",
            "deregister",
            "await_last_poll",
            "settle_late_run",
        }
    ),
    facts=frozenset({"journal_is_unwritable", "descriptors_are_short", "late_run_arrived"}),
    settings=frozenset({"grace_period_s", "stop_limit_s"}),
    events=frozenset(
        {
            "coordinator_lost",
            "coordinator_answered",
            "registration_lost",
            "report_not_accepted",
            "outage_too_long",
            "journal_unwritable",
            "journal_writable",
            "descriptors_short",
            "descriptors_freed",
            "drain_requested",
            "stop_now_requested",
            "exit_requested",
        }
    ),
    tags=frozenset({"claims", "leaving", "renews_registration", "reachable", "needs_attention", "unhealthy"}),
    outcomes=frozenset({"stopped", "refused", "gave_up", "aborted"}),
)

SESSION = ActorInterface(
    name="session",
    activities=frozenset({"start_process", "take_turn", "await_exit", "stop_process", "report"}),
    settings=frozenset({"run_timeout_s", "session_idle_timeout_s"}),
    events=frozenset({"turn_requested", "stop_requested", "close_requested", "interrupted"}),
    tags=frozenset({"has_turn", "ends_process", "reports"}),
    outcomes=frozenset({"finished", "failed", "stopped"}),
)

POLLER = ActorInterface(
    name="poller",
    activities=frozenset({"await_change", "poll", "probe", "reconcile", "look_up_stops"}),
    facts=frozenset({"poll_may_be_cut", "pause_is_due", "reconciliation_is_due", "may_claim", "holds_runs"}),
    settings=frozenset({"call_limit_s", "pause_s", "recheck_s", "until_look_up_s"}),
    events=frozenset({"registered", "close_requested"}),
    tags=frozenset({"holds_poll"}),
    outcomes=frozenset({"closed", "broken"}),
)

ACTOR_INTERFACES = {interface.name: interface for interface in (RUN, SESSION, RUNNER, POLLER)}
