"""Finds the workflow of a run, and builds its driver."""

from collections.abc import Callable, Mapping
from typing import cast

import msgspec

from fsm_runner.config.budgets import UsageLimits
from fsm_runner.errors import UsageError
from fsm_runner.executors.interface import Assignment, RunRefused
from fsm_runner.journal.records import WorkflowPosition, WorkflowRecord
from fsm_runner.protocol.json_text import decode_json, encode_json
from fsm_runner.protocol.json_tree import with_texts
from fsm_runner.protocol.wire import Agent, JsonObject, Run
from fsm_runner.reporting.session_channel import ReportingContext
from fsm_runner.runtime.actors.executions import Executions
from fsm_runner.runtime.actors.record import Record
from fsm_runner.runtime.control.budgets import RunBudget
from fsm_runner.runtime.control.silence import SilenceWatch
from fsm_runner.runtime.workflow.context import WorkflowContext
from fsm_runner.runtime.workflow.driver import WorkflowDriver, interruption_error
from fsm_runner.runtime.workflow.steps import Steps
from fsm_runner.runtime.workflow.turn import TurnChannel
from fsm_runner.runtime.workflow.usage import children_of
from fsm_runner.workflow.definition import Ending, Workflow
from fsm_runner.workflow.file import LoadedWorkflow, restore_workflow
from fsm_runner.workflow.interpreter import Interpreter, RunFacts, WorkflowFault
from fsm_runner.workflow.templates import has_references


class WorkflowChoice(msgspec.Struct, frozen=True, kw_only=True):
    """Which workflow a run follows."""

    load: Callable[[str], LoadedWorkflow]
    """Returns the workflow of this name in the runner's homes. Raises `UsageError`."""
    of_all: LoadedWorkflow | None = None
    """The workflow of every run that is not a child of another session (`fsm-runner run --workflow`)."""
    of_profile: str | None = None
    """That of every such run whose agent names none."""
    agents: Mapping[str, Agent] = {}
    """The runner's own agents by name. A deployed coordinator does not keep their `workflow`."""
    is_procedural: bool = False
    config_defect: Callable[[JsonObject], str | None] = lambda _: None
    """Returns why the executor cannot have keys of its configuration, beside those of the profile."""

    def of_run(self, run: Run) -> LoadedWorkflow | None:
        """Return the workflow of a run; None if it has none. Raises `RunRefused`."""
        is_child = run.parent_session_id is not None
        if self.of_all is not None and not is_child:
            return self._usable(self.of_all)
        own, named = self.agents.get(run.agent_name or ""), (run.resolved_agent_blueprint or {}).get("workflow")
        of_agent = named if named is not None else own and own.workflow
        name = self.of_profile if of_agent is None and not is_child else of_agent
        if name is None:
            return None
        if not isinstance(name, str):
            raise RunRefused("the run's agent cannot be used: workflow: expected the name of a workflow")
        try:
            workflow = self._usable(self.load(name))
        except UsageError as error:
            raise RunRefused(f"the run's workflow cannot be used: {error}") from error
        if of_agent is not None and (defect := recursion_defect(workflow.definition, run.agent_name)) is not None:
            raise RunRefused(f"{workflow.path}: {defect}")
        return workflow

    def _usable(self, workflow: LoadedWorkflow) -> LoadedWorkflow:
        if self.is_procedural and (defect := procedural_defect(workflow.definition)) is not None:
            raise RunRefused(f"{workflow.path}: {defect}")
        for name, state in workflow.definition.states.items():
            config = None if state.turn is None else state.turn.config
            if config is None or has_references(config):
                continue  # the turn checks it with its values
            if (defect := self.config_defect(config)) is not None:
                raise RunRefused(f"{workflow.path}: states.{name}.turn: {defect}")
        return workflow


def procedural_defect(workflow: Workflow) -> str | None:
    """Return why no run of a procedural agent can follow a workflow; None if it can."""
    for name, state in workflow.states.items():
        if state.turn is not None and (state.turn.config is not None or state.turn.session == "new"):
            return (
                f"states.{name}.turn: a procedural agent has no conversation and takes no configuration, so remove "
                "`session` and `config`"
            )
    return None


def recursion_defect(workflow: Workflow, agent: str | None) -> str | None:
    """Return why an agent cannot name a workflow, whose children would follow it again; None if it can."""
    for name, state in workflow.states.items():
        if state.agent is not None and state.agent.name is None:
            return (
                f"states.{name}.agent: the agent {agent!r} names this workflow, so a child of the same agent would "
                "follow it too: give `name`, or let the profile or --workflow name the workflow"
            )
    return None


