"""Scenarios: what a workflow must do with scripted results (docs/workflows.md, "Scenarios")."""

from collections.abc import Iterator, Mapping
from pathlib import Path as FilePath
from typing import Annotated, Any, Literal

import msgspec

from fsm_runner.json_schema.check_program import BrokenSchemaError, errors_of, validator_of
from fsm_runner.machine.decoder import Problem, similar
from fsm_runner.machine.defects import Defect, Path, SpecError, place_of
from fsm_runner.machine.spec_file import parse_toml, read_text
from fsm_runner.machine.toml_lines import TomlLines
from fsm_runner.protocol.wire import JsonObject
from fsm_runner.util.text import quoted
from fsm_runner.workflow.check.fields import assigned, fields_of, has_data
from fsm_runner.workflow.definition import CONTINUE, REPEAT, Agent, Command, JsonSchema, State, Text
from fsm_runner.workflow.file import LoadedWorkflow, WorkflowError, decoded
from fsm_runner.workflow.value_types import Kind

SUFFIX = ".scenarios.toml"

_KINDS: dict[Kind, tuple[type, str]] = {
    Kind.TEXT: (str, "a text"),
    Kind.INTEGER: (int, "a whole number"),
    Kind.BOOLEAN: (bool, "true or false"),
    Kind.LIST: (list, "a list"),
}
_MADE = frozenset({"ok", "failed"})
"""Fields that follow from the others."""


