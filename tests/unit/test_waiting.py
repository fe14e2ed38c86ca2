"""The hint for a pending run."""

from fsm_runner.cli.waiting import LISTED_RUNNERS, reasons_to_wait
from fsm_runner.protocol.wire import JsonObject, ListedRunner, Run

RUNNER = ListedRunner(
    runner_id="rnr_1",
    executor_profile="echo",
    status="online",
    hostname="here",
    project_dir="/work",
    executor={"type": "procedural"},
    tags=["linux"],
)
MET = "meets all demands; it may be full, or the agent may belong to another runner or have reached its `max_running`"


def hint(demands: JsonObject | None, *runners: ListedRunner) -> list[str]:
    first, *lines = reasons_to_wait(Run(run_id="run_1", session_id="ses_1", demands=demands), runners)
    assert first.startswith("run_1 is waiting for a runner that takes it")
    return lines or [first]


def test_each_demand_that_a_runner_does_not_meet_is_named() -> None:
    demands: JsonObject = {
        "hostname": "there",
        "project_dir": "/other",
        "executor_profile": "quick",
        "executor_type": "autonomous",
        "tags": ["linux", "gpu", "big"],
    }
    assert hint(demands, RUNNER) == [
        "  profile echo on here (rnr_1): its profile is 'echo', the run demands 'quick'; its type is 'procedural', the "
        "run demands 'autonomous'; its host name is 'here', the run demands 'there'; its project directory is '/work', "
        "the run demands '/other'; it lacks the tags gpu, big"
    ]


def test_a_runner_of_the_right_profile_without_the_tags_is_not_offered_as_a_match() -> None:
    assert hint({"executor_profile": "echo", "tags": ["gpu"]}, RUNNER) == [
        "  profile echo on here (rnr_1): it lacks the tag gpu"
    ]


def test_a_runner_that_requires_matching_tags_says_so() -> None:
    picky = ListedRunner(executor_profile="echo", status="online", tags=["gpu", "big"], require_matching_tags=True)
    assert hint(None, picky) == [
        "  profile echo: it takes only runs that share one of its tags (gpu, big), the run demands no tag"
    ]


def test_a_runner_that_meets_all_demands_may_be_full() -> None:
    assert hint({"executor_profile": "echo", "tags": ["linux"], "hostname": None}, RUNNER) == [
        f"  profile echo on here (rnr_1): {MET}"
    ]


def test_a_hidden_property_of_a_runner_is_not_a_mismatch() -> None:
    bare = ListedRunner(executor_profile="echo", status="online")
    assert hint({"hostname": "there", "executor_type": "autonomous"}, bare) == [f"  profile echo: {MET}"]


def test_stale_runners_are_not_listed() -> None:
    stale = ListedRunner(executor_profile="echo", status="stale")
    assert hint(None, stale) == ["run_1 is waiting for a runner that takes it; no runner is online"]


def test_with_invalid_demands_the_hint_lists_runners() -> None:
    assert hint({"tags": 5}, RUNNER) == [
        "run_1 is waiting for a runner that takes it; online: profile echo on here (rnr_1)"
    ]


def test_many_runners_are_counted() -> None:
    many = [ListedRunner(executor_profile=f"p{at:02}", status="online") for at in range(LISTED_RUNNERS + 3)]
    lines = hint({"executor_profile": "typo"}, *many)
    assert (len(lines), lines[-1]) == (LISTED_RUNNERS + 1, "  … and 3 more")


def test_a_run_that_is_not_due_waits_for_no_runner() -> None:
    due = Run(run_id="run_1", session_id="ses_1", not_before="2999-01-01T00:00:00.000000Z")
    assert reasons_to_wait(due, [RUNNER]) == ["run_1 is not claimed before 2999-01-01T00:00:00.000000Z"]
