"""No wake-up is lost, and no run is lost or executed twice, in whatever order the coordinator's parts go on.

There is no tick to repair a wake-up, so each path has to pass it on itself.
"""

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from fsm_runner.coordinator_server.matching import Demands
from tests.support.queue_simulation import OWNED, SimulatedRunner, Simulation

EXAMPLES = int(os.environ.get("QUEUE_WAKEUP_EXAMPLES", "60"))

T = TypeVar("T")
Call = tuple[str, dict[str, Any]]
Round = tuple[frozenset[int], list[tuple[Call, list[str]]], bool]

RUNNERS = 4
numbers = st.integers(0, 11)
"""Choose one of several objects, whose number is not known."""
some_tags = st.sampled_from([(), (), (), ("x",), ("x", "y")])
many_tags = st.sampled_from([("x", "y"), ("x", "y"), ("x", "y"), ("x",), ()])


def call(name: str, **arguments: st.SearchStrategy[Any]) -> st.SearchStrategy[Call]:
    return st.tuples(st.just(name), st.fixed_dictionaries(arguments))


submissions = call(
    "submit",
    demands=st.builds(Demands, tags=some_tags, executor_profile=st.sampled_from([None, None, None, "q"])),
    agent=st.sampled_from([None, None, "limited", "both", "retried", OWNED["name"]]),
    priority=st.sampled_from([None, None, None, -10, 10]),
    queue_ttl_seconds=st.sampled_from([None, None, None, None, 30]),
)
weighted_calls = [
    (9, submissions),
    (4, call("poll", number=numbers)),
    (8, call("report", number=numbers, run=numbers, kind=st.sampled_from(["started", "completed", "failed"]))),
    (3, call("obey_stop", number=numbers)),
    (5, call("hang_up", number=numbers)),
    (1, call("break_connection", number=numbers)),
    (2, call("stop", run=numbers)),
    (1, call("leave", number=numbers, by_itself=st.booleans())),
    (1, call("fall_silent", number=numbers)),
    (2, call("let_polls_end")),
    (1, call("tick")),
    (1, call("restart", is_killed=st.booleans())),
]
calls = st.sampled_from([each for weight, each in weighted_calls for _ in range(weight)]).flatmap(lambda each: each)
small_steps = st.lists(st.sampled_from(["commit", "deliver", "turn", "turn"]), max_size=6)
"""What the coordinator gets done before the next call."""
rounds = st.tuples(
    st.frozensets(st.integers(0, RUNNERS - 1), min_size=1),
    st.lists(st.tuples(calls, small_steps), min_size=2, max_size=8),
    st.booleans(),
)
"""Some runners poll, and calls happen at the same time: when the polls wait, or before. Then all comes to rest."""


fleets = st.lists(
    st.tuples(st.sampled_from(["p", "p", "q"]), many_tags, st.sampled_from([True, True, False]), st.booleans()),
    min_size=RUNNERS,
    max_size=RUNNERS,
)


def picked(choices: Sequence[T], number: int) -> T | None:
    """Return None if there is no choice."""
    return choices[number % len(choices)] if choices else None


