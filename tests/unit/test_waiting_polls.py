"""Which poll is woken for a run, and which classes of demands have runs."""

import asyncio
from contextlib import ExitStack

from fsm_runner.coordinator_server import demand_classes
from fsm_runner.coordinator_server.agents import AgentCatalog
from fsm_runner.coordinator_server.demand_classes import DemandClasses
from fsm_runner.coordinator_server.matching import Capabilities, Demands
from fsm_runner.coordinator_server.registry import Presence, Runner, WaitingPoll
from fsm_runner.coordinator_server.run_queue import RunQueue
from fsm_runner.coordinator_server.store.interface import DemandClass
from fsm_runner.coordinator_server.store.sqlite.store import SqliteStore
from fsm_runner.coordinator_server.waiting_polls import WaitingPolls

ANY = DemandClass(demands=Demands())
GPU = DemandClass(demands=Demands(tags=("gpu",)))
LIMITED = DemandClass(demands=Demands(), limited_agent="greet")


def runner(number: int, *tags: str) -> Runner:
    """Return the runner that was served at this place."""
    capabilities = Capabilities(
        runner_id=f"rnr_{number}",
        hostname="h",
        project_dir="/p",
        executor_profile="x",
        executor_type="t",
        tags=frozenset(tags),
    )
    return Runner(capabilities, {}, number, number, asyncio.Lock())


class Waiting:
    """Some held polls."""

    def __init__(self, *runners: Runner) -> None:
        self.classes = DemandClasses()
        self.polls = WaitingPolls(self.classes)
        self.held = [WaitingPoll(each, None) for each in runners]
        self._ends = [ExitStack() for _ in self.held]
        for poll, end in zip(self.held, self._ends, strict=True):
            end.enter_context(self.polls.waiting(poll))

    def add(self, class_id: int, demand_class: DemandClass = ANY) -> None:
        self.classes.add(class_id, demand_class)
        self.polls.wake_for([class_id])

    def end(self, number: int) -> None:
        self._ends[number].close()

    @property
    def woken(self) -> list[int]:
        return [number for number, poll in enumerate(self.held) if poll.woken.is_set()]


def test_one_poll_is_woken_that_of_the_runner_served_least_recently() -> None:
    waiting = Waiting(runner(3), runner(1), runner(2))
    waiting.add(7)
    assert waiting.woken == [1]
    waiting.add(7)
    assert waiting.woken == [1, 2]


def test_a_poll_that_looks_is_woken_after_those_that_sleep() -> None:
    waiting = Waiting(runner(1), runner(2))
    waiting.held[0].is_looking = True
    waiting.add(7)
    assert waiting.woken == [1]


def test_a_poll_that_may_not_claim_the_run_is_not_woken() -> None:
    leaving = runner(1, "gpu")
    leaving.presence = Presence.LEAVING
    waiting = Waiting(leaving, runner(2), runner(3, "gpu"))
    waiting.add(7, GPU)
    assert waiting.woken == [2]


def test_a_poll_that_ends_passes_on_what_it_was_woken_for() -> None:
    waiting = Waiting(runner(1), runner(2), runner(3))
    waiting.add(7)
    waiting.end(0)
    assert waiting.woken == [0, 1]
    waiting.classes.discard([7], waiting.classes.now)
    waiting.end(1)
    assert waiting.woken == [0, 1]


def test_the_only_eligible_poll_is_woken_for_each_class_and_passes_all_on() -> None:
    waiting = Waiting(runner(1, "gpu"))
    waiting.add(7)
    waiting.add(8, GPU)
    later = WaitingPoll(runner(2, "gpu"), None)
    with waiting.polls.waiting(later):
        waiting.end(0)
        assert later.woken_for == {7, 8}


async def test_a_woken_poll_whose_runner_leaves_passes_the_run_on() -> None:
    queue = RunQueue(SqliteStore(None, lambda _: None), AgentCatalog())
    leaving, other = WaitingPoll(runner(1), None), WaitingPoll(runner(2), None)
    with queue.polls.waiting(leaving), queue.polls.waiting(other):
        queue.add(7, ANY)
        assert leaving.woken_for == {7}
        leaving.runner.presence = Presence.LEAVING
        assert await queue.claim(leaving) is None
        assert other.woken_for == {7}


def test_a_class_that_became_ready_since_the_question_stays_ready() -> None:
    classes = DemandClasses()
    classes.add(7, ANY)
    since = classes.now
    classes.add(7, ANY)
    classes.add(8, GPU)
    classes.discard([7], since)
    assert classes.replace({9: ANY}, since) == [9]
    assert sorted(classes.ready) == [7, 8, 9]
    assert classes.replace({}, classes.now) == []
    assert classes.ready == []


def test_the_classes_of_an_agent_with_max_running_are_found() -> None:
    classes = DemandClasses()
    classes.add(7, ANY)
    classes.add(8, LIMITED)
    assert classes.of_agents(frozenset({"greet"})) == [8]
    assert classes.of_agents(frozenset({"other"})) == []


def test_what_a_runner_may_claim_is_decided_once_for_each_class() -> None:
    classes, known = DemandClasses(), runner(1)
    classes.add(7, GPU)
    assert not classes.is_claimable(7, known)
    known.may_claim[7] = True
    assert classes.claimable(known) == {7: GPU}


def test_a_runner_forgets_classes_that_are_not_ready() -> None:
    classes, known, count = DemandClasses(), runner(1), 3 * demand_classes.REMEMBERED_CLASSES
    for class_id in range(count):
        classes.add(class_id, ANY)
    assert len(classes.claimable(known)) == len(known.may_claim) == count
    classes.discard(range(10, count), classes.now)
    classes.add(count, GPU)
    assert not classes.is_claimable(count, known)
    assert sorted(known.may_claim) == [*range(10), count]
