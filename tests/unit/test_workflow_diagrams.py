"""Drawings of workflows, alone and in the machine of a run."""

import random
from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner

from fsm_runner.cli.machine import app
from fsm_runner.errors import FsmRunnerError, UsageError
from fsm_runner.machine.check import check
from fsm_runner.machine.groups import flatten
from fsm_runner.machine.render import FORMATS, render
from fsm_runner.machine.render.diagram import Tone, tone
from fsm_runner.machine.spec import Spec
from fsm_runner.machine.spec_file import read
from fsm_runner.workflow.definition import Workflow
from fsm_runner.workflow.expansion import expansion_of, labelled
from fsm_runner.workflow.file import load_workflow
from fsm_runner.workflow.nesting import nested
from tests.support.random_workflows import bounded_workflow

RUN = read(Path(__file__).parents[2] / "specs" / "run.toml").spec
ALLOWED = ("cannot be reached", "no final state", "no transitions with `main` lead here")
"""The generator does not care whether a state can be reached, and whether the workflow can be completed."""

FLOW = """\
name = "flow"
initial = "work"
budget = { max_wall_s = 600 }

[states.work]
turn = { prompt = "Work." }
on_done = [
    { when = "work.result == 'again'", to = "failed" },
    { to = "ask" },
]

[states.ask]
approval = { question = "Merge?" }
timeout_s = 3600
on_done = "completed"
on_denied = "failed"
"""


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "workflows").mkdir()
    (tmp_path / "workflows" / "flow.toml").write_text(FLOW)
    monkeypatch.setenv("FSM_RUNNER_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def drawn(*words: str) -> str:
    result = CliRunner().invoke(app, ["diagram", *words], catch_exceptions=False)
    assert result.exit_code == 0
    return result.stdout


@pytest.mark.parametrize("seed", range(20))
def test_a_workflow_in_a_run_is_a_sound_machine_with_all_its_transitions(seed: int) -> None:
    raw = bounded_workflow(random.Random(seed), guards=("params.a", "params.b"))
    workflow = labelled(expansion_of(msgspec.convert(raw, Workflow)))
    whole = nested(RUN, workflow)
    assert [str(it) for it in check(whole) if not any(words in it.message for words in ALLOWED)] == []

    def edges(spec: Spec) -> set[tuple[str, str, str, str | None]]:
        flat = flatten(spec)
        return {(name, it.event, it.to, it.guard) for it in flat.transitions for name in it.sources}

    def renamed(name: str) -> str:
        return f"{name} (random)" if name in {*RUN.states, *RUN.groups, *RUN.events} else name

    alone = {(renamed(a), renamed(event), renamed(b), guard) for a, event, b, guard in edges(workflow)}
    assert alone <= edges(whole)


def test_every_format_draws_a_workflow_alone_and_in_a_run() -> None:
    workflow = labelled(expansion_of(msgspec.convert(bounded_workflow(random.Random(1)), Workflow)))
    for form in FORMATS.keys() - {"svg", "png"}:  # these only lay out `dot`
        for spec in (workflow, nested(RUN, workflow)):
            assert b"s0" in render(spec, form)


def test_the_guard_of_a_branch_is_the_label(home: Path) -> None:
    for name in ("flow", "workflows/flow.toml", str(home / "workflows" / "flow.toml")):
        text = drawn(name, "-f", "tables")
        assert "| work | `done` | `work.result == 'again'` | failed |" in text
        assert "| any activity | ✗ `error` |  | failed |" in text


def test_a_workflow_is_known_by_its_content_elsewhere(home: Path) -> None:
    (home / "flow.toml").write_text(FLOW)
    assert drawn("flow.toml") == drawn("flow")


def test_the_shortest_way_to_completion_is_the_main_path() -> None:
    workflow = expansion_of(load_workflow("workflows/flow.toml").definition).spec
    assert [(it.source, it.to) for it in workflow.transitions if it.main] == [("work", "ask"), ("ask", "completed")]


def test_in_run_draws_the_run_around_the_workflow() -> None:
    text = drawn("flow", "--in-run")
    assert "state executing {" in text
    assert "preparing_workspace --> work: prepared" in text
    assert "executing --> work" not in text
    assert drawn("flow", "--in-run", "--brief").startswith("stateDiagram-v2\n")


def test_the_ends_of_the_workflow_keep_their_colours_in_the_run() -> None:
    whole = nested(RUN, labelled(expansion_of(load_workflow("workflows/flow.toml").definition)))
    assert [tone(whole.states[f"{name} (flow)"]) for name in ("completed", "failed")] == [Tone.GOOD, Tone.BAD]


def test_a_document_is_renewed_and_compared(home: Path) -> None:
    (home / "doc.md").write_text("<!-- machine: flow format: mermaid -->\n<!-- /machine -->\n")
    result = CliRunner().invoke(app, ["diagram", "flow", "--check", "doc.md"])
    assert result.exit_code == 1
    drawn("flow", "--output", "doc.md")
    drawn("flow", "--check", "doc.md")
    drawn("flow", "--in-run", "-f", "dot", "--output", "run.dot")
    drawn("flow", "--in-run", "-f", "dot", "--check", "run.dot")
    (home / "run.dot").write_text("digraph machine {\n}\n")
    result = CliRunner().invoke(app, ["diagram", "flow", "--in-run", "-f", "dot", "--check", "run.dot"])
    assert result.stdout.endswith("fsm-runner machine diagram flow --in-run --format dot --output run.dot\n")


def test_a_broken_workflow_is_not_drawn(home: Path) -> None:
    (home / "workflows" / "flow.toml").write_text(FLOW.replace('to = "ask"', 'to = "asks"'))
    result = CliRunner().invoke(app, ["diagram", "flow"])
    assert isinstance(result.exception, FsmRunnerError)
    assert 'workflows/flow.toml:9: states.work.on_done[1].to: "asks" is not a state' in str(result.exception)
    result = CliRunner().invoke(app, ["diagram", "run", "--in-run"])
    assert isinstance(result.exception, UsageError)
    assert str(result.exception) == "--in-run: run is not a workflow"
