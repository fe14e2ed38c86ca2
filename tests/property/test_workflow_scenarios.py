"""Scenarios of any content are read or refused, and one that is read is carried out to an end."""

import random
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fsm_runner.workflow.definition import Workflow
from fsm_runner.workflow.expansion import expansion_of
from fsm_runner.workflow.file import LoadedWorkflow, WorkflowError
from fsm_runner.workflow.rehearsal import rehearse
from fsm_runner.workflow.scenarios import read_scenarios
from tests.property.test_workflow_machine import TREES, replaced, toml
from tests.support.random_workflows import bounded_workflow

SCHEMA = {"type": "object", "required": ["n"]}
RESULTS: dict[str, list[dict[str, Any]]] = {
    "turn": [{}, {"result": "x"}, {"error": "no"}, {"timeout": True}],
    "command": [{}, {"exit_code": 1}, {"stdout": "${x}", "stderr": ""}, {"error": "no"}],
    "agent": [{}, {"result": "x"}, {"error": "no"}, {"timeout": True}],
    "approval": [{}, {"approved": False, "by": "kim"}, {"timeout": True, "comment": "late"}],
    "wait": [{}, {"timeout": True}],
}


def loaded(raw: dict[str, Any]) -> LoadedWorkflow:
    definition = msgspec.convert(raw, Workflow)
    schemas = {name: SCHEMA for name, state in definition.states.items() if state.schema is not None}
    spec = expansion_of(definition).spec
    return LoadedWorkflow(definition=definition, path="w.toml", text="", sha256="", schemas=schemas, spec=spec)


def scripted(rng: random.Random, raw: dict[str, Any]) -> dict[str, Any]:
    """Return a scenario that matches the workflow; often, it has too few results."""
    results: dict[str, Any] = {}
    for name, state in raw["states"].items():
        kind = next((key for key in RESULTS if key in state), None)
        if kind is None or rng.random() < 0.1:
            continue
        needs = {"data": {"n": 1}} if "schema" in state else {}
        listed = [{**rng.choice(RESULTS[kind]), **needs} for _ in range(rng.randint(1, 4))]
        results[name] = listed if rng.random() < 0.5 else listed[0]
    return {"name": "s", "results": results, "expect": {"visits": {name: 1 for name in results if rng.random() < 0.3}}}


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scenarios") / "w.scenarios.toml"


@settings(deadline=None)
@given(st.integers(0, 2**32))
def test_a_scenario_that_matches_its_workflow_is_carried_out(file: Path, seed: int) -> None:
    rng = random.Random(seed)
    raw = bounded_workflow(rng)
    for state in raw["states"].values():
        if rng.random() < 0.3 and not {"approval", "wait"} & state.keys() and state.keys() & RESULTS.keys():
            state["schema"] = SCHEMA
    workflow = loaded(raw)
    file.write_text(f"scenarios = {toml([scripted(rng, raw)])}")
    (scenario,) = read_scenarios(file, workflow).scenarios
    rehearsal = rehearse(workflow, scenario)
    final = workflow.definition.all_states[rehearsal.path[-1]]
    if not final.final:
        (difference,) = rehearsal.differences
        assert "has no result for its visit" in difference.message
        name = difference.message.split('"')[1]
        assert name == rehearsal.path[-1]
        results = scenario.results.get(name, ())
        assert isinstance(results, tuple)
        assert f"visit {len(results) + 1}:" in difference.message


@settings(deadline=None)
@given(st.integers(0, 2**32), TREES)
@example(0, {"scenarios": [{"name": "x", "results": {"s0": [1]}}]})
def test_a_file_with_any_content_is_read_or_refused(file: Path, seed: int, part: Any) -> None:
    rng = random.Random(seed)
    raw = bounded_workflow(rng)
    workflow = loaded(raw)
    content = replaced(rng, {"scenarios": [scripted(rng, raw)]}, part)
    content = content if isinstance(content, dict) else {"scenarios": content}
    file.write_text("".join(f"{toml(str(key))} = {toml(it)}\n" for key, it in content.items()))
    try:
        scenarios = read_scenarios(file, workflow).scenarios
    except WorkflowError as error:
        assert all(defect.line is not None and defect.message for defect in error.defects)
        return
    for scenario in scenarios:
        assert rehearse(workflow, scenario).path
