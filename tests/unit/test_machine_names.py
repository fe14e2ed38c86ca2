"""The program knows a machine by its tags, outcomes and events from outside: every other name in a spec is free.

Each state, and each event that states cause, is renamed in turn. The renamed spec must be sound, and the actors must do
with it, step by step, what they do with the original.
"""

import ast
import asyncio
import random
import re
import tomllib
from collections.abc import Callable, Coroutine, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, get_args
from unittest.mock import patch

import msgspec
import pytest

import tests.property.test_session_machine as session_world
import tests.support.crash_model.runner as runner_model
from fsm_runner.errors import FsmRunnerError
from fsm_runner.machine.check import check
from fsm_runner.machine.engine import Cause, Machine, Model, Step
from fsm_runner.machine.spec import Spec
from fsm_runner.protocol import statuses
from fsm_runner.runtime.actors.interfaces import ACTOR_INTERFACES
from fsm_runner.runtime.recovery import Recovery
from fsm_runner.workflow.file import restore_workflow
from tests.support.crash_model.coordinator import Fault
from tests.support.crash_model.journal import JournalCall, KillSwitch
from tests.support.crash_model.workflow import always_done
from tests.support.record import InstantRecord
from tests.support.specs import check_file
from tests.support.virtual_time import run_virtually

ROOT = Path(__file__).parents[2]
SPECS = {name: tomllib.loads((ROOT / "specs" / f"{name}.toml").read_text()) for name in ACTOR_INTERFACES}
ENDS = ("on_done", "on_error", "on_timeout")
REAL_TIME = re.compile(r"\d+-\d+-\d+T[\d:.]+Z")
ALSO_MEANT_OTHERWISE = {
    "ended": "a run that has ended, in what `fsm-runner history` prints",
    "online": "the coordinator's status of a runner",
}
"""Words in the code that are names in a spec too, and what they mean there."""

WORKFLOW = restore_workflow(
    "short.toml",
    """
    name = "short"
    initial = "work"
    states.work = { command = { run = ["true"] }, timeout_s = 60, on_interrupted = "repeat", on_done = "rest" }
    states.rest = { wait = { for_s = 2 }, on_done = "completed" }
    """,
    {},
)

LIVES = 150
COMPARED = 5
"""The number of lives in which a name occurs that are repeated with its new name."""


def own_events(raw: dict[str, Any]) -> set[str]:
    return {state[key] for state in raw["states"].values() for key in ENDS if key in state}


NAMES = [(name, free) for name, raw in SPECS.items() for free in (*raw["states"], *sorted(own_events(raw)))]


def new_name(old: str) -> str:
    """A name that no part of the program contains. Its length is the same, which binary messages contain."""
    return "z" * len(old)


def renamed(machine: str, old: str) -> Spec:
    fixed = {"name", "doc", "outcome", "guard", "decides", "invoke", "events", "tags", "timeout_s", "tone"}

    def change(value: Any) -> Any:
        if isinstance(value, dict):
            return {
                new_name(old) if key == old else key: it if key in fixed else change(it) for key, it in value.items()
            }
        if isinstance(value, list):
            return [change(it) for it in value]
        return new_name(old) if value == old else value

    return msgspec.convert(change(SPECS[machine]), Spec)


# Lives of a runner and of sessions, in virtual time.


async def runner_life(rng: random.Random) -> list[object]:
    """Two processes of a runner, of which the first may be killed, with events from outside at any time."""
    workflow = rng.choice([None, None, (WORKFLOW, always_done)])
    setup = runner_model.Setup(
        workflow=workflow,
        plans=tuple(
            runner_model.PlannedRun(
                at_s=rng.uniform(0, 5),
                lasts_s=rng.choice([0.0, 3.0, None]),
                error=rng.choice([None, "exit code 1"]),
                limits=rng.choice([(), (), (4.0,), (None, 4.0)]),
                limit_scope=rng.choice(["credential", "session"]),
                stops_at_s=rng.choice([None, rng.uniform(0, 5)]),
                settled_at_s=rng.choice([None, 7.0]),
                requeued_at_s=rng.choice([None, None, 2.0]),
                offered_after_s=rng.choice([0.0, 4.0]),
            )
            for _ in range(2 if workflow is None else 1)
        ),
        faults=tuple(_fault(rng) for _ in range(rng.randrange(6))),
        control_faults=tuple(_fault(rng) for _ in range(rng.randrange(6))),
        restarts_at_s=rng.choice([(), (3.0,)]),
        disk_full=rng.choice([None, None, (2.0, 5.0)]),
        commit_s=rng.choice([0.0, 0.5]),
        retry_interrupted=rng.random() < 0.5,
        max_runs=rng.choice([None, 1]),
    )
    if rng.random() < 0.1:
        with patch.object(runner_model, "Recovery", _failing_recovery):
            return await _lives(setup, rng)
    return await _lives(setup, rng)