class Workflows:
    """The workflows of one runner."""

    def __init__(self, choice: WorkflowChoice, context: WorkflowContext, reporting: ReportingContext, record: Record):
        self._choice = choice
        self._context = context
        self._reporting = reporting
        self._record = record
        self._holders: dict[str, str] = {}
        """The run by session whose workflow lasts."""

    def holder_of(self, session_id: str) -> str | None:
        """Return the run whose workflow has the session; None if there is none."""
        return self._holders.get(session_id)

    def release(self, run: Run) -> None:
        """Let other runs resume the session, because the workflow of this one has ended. May be repeated."""
        if self._holders.get(run.session_id) == run.run_id:
            del self._holders[run.session_id]

    def driver_of(
        self,
        assignment: Assignment,
        executions: Executions,
        budget: RunBudget,
        silence: SilenceWatch,
        may_bind: Callable[[], bool],
        recovered: WorkflowPosition | None,
        on_change: Callable[[bool], None],
    ) -> WorkflowDriver | None:
        """Return the driver of a run's workflow; None if the run has none. Raises `RunRefused`.

        `recovered`: where the workflow was in an earlier process of the runner.
        """
        run = assignment.run
        position = recovered or self._record.rerun_plan_of(run.run_id)
        try:
            if position is None:
                workflow = self._choice.of_run(run)
                if workflow is None:
                    return None
                record = self._record_of(workflow, run)
            else:
                record = position.record
                schemas: dict[str, JsonObject] = decode_json(record.schemas)
                workflow = restore_workflow(record.path, record.text, schemas)
            facts = RunFacts(id=run.run_id, session_id=run.session_id, project_dir=assignment.project_dir)
            interpreter = Interpreter(workflow, run.parameters, facts, self._clean)
        except UsageError as error:
            raise RunRefused(f"the run's workflow cannot be used: {error}") from error
        fault = None if position is None else _restore(interpreter, position)
        executions.channel = channel = TurnChannel(run.session_id, self._reporting, may_bind, executions)
        executions.holds_session = True
        self._holders.setdefault(run.session_id, run.run_id)
        executions.has_taken_prompt = position is not None and _has_taken_prompt(workflow, position)
        of_children = children_of(() if recovered is None else recovered.usages)
        limits = workflow.definition.budget
        budget.begin_workflow(
            UsageLimits(max_cost_usd=limits.max_cost_usd, max_tokens=limits.max_tokens, max_turns=limits.max_turns),
            of_children,
        )
        steps = Steps(
            assignment,
            self._context,
            executions,
            channel,
            budget,
            self._record,
            self._choice.config_defect,
            is_procedural=self._choice.is_procedural,
            earlier_children=sum(usage.children or 0 for usage in of_children),
        )
        return WorkflowDriver(
            interpreter, record, steps, self._record, silence, recovered, fault=fault, on_change=on_change
        )

    def _record_of(self, workflow: LoadedWorkflow, run: Run) -> WorkflowRecord:
        """Return what the journal keeps of the workflow, also after the run: no secret is in it."""
        return WorkflowRecord(
            name=workflow.definition.name,
            path=workflow.path,
            text=workflow.text,
            sha256=workflow.sha256,
            schemas=encode_json(workflow.schemas),
            parameters=encode_json(self._clean(run.parameters)),
            project_dir=run.project_dir,
            scope=None if run.scope is None else encode_json(self._clean(run.scope)),
        )

    def _clean(self, value: object) -> object:
        return with_texts(value, self._reporting.redactor.text, names=True)


def _restore(interpreter: Interpreter, position: WorkflowPosition) -> WorkflowFault | None:
    """Set the position. Return why no state follows the last visit; None if one does, or there is no such visit.

    The end of the last visit is followed again: that leads to the same state, with the same error.
    """
    values: dict[str, JsonObject] = {name: decode_json(value) for name, value in position.values.items()}
    last = position.last_ended
    state = position.state if last is None else last.state
    interpreter.restore(state or interpreter.workflow.definition.initial, position.counts, values)
    if last is None:
        return None
    try:
        if last.value_name is None:
            interpreter.interrupt(interruption_error(last.state))
        else:
            interpreter.end(cast(Ending, last.ending), values[last.value_name])
    except WorkflowFault as fault:
        return fault
    return None


def _has_taken_prompt(workflow: LoadedWorkflow, position: WorkflowPosition) -> bool:
    """Whether a turn has ended in this run, so that its session has a conversation."""
    turns = [name for name, state in workflow.definition.states.items() if state.turn is not None]
    is_in_turn = position.open is not None and position.open.state in turns
    return position.last_number > 0 and sum(position.counts.get(name, 0) for name in turns) > is_in_turn