class Steps:
    """Does what hypothesis has chosen."""

    def __init__(self, simulation: Simulation) -> None:
        self.simulation = simulation
        self.loop = simulation.loop

    def do_round(self, polling: frozenset[int], chosen: list[tuple[Call, list[str]]], *, is_calm: bool) -> None:
        for runner in self.simulation.runners:
            self.simulation.register(runner)
        self.settle()
        for number in sorted(polling):
            self.simulation.poll(self.simulation.runners[number])
        if is_calm:
            self.settle()
        for (name, arguments), small_steps in chosen:
            self.do(name, arguments)
            for step in small_steps:
                getattr(self.loop, step)()
            self.simulation.collect()
        self.settle()
        self.poll_and_compare(self.simulation.runners[len(chosen) % RUNNERS])

    def do(self, name: str, arguments: dict[str, Any]) -> None:
        arguments = dict(arguments)
        if "number" in arguments:
            arguments["runner"] = self.simulation.runners[arguments.pop("number") % RUNNERS]
        getattr(self, name)(**arguments)
        self.simulation.collect()

    def submit(self, demands: Demands, agent: str | None, **options: Any) -> None:
        if agent == OWNED["name"]:  # the runners that bring it have the same profile
            demands = msgspec.structs.replace(demands, executor_profile=None)
        self.simulation.submit(demands, agent, **{name: value for name, value in options.items() if value is not None})

    def poll(self, runner: SimulatedRunner) -> None:
        self.simulation.poll(runner)

    def poll_and_compare(self, runner: SimulatedRunner) -> None:
        """A poll that is alone gets the first run of those that its runner may claim."""
        self.settle()
        if runner.is_waiting or not runner.is_registered or not self.simulation.is_known(runner):
            return
        first = next(self.simulation.claimable(runner), None)
        held_before = {row.run_id for row in self.simulation.rows() if row.is_held}
        self.simulation.poll(runner)
        self.settle()
        claimed = {row.run_id for row in self.simulation.rows() if row.is_held} - held_before
        assert claimed <= {first and first.run_id}, f"{claimed} of runner {runner.number} instead of {first}"

    def report(self, runner: SimulatedRunner, run: int, kind: str) -> None:
        if (run_id := picked(list(runner.runs), run)) is not None:
            self.simulation.report(runner, run_id, kind)

    def obey_stop(self, runner: SimulatedRunner) -> None:
        sessions = {row.run_id: row.session_id for row in self.simulation.rows()}
        for run_id in [each for each in runner.runs if sessions[each] in runner.to_stop]:
            self.simulation.report(runner, run_id, "stopped")

    def hang_up(self, runner: SimulatedRunner) -> None:
        self.simulation.hang_up(runner)

    def break_connection(self, runner: SimulatedRunner) -> None:
        self.simulation.break_connection(runner)

    def settle(self) -> None:
        self.simulation.settle()
        self.simulation.check()

    def stop(self, run: int) -> None:
        if (row := picked(self.simulation.rows(), run)) is not None:
            self.simulation.stop(row.run_id)

    def leave(self, runner: SimulatedRunner, *, by_itself: bool) -> None:
        self.simulation.leave(runner, by_itself=by_itself)

    def fall_silent(self, runner: SimulatedRunner) -> None:
        self.simulation.fall_silent(runner)

    def let_polls_end(self) -> None:
        """All deadlines pass, that of a poll that was just woken too."""
        self.loop.pass_deadlines()

    def tick(self) -> None:
        self.simulation.tick()

    def restart(self, *, is_killed: bool) -> None:
        self.simulation.restart(is_killed=is_killed)


@contextmanager
def simulated(runners: list[SimulatedRunner]) -> Iterator[Simulation]:
    with tempfile.TemporaryDirectory(prefix="fsm-runner-queue-") as folder:
        simulation = Simulation(Path(folder) / "store.sqlite", runners)
        try:
            yield simulation
        finally:
            simulation.close()


@settings(max_examples=EXAMPLES)
@given(fleets, st.lists(rounds, min_size=6, max_size=12))
def test_a_run_never_waits_while_a_poll_waits_that_may_claim_it(
    fleet: list[tuple[str, tuple[str, ...], bool, bool]],
    chosen: list[Round],
) -> None:
    runners = [
        SimulatedRunner(number, profile, tags, is_fenced=is_fenced, brings_agent=brings_agent and profile == "p")
        for number, (profile, tags, is_fenced, brings_agent) in enumerate(fleet)
    ]
    with simulated(runners) as simulation:
        steps = Steps(simulation)
        for polling, at_once, is_calm in chosen:
            steps.do_round(polling, at_once, is_calm=is_calm)
        simulation.finish()
