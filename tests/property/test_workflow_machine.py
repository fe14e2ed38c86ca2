"""Workflows that are executed with random results reach one final state within their bounds, and files of any content
are read or refused."""

import random
import tomllib
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from fsm_runner.errors import UsageError
from fsm_runner.machine.check import check
from fsm_runner.machine.engine import Step
from fsm_runner.workflow.definition import Workflow
from fsm_runner.workflow.expansion import INTERRUPTED, expansion_of, labelled
from fsm_runner.workflow.file import LoadedWorkflow, WorkflowError, load_workflow, read_workflow
from fsm_runner.workflow.interpreter import Interpreter, RunFacts, WorkflowFault
from tests.support.random_workflows import ACTIVITIES, bounded_workflow

SEEDS = st.integers(0, 2**32)


def loaded(raw: dict[str, Any]) -> LoadedWorkflow:
    definition = msgspec.convert(raw, Workflow)
    return LoadedWorkflow(
        definition=definition, path="w.toml", text="", sha256="", schemas={}, spec=expansion_of(definition).spec
    )


@settings(deadline=None)
@given(SEEDS)
def test_random_results_lead_to_one_final_state_within_the_bounds(seed: int) -> None:
    rng = random.Random(seed)
    workflow = loaded(bounded_workflow(rng))
    states = workflow.definition.states
    interpreter = Interpreter(workflow, {}, RunFacts("r", "s", "/"))
    taken: list[Step] = interpreter.enter()
    at = workflow.definition.initial
    visits = 0
    while not interpreter.is_final:
        visits += 1
        assert interpreter.visits.total() == visits <= sum(state.max_visits or 0 for state in states.values())
        state = interpreter.definition
        assert interpreter.arguments() == state.activity
        endings = ["done", "error", "denied" if state.approval is not None else "timeout", INTERRUPTED]
        ending: Any = rng.choice(endings)
        if ending == INTERRUPTED:
            steps = interpreter.interrupt("gone")
        else:
            is_ok = ending == "done"
            steps = interpreter.end(ending, {"ok": is_ok, "error": "" if is_ok else ending})
        assert steps[0].event == ending
        taken += steps
        if rng.random() < 0.2 and not interpreter.is_final:
            # Another process continues: the journal has the visits so far, without the one that begins now.
            before = interpreter.visits - type(interpreter.visits)([interpreter.state])
            again = Interpreter(workflow, {}, RunFacts("r", "s", "/"))
            again.restore(interpreter.state, before, interpreter.values)
            assert again.enter() == []
            assert (again.state, again.visits) == (interpreter.state, interpreter.visits)
            interpreter = again
    for step in taken:
        assert step.source == at
        assert step.taken
        at = step.target
    assert at == interpreter.state
    assert interpreter.outcome in ("completed", "failed")
    assert bool(interpreter.error) == (interpreter.outcome == "failed")
    for name, state in states.items():
        assert interpreter.visits[name] <= (state.max_visits or 0)


@settings(deadline=None)
@given(SEEDS)
def test_the_machine_of_a_sound_workflow_is_sound(seed: int) -> None:
    raw = bounded_workflow(random.Random(seed), guards=("params.a", "params.b", "params.c"))
    expansion = expansion_of(msgspec.convert(raw, Workflow))
    # The generator does not care whether a state can be reached.
    allowed = ("cannot be reached", "no final state")
    assert [str(it) for it in check(expansion.spec) if not any(words in it.message for words in allowed)] == []
    assert len(expansion.places) == len(expansion.spec.transitions)
    for place, transition in zip(expansion.places, expansion.spec.transitions, strict=True):
        found: Any = raw
        for key in place:
            found = found[key]
        assert transition.to == ("failed" if len(place) < 3 else found)
    assert {it.guard for it in labelled(expansion).transitions} <= {None, "params.a", "params.b", "params.c"}


SCALARS = st.one_of(
    st.booleans(), st.integers(-(2**70), 2**70), st.floats(), st.datetimes(), st.times(), st.text(max_size=5)
)
KEYS = st.sampled_from(
    ["name", "initial", "params", "budget", "result", "states", "on_done", "schema", "when", "to", "final", "run"]
)
TREES = st.recursive(
    st.one_of(SCALARS, st.sampled_from(["work", "completed", "string", "${a", "${work.data}", "gone.json"])),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.one_of(KEYS, st.text(max_size=3)), inner, max_size=4)
    ),
    max_leaves=12,
)


def toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{toml(str(key))} = {toml(part)}" for key, part in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return '"' + "".join(f"\\U{ord(char):08x}" for char in value) + '"'
    return value.isoformat() if hasattr(value, "isoformat") else str(value)


def replaced(rng: random.Random, value: Any, new: Any) -> Any:
    """Return a copy of a tree with one random part of it replaced."""
    if not isinstance(value, dict | list) or not value or rng.random() < 0.2:
        return new
    copy = value.copy()
    key = rng.choice(list(copy) if isinstance(copy, dict) else range(len(copy)))
    copy[key] = replaced(rng, copy[key], new)
    return copy


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return tmp_path_factory.mktemp("workflows")


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(SEEDS, TREES)
@example(0, {"states": {"a": {"schema": "/etc/passwd"}}})
def test_a_file_with_any_content_is_read_or_refused(folder: Any, seed: int, part: Any) -> None:
    rng = random.Random(seed)
    raw = replaced(rng, bounded_workflow(rng, guards=("params.a",)), part)
    text = "".join(f"{toml(str(key))} = {toml(it)}\n" for key, it in raw.items()) if isinstance(raw, dict) else str(raw)
    (folder / "w.toml").write_text(text)
    try:
        file = read_workflow(folder / "w.toml")
    except WorkflowError as error:
        assert error.defects
        with pytest.raises(tomllib.TOMLDecodeError):
            tomllib.loads(text)
        return
    assert (file.definition is None) <= bool(file.defects)
    assert all(defect.line is not None for defect in file.defects)
    if file.definition is not None:
        check(expansion_of(file.definition).spec)
        msgspec.json.encode(file.definition)
    try:
        workflow = load_workflow(folder / "w.toml")
        Interpreter(workflow, {}, RunFacts("r", "s", "/")).enter()
    except (UsageError, WorkflowFault) as error:
        assert str(error)


@given(st.binary(max_size=200))
def test_bytes_are_read_or_refused(folder: Any, content: bytes) -> None:
    (folder / "b.toml").write_bytes(content)
    try:
        file = read_workflow(folder / "b.toml")
    except WorkflowError as error:
        assert error.defects
    else:
        assert file.definition is None


def test_the_generator_writes_every_activity() -> None:
    seen = {key for seed in range(50) for it in bounded_workflow(random.Random(seed))["states"].values() for key in it}
    assert seen >= {*ACTIVITIES, "on_interrupted", "on_exhausted", "assigns"}