def _failing_recovery(*arguments: Any) -> Recovery:
    def sweep() -> int:
        raise FsmRunnerError("process 7 does not end")

    return Recovery(*(*arguments[:-1], sweep))


async def _lives(setup: runner_model.Setup, rng: random.Random) -> list[object]:
    simulation = runner_model.Simulation(setup)
    with simulation.in_virtual_time():
        return await _simulated(simulation, rng)


async def _simulated(simulation: runner_model.Simulation, rng: random.Random) -> list[object]:
    simulation.schedule()
    operator = asyncio.create_task(simulation.stop_old_runs())
    past: list[JournalCall] = []
    for kill_at in (rng.choice([None, rng.randrange(1, 40)]), None):
        process = simulation.start_process(KillSwitch(kill_at), past)
        for _ in range(rng.randrange(8)):
            event = rng.choice(sorted(ACTOR_INTERFACES["runner"].events))
            asyncio.get_running_loop().call_later(rng.uniform(0, 20), process.actor.post, event, "the test")
        await process.live(simulation)
        past = (
            process.journal.calls_on_disk(rng.randrange(3)) if process.kill_switch.is_killed else process.journal.calls
        )
    operator.cancel()
    await asyncio.wait([operator])
    await simulation.coordinator.aclose()
    return [
        *process.journal.calls,
        [(run.status, run.reports, run.reopened) for run in simulation.coordinator.runs.values()],
    ]


def _fault(rng: random.Random) -> Fault:
    return Fault(rng.choice(["none", "lost answer", "error", "refused connection"]), rng.random(), 0.1)


async def session_life(rng: random.Random) -> list[object]:
    world = session_world.World(
        asks=tuple(
            session_world.Ask(
                at_s,
                rng.choice(["start_session", "resume_session"]),
                rng.choice([None, 0.5, 5.0]),
                rng.choice([None, None, rng.uniform(0, 10)]),
            )
            for at_s in sorted(rng.uniform(0, 20) for _ in range(3))
        ),
        start_fails=rng.random() < 0.1,
        dies_at_s=rng.choice([None, rng.uniform(0, 20)]),
        exit_code=rng.randrange(2),
        stop_s=rng.choice([0.0, 1.0, 40.0]),
        signal="SIGTERM",
        idle_timeout_s=rng.choice([None, 2.0]),
        run_timeout_s=rng.choice([None, 2.0]),
        session_stop_at_s=rng.choice([None, rng.uniform(0, 20)]),
        close_at_s=rng.uniform(0, 30),
        faults=tuple(rng.choice(session_world.FAULTS) for _ in range(rng.randrange(6))),
    )
    record, stage = InstantRecord(), session_world.Stage(world)
    process = type("StagedProcess", (session_world.FakeProcess,), {"stage": stage})
    with (
        patch("fsm_runner.runtime.actors.session.PersistentProcess", process),
        patch.object(session_world, "InstantRecord", lambda: record),
    ):
        await session_world.live(world, stage)
    return [*record.steps, stage.taken, stage.acknowledged]


LifeOf = Callable[[random.Random], Coroutine[Any, Any, list[object]]]

LIFE_OF: dict[str, LifeOf] = {"run": runner_life, "runner": runner_life, "poller": runner_life, "session": session_life}
MODULES: dict[str, ModuleType] = {
    "run": runner_model, "runner": runner_model, "poller": runner_model, "session": session_world,
}  # fmt: skip


class Trace(NamedTuple):
    text: str
    names: frozenset[tuple[str, str]]
    """By machine, the states that were entered and the events that arrived."""


