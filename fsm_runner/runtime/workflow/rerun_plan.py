"""What a run that repeats another one from a state on begins with: the workflow, the values, the parameters."""

import msgspec

from fsm_runner.errors import UsageError
from fsm_runner.journal.reader import Reader, RunLife, WorkflowLife
from fsm_runner.journal.records import WorkflowRecord
from fsm_runner.machine.defects import in_order
from fsm_runner.machine.toml_lines import TomlLines
from fsm_runner.protocol.json_text import decode_json, encode_json
from fsm_runner.protocol.wire import JsonObject
from fsm_runner.util.text import quoted
from fsm_runner.workflow.definition import JsonSchema
from fsm_runner.workflow.file import LoadedWorkflow, WorkflowError, WorkflowFile, restore_workflow
from fsm_runner.workflow.interpreter import Interpreter, RunFacts


class Replacement(msgspec.Struct, frozen=True, kw_only=True):
    """A workflow to follow instead of that of the run."""

    path: str
    text: str
    schemas: dict[str, JsonSchema]


class RerunPlan(msgspec.Struct, frozen=True, kw_only=True):
    workflow: WorkflowRecord
    agent: str | None
    parameters: JsonObject
    scope: JsonObject | None


def plan_of(reader: Reader, run_id: str, state: str, replacement: Replacement | None) -> RerunPlan | None:
    """Return how to repeat a run from a state on; None if the journal does not have the run.

    The values are those from before the last visit of the state, or all if the run has not been there. Raises
    `UsageError` if the run has no workflow or has not ended, if the workflow has no such state, if the parameters or
    the values do not suffice for it, or if the journal is damaged.
    """
    try:
        return _plan_of(reader, run_id, state, replacement)
    except msgspec.MsgspecError as error:
        raise UsageError(
            f"the record of {run_id} in the journal is damaged, so it cannot be repeated: {error}"
        ) from error


def _plan_of(reader: Reader, run_id: str, state: str, replacement: Replacement | None) -> RerunPlan | None:
    lives = reader.run(run_id)
    if not lives:
        return None
    life, workflow = _ended(lives[0]), _workflow_of(reader, run_id)
    old = workflow.record
    parameters: JsonObject = decode_json(old.parameters)
    loaded = _loaded(old, replacement)
    # This checks the parameters.
    Interpreter(loaded, parameters, RunFacts(id=run_id, session_id=life.session_id, project_dir=""))
    _check_state(loaded, state)
    values = _values_before(reader, run_id, old, state)
    _check_values(loaded, state, values)
    return RerunPlan(
        workflow=msgspec.structs.replace(
            old,
            name=loaded.definition.name,
            path=loaded.path,
            text=loaded.text,
            sha256=loaded.sha256,
            schemas=encode_json(loaded.schemas),
            rerun_of=run_id,
            rerun_from=state,
            initial_values=encode_json({name: msgspec.Raw(value) for name, value in values.items()}),
        ),
        agent=life.agent,
        parameters=parameters,
        scope=None if old.scope is None else decode_json(old.scope),
    )


def _ended(life: RunLife) -> RunLife:
    if life.ended_at is None and life.report_path is None:  # nothing changes after the report
        raise UsageError(f"{life.run_id} has not ended: stop it first (`fsm-runner stop {life.run_id}`)")
    return life


def _workflow_of(reader: Reader, run_id: str) -> WorkflowLife:
    found = reader.workflow_of(run_id)
    if not found:
        raise UsageError(f"{run_id} followed no workflow, so it has no state from which it could be repeated")
    return found[0]


def _loaded(old: WorkflowRecord, replacement: Replacement | None) -> LoadedWorkflow:
    if replacement is not None:
        # Imported only here: a runner that repeats no run needs no memory for the check.
        from fsm_runner.workflow.check import check

        workflow = restore_workflow(replacement.path, replacement.text, replacement.schemas)
        if defects := check(_file_of(workflow)):
            raise WorkflowError(defects)
        return workflow
    return restore_workflow(old.path, old.text, decode_json(old.schemas))


def _file_of(workflow: LoadedWorkflow) -> WorkflowFile:
    return WorkflowFile(
        path=workflow.path,
        text=workflow.text,
        definition=workflow.definition,
        schemas=workflow.schemas,
        lines=TomlLines(workflow.text),
    )


def _check_state(workflow: LoadedWorkflow, name: str) -> None:
    states = workflow.definition.states
    if name in states and not states[name].final:
        return
    why = "is final" if name in workflow.definition.all_states else "does not exist"
    choice = ", ".join(each for each, state in states.items() if not state.final) or "none"
    raise UsageError(f"{workflow.path}: the state {quoted(name)} {why}; --from can name one of: {choice}")


def _check_values(workflow: LoadedWorkflow, start: str, values: dict[str, bytes]) -> None:
    from fsm_runner.workflow.check import missing_values

    fields = {name: msgspec.json.decode(value, type=dict[str, msgspec.Raw]) for name, value in values.items()}
    given = {(name, field) for name, content in fields.items() for field in content}
    problems = missing_values(workflow.definition, workflow.schemas, start, given)
    if problems:
        file = _file_of(workflow)
        defects = "\n".join(map(str, in_order(file.defect(*problem) for problem in problems)))
        raise UsageError(
            f"{defects}\nthe run did not have all values that the workflow needs from {quoted(start)} on: begin with "
            "an earlier state, or correct the workflow (--workflow)"
        )


def _values_before(reader: Reader, run_id: str, record: WorkflowRecord, state: str) -> dict[str, bytes]:
    """Return the values before the last visit of a state, as JSON by name; the latest ones if there was no visit."""
    visits = [visit.number for visit in reader.visits_of(run_id) if visit.state == state]
    return reader.values_of_workflow(run_id, record, before=visits[-1] if visits else None)
