"""When a registered runner becomes stale, when it is removed, and which stops are kept for it."""

from hypothesis import given
from hypothesis import strategies as st

from fsm_runner.coordinator_server.matching import Capabilities
from fsm_runner.coordinator_server.registry import ABSENT_RUNNERS, Registry
from fsm_runner.coordinator_server.timings import Timings

TIMINGS = Timings(stale_after_s=20, removed_after_s=50)
IDS = ("a", "b", "c")
steps = st.lists(
    st.tuples(st.sampled_from(["register", "heartbeat", "expire"]), st.sampled_from(IDS), st.integers(0, 30)),
    max_size=40,
)


@given(steps, st.sets(st.sampled_from(IDS)))
def test_runners_expire_as_if_each_were_looked_at_each_time(
    taken: list[tuple[str, str, int]], awaited: set[str]
) -> None:
    now_s = 0.0
    registry = Registry(TIMINGS, lambda: now_s)
    registry.wait_for(awaited)
    heard_s: dict[str, float] = dict.fromkeys(awaited, 0.0)
    """The runners that can expire: registered ones, and those waited for."""
    stale: set[str] = set()
    for number, (kind, runner_id, passed_s) in enumerate(taken):
        now_s += passed_s
        removed = {each for each, at_s in heard_s.items() if now_s - at_s > TIMINGS.removed_after_s}
        awaited -= removed
        stale |= {each for each, at_s in heard_s.items() if now_s - at_s > TIMINGS.stale_after_s}
        stale -= removed | awaited
        heard_s = {each: at_s for each, at_s in heard_s.items() if each not in removed}
        assert sorted(registry.expire()) == sorted(removed)
        assert {runner.runner_id for runner in registry if runner.is_stale} == stale
        assert {runner.runner_id for runner in registry} == heard_s.keys() - awaited
        if kind == "register":
            registry.add(capabilities(runner_id), {}, number)
            stale.discard(runner_id)
            awaited.discard(runner_id)
            heard_s[runner_id] = now_s
        elif kind == "heartbeat" and (runner := registry.get(runner_id)) is not None:
            registry.record_heartbeat(runner)
            heard_s[runner_id] = now_s


def test_stops_are_kept_for_registered_runners_and_for_a_number_of_others() -> None:
    registry = Registry(TIMINGS, lambda: 0.0)
    registry.add(capabilities("a"), {}, 1)
    others = [f"rnr_{number}" for number in range(ABSENT_RUNNERS + 2)]
    for runner_id in ("a", *others):
        registry.queue_stop(runner_id, "ses_1")
    found = [runner_id for runner_id in ("a", *others) if registry.take_stops(runner_id) == ["ses_1"]]
    assert found == ["a", *others[2:]]


def capabilities(runner_id: str) -> Capabilities:
    return Capabilities(runner_id=runner_id, hostname="h", project_dir="/p", executor_profile="x", executor_type="t")