def trace(life: LifeOf, seed: int) -> Trace:
    rng = random.Random(seed)
    random.seed(seed)  # the waits between attempts
    steps: list[tuple[str, Step]] = []
    fire = Machine.fire

    def recording(self: Machine, model: Model, event: str, cause: Cause | None = None) -> Step:
        step = fire(self, model, event, cause)
        steps.append((self.spec.name, step))
        return step

    with patch.object(Machine, "fire", recording):
        seen = run_virtually(lambda: life(rng))
    names = {(machine, name) for machine, step in steps for name in (step.event, step.source, step.target)}
    return Trace(REAL_TIME.sub("", "\n".join(map(str, [*steps, *seen]))), frozenset(names))


@cache
def traces(life: LifeOf) -> dict[int, Trace]:
    return {seed: trace(life, seed) for seed in range(LIVES)}


@contextmanager
def running_on(spec: Spec) -> Iterator[None]:
    module = MODULES[spec.name]
    with ExitStack() as stack:
        for name, value in list(vars(module).items()):
            if isinstance(value, Machine) and value.spec.name == spec.name:
                stack.enter_context(patch.object(module, name, Machine(spec)))
        yield


def without(name: str, text: str) -> str:
    """The text with a mark in place of the name, old or new, also if it is written with spaces."""
    written = {name, name.replace("_", " "), new_name(name)}
    return re.sub("|".join(map(re.escape, sorted(written, key=len, reverse=True))), "¤", text)


@pytest.mark.parametrize(("machine", "name"), NAMES)
def test_a_machine_with_another_name_in_it_is_sound_and_does_the_same(machine: str, name: str) -> None:
    spec = renamed(machine, name)
    assert check(spec, ACTOR_INTERFACES[machine]) == ()
    life = LIFE_OF[machine]
    occurring = [seed for seed, seen in traces(life).items() if (machine, name) in seen.names]
    for seed in occurring[:COMPARED]:
        with running_on(spec):
            changed = trace(life, seed)
        assert (machine, new_name(name)) in changed.names
        assert without(name, changed.text) == without(name, traces(life)[seed].text)


@pytest.mark.parametrize("machine", SPECS)
def test_a_spec_with_another_word_than_its_actor_has_is_rejected_with_file_and_line(
    machine: str, tmp_path: Path
) -> None:
    text = (ROOT / "specs" / f"{machine}.toml").read_text()
    interface = ACTOR_INTERFACES[machine]
    for kind in ("activities", "guards", "settings", "events", "tags", "outcomes"):
        for word in getattr(interface, kind):
            changed = re.sub(rf"\b{word}\b", "other", text)
            file = tmp_path / "spec.toml"
            file.write_text(changed)
            defects = check_file(file, interface)
            assert (changed == text) == (defects == ()), word
            assert all(defect.file == str(file) and defect.line for defect in defects)


@pytest.mark.parametrize("machine", SPECS)
def test_each_state_occurs_in_the_lives(machine: str) -> None:
    entered = {name for seen in traces(LIFE_OF[machine]).values() for of, name in seen.names if of == machine}
    # Only a defect of the program leads to `broken`.
    assert SPECS[machine]["states"].keys() - entered <= {"broken", "checking_result"}


def nodes() -> Iterator[tuple[str, ast.AST]]:
    """Yield each syntax node of the program above the machines, with its file and line."""
    for folder in ("runtime", "app", "cli"):
        for path in sorted((ROOT / "fsm_runner" / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                yield f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 1)}", node


def test_no_name_of_a_state_or_of_its_own_events_is_in_the_code() -> None:
    free = {name for _, name in NAMES} - ALSO_MEANT_OTHERWISE.keys()
    for interface in ACTOR_INTERFACES.values():
        free -= {word for words in msgspec.structs.astuple(interface) for word in words}
    for words in map(get_args, vars(statuses).values()):
        free -= set(words)
    found = [place for place, node in nodes() if isinstance(node, ast.Constant) and node.value in free]
    assert found == []


def test_the_code_looks_for_the_tags_of_the_interfaces_and_no_others() -> None:
    looked_for = {
        node.args[-1].value
        for _, node in nodes()
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr.endswith("has_tag")
        and isinstance(node.args[-1], ast.Constant)
    }
    assert looked_for == {tag for interface in ACTOR_INTERFACES.values() for tag in interface.tags}
