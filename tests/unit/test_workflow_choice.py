"""Which workflow a run follows."""

from typing import Any

import pytest

from fsm_runner.errors import UsageError
from fsm_runner.executors.interface import RunRefused
from fsm_runner.protocol.wire import Agent, Run
from fsm_runner.runtime.workflow.workflows import WorkflowChoice
from fsm_runner.workflow.file import LoadedWorkflow, restore_workflow

FLOW = 'name = "{name}"\ninitial = "a"\n[states.a]\n{activity}\non_done = "completed"\n'
CHILD_OF_RUN = 'agent = { parameters = { prompt = "x" } }\ntimeout_s = 1'


def flow(name: str, activity: str = "turn = {}") -> LoadedWorkflow:
    return restore_workflow(f"{name}.toml", FLOW.format(name=name, activity=activity), {})


def load(name: str) -> LoadedWorkflow:
    if name == "missing":
        raise UsageError("Workflow not found: 'missing'")
    return flow(name, CHILD_OF_RUN if name == "starts-children" else "turn = {}")


def followed(choice: WorkflowChoice, **run_fields: Any) -> str | None:
    workflow = choice.of_run(Run(**{"run_id": "run_1", "session_id": "ses_1", **run_fields}))
    return None if workflow is None else workflow.definition.name


def agents(workflow: str | None) -> dict[str, Agent]:
    return {"worker": Agent(name="worker", workflow=workflow)}


def test_that_of_the_command_line_counts_before_that_of_the_agent_and_of_the_profile() -> None:
    names: dict[str, Any] = {"load": load, "of_profile": "profile", "agents": agents("agent")}
    assert followed(WorkflowChoice(of_all=flow("all"), **names), agent_name="worker") == "all"
    assert followed(WorkflowChoice(**names), agent_name="worker") == "agent"
    assert followed(WorkflowChoice(**names), resolved_agent_blueprint={"workflow": "blueprint"}) == "blueprint"
    assert followed(WorkflowChoice(**names)) == "profile"
    assert followed(WorkflowChoice(load=load)) is None


@pytest.mark.parametrize("choice", [{"of_all": flow("all")}, {"of_profile": "profile"}])
def test_a_child_follows_only_the_workflow_of_its_agent(choice: dict[str, Any]) -> None:
    child = {"agent_name": "worker", "parent_session_id": "ses_parent"}
    assert followed(WorkflowChoice(load=load, agents=agents(None), **choice), **child) is None
    assert followed(WorkflowChoice(load=load, agents=agents("agent"), **choice), **child) == "agent"


def test_an_agent_cannot_name_a_workflow_that_starts_the_same_agent_again() -> None:
    with pytest.raises(RunRefused, match=r"starts-children\.toml: states\.a\.agent: the agent 'worker' names"):
        followed(WorkflowChoice(load=load, agents=agents("starts-children")), agent_name="worker")
    assert followed(WorkflowChoice(load=load, of_profile="starts-children")) == "starts-children"


@pytest.mark.parametrize("blueprint", [{"workflow": 3}, {"workflow": "missing"}])
def test_a_workflow_that_cannot_be_used_refuses_the_run(blueprint: dict[str, Any]) -> None:
    with pytest.raises(RunRefused):
        followed(WorkflowChoice(load=load), resolved_agent_blueprint=blueprint)


def test_a_procedural_agent_has_no_conversations() -> None:
    choice = WorkflowChoice(load=load, of_all=flow("all", 'turn = { session = "new" }'), is_procedural=True)
    with pytest.raises(RunRefused, match="has no conversation"):
        followed(choice)