class _Form(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    pass


class Expectation(_Form, frozen=True, kw_only=True):
    outcome: Literal["completed", "failed"] = "completed"
    visits: dict[str, Annotated[int, msgspec.Meta(ge=0)]] = {}
    """The number of visits of some states."""
    path: tuple[str, ...] | None = None
    """All states in their order, from the initial to the final one."""
    error: Text | None = None
    """A part of the run's error."""
    result: Any = msgspec.UNSET
    """The text of the run's result, or a table with `text`, `data` or both."""


class Scenario(_Form, frozen=True, kw_only=True):
    name: Text
    parameters: JsonObject = {}
    results: dict[str, dict[str, Any] | tuple[dict[str, Any], ...]] = {}
    """By name of the state: one table for each visit, or a single one for all."""
    expect: Expectation = Expectation()


class _Scenarios(_Form, frozen=True, kw_only=True):
    scenarios: Annotated[tuple[Scenario, ...], msgspec.Meta(min_length=1)]


class ScenarioFile(msgspec.Struct, frozen=True, kw_only=True):
    path: str
    workflow: LoadedWorkflow
    scenarios: tuple[Scenario, ...]
    lines: TomlLines


def scenarios_path(workflow: FilePath) -> FilePath:
    """Return where the scenarios of a workflow's file are."""
    return workflow.with_name(workflow.stem + SUFFIX)


def read_scenarios(path: FilePath, workflow: LoadedWorkflow) -> ScenarioFile:
    """Return the scenarios in a file. Raises `WorkflowError` with all defects."""
    try:
        text = read_text(path)
        raw = parse_toml(path, text)
    except SpecError as error:
        raise WorkflowError(error.defects) from error
    found, defects = decoded(raw, _Scenarios)
    scenarios = found.scenarios if found is not None else ()
    for index, scenario in enumerate(scenarios):
        defects += (Problem(("scenarios", index, *at), why) for at, why in _problems(scenario, workflow))
        if scenario.name in (it.name for it in scenarios[:index]):
            defects.append(Problem(("scenarios", index, "name"), "is the name of an earlier scenario"))
    lines = TomlLines(text)
    if defects:
        raise WorkflowError(Defect(str(path), lines.of(at), place_of(at), why) for at, why in defects)
    return ScenarioFile(path=str(path), workflow=workflow, scenarios=scenarios, lines=lines)


def results_of(scenario: Scenario, state: str, visits: int) -> JsonObject | None:
    """Return the scripted result of a visit, counted from 1; None if there is none."""
    results = scenario.results.get(state, ())
    if isinstance(results, dict):
        return results
    return results[visits - 1] if visits <= len(results) else None


def ending_of(state: State, result: JsonObject) -> str:
    """Return how a visit with this result ends. That of an agent with `each` may also end in `error`."""
    if result.get("interrupted"):
        return "interrupted"
    if result.get("timeout"):
        return "timeout" if state.approval is None else "denied"
    if state.approval is not None and not result.get("approved", True):
        return "denied"
    return "error" if result.get("error") or result.get("exit_code") else "done"


def _problems(scenario: Scenario, workflow: LoadedWorkflow) -> Iterator[Problem]:
    states = workflow.definition.states
    active = {name: state for name, state in states.items() if state.activity is not None}
    for name, results in scenario.results.items():
        if name not in active:
            yield Problem(("results", name), _no_activity(name, states, active))
            continue
        single = isinstance(results, dict)
        for index, result in enumerate((results,) if isinstance(results, dict) else results):
            at: Path = ("results", name) if single else ("results", name, index)
            for problem in _result_problems(active[name], workflow.schemas.get(name), result):
                yield Problem((*at, *problem.path), problem.message)
    for name in scenario.expect.visits:
        if name not in active:
            yield Problem(("expect", "visits", name), _no_activity(name, states, active))
    for index, name in enumerate(scenario.expect.path or ()):
        if name not in workflow.definition.all_states:
            message = f"{quoted(name)} is not a state{similar(name, workflow.definition.all_states)}"
            yield Problem(("expect", "path", index), message)
    expected = scenario.expect.result
    if isinstance(expected, dict) and (unknown := expected.keys() - {"text", "data"}):
        yield Problem(("expect", "result", min(unknown)), "unknown key; there are text, data")


def _no_activity(name: str, states: dict[str, State], active: dict[str, State]) -> str:
    if name in states:
        return f"the state {quoted(name)} has no activity, so it has no visits and no results: leave it out"
    return f"{quoted(name)} is not a state{similar(name, active) or '; states with an activity: ' + ', '.join(active)}"


def _result_problems(state: State, schema: JsonSchema | None, result: JsonObject) -> Iterator[Problem]:
    forms = {name: _KINDS.get(it.kind) for name, it in fields_of(state).items() if name not in _MADE}
    forms |= {"timeout": _KINDS[Kind.BOOLEAN], "interrupted": _KINDS[Kind.BOOLEAN]}
    if state.approval is not None:
        forms["approved"] = _KINDS[Kind.BOOLEAN]
    yield from _form_problems(forms, result, schema)
    if result.get("interrupted") and state.on_interrupted in (REPEAT, CONTINUE):
        yield Problem(
            ("interrupted",), f"the state has `on_interrupted = {quoted(state.on_interrupted)}`: leave this out"
        )
    if isinstance(state.activity, Command) and result.get("error") and result.get("exit_code") == 0:
        yield Problem(("exit_code",), "contradicts `error`: leave one of them out")
    if isinstance(state.activity, Agent) and isinstance(items := result.get("items"), list):
        for index, item in enumerate(items):
            for problem in _item_problems(state, schema, item):
                yield Problem(("items", index, *problem.path), problem.message)
    elif has_data(state) and "data" in assigned(state, ending_of(state, result)):
        yield from _data_problems(schema, result)


def _form_problems(
    forms: Mapping[str, tuple[type, str] | None], result: JsonObject, schema: JsonSchema | None
) -> Iterator[Problem]:
    """Yield the unknown keys, and the values that do not have the type of their field."""
    for key, value in result.items():
        if key not in forms:
            message = f"unknown key{similar(key, forms) or '; there are ' + ', '.join(forms)}"
            if key == "data" and schema is None:
                message = "the state has no `schema`, so its value has no data: add one to the workflow"
            yield Problem((key,), message)
        elif (form := forms[key]) is not None and type(value) is not form[0]:
            yield Problem((key,), f"must be {form[1]}")


def _item_problems(state: State, schema: JsonSchema | None, item: Any) -> Iterator[Problem]:
    if not isinstance(item, dict):
        yield Problem((), "must be a table")
        return
    element = fields_of(state)["items"].element
    fields = element.fields or {} if element is not None else {}
    known = {name: _KINDS.get(it.kind) for name, it in fields.items() if name not in ("item", "ok")}
    yield from _form_problems(known, item, schema)
    if not item.get("error"):
        yield from _data_problems(schema, item)


def _data_problems(schema: JsonSchema | None, result: JsonObject) -> Iterator[Problem]:
    """Yield why the data does not match the schema, which the check has accepted."""
    if schema is None:
        return
    if "data" not in result:
        yield Problem((), "needs `data`, because the state has a schema and succeeds")
        return
    try:
        errors = errors_of(validator_of(schema), result["data"])
    except BrokenSchemaError as defect:
        yield Problem(("data",), f"cannot be compared with the schema of the state, which is broken: {defect}")
        return
    for error in errors:
        message = f"does not match the schema of the state: {error['path']}: {error['message']}"
        yield Problem(("data",), f"{message}; for a mismatch, script an `error` instead")
