"""The types of all names in a workflow."""

from collections.abc import Mapping
from functools import reduce
from typing import Any

from fsm_runner.workflow.check.fields import TEXT, fields_of
from fsm_runner.workflow.check.schema_types import type_of_schema
from fsm_runner.workflow.definition import Agent, JsonSchema, Parameter, ParameterType, State, Workflow
from fsm_runner.workflow.templates import Reference, TemplateError, parts_of
from fsm_runner.workflow.value_types import ANY, Kind, NameTypes, UnknownPath, ValueType, merged, type_at

_PARAMETER_KINDS: dict[ParameterType, Kind] = {
    "string": Kind.TEXT,
    "integer": Kind.INTEGER,
    "number": Kind.NUMBER,
    "boolean": Kind.BOOLEAN,
    "list": Kind.LIST,
    "object": Kind.OBJECT,
}
_LITERAL_KINDS = {bool: Kind.BOOLEAN, int: Kind.INTEGER, float: Kind.NUMBER}
RUN = ValueType(Kind.OBJECT, {"id": TEXT, "session_id": TEXT, "project_dir": TEXT})


def types_of(definition: Workflow, schemas: Mapping[str, JsonSchema]) -> NameTypes:
    """Return the types of all values, `params` and `run`. `schemas`: by name of the state, files resolved.

    If several states assign a value, its fields are those of all of them.
    """
    parameters = {
        name: ValueType(_PARAMETER_KINDS[it.type if isinstance(it, Parameter) else it])
        for name, it in definition.params.items()
    }
    names: dict[str, ValueType] = {"params": ValueType(Kind.OBJECT, parameters), "run": RUN}
    # The elements of `each` come from other values: those are first.
    states = sorted(
        definition.states.items(), key=lambda it: isinstance(it[1].agent, Agent) and it[1].agent.each is not None
    )
    for state_name, state in states:
        if state.activity is None:
            continue
        data = type_of_schema(schemas[state_name]) if state_name in schemas else ANY
        fields = fields_of(state, data, element_type(state, names))
        name = definition.value_of(state_name)
        if name not in ("params", "run"):  # no value can have these names
            known = names[name].fields if name in names else None
            names[name] = ValueType(Kind.OBJECT, _together(known or {}, fields))
    return names


def element_type(state: State, names: NameTypes) -> ValueType:
    """Return the type of `${item}` in a state."""
    each = state.agent.each if state.agent is not None else None
    return _type_of(each, names).element or ANY


def _type_of(value: Any, names: NameTypes) -> ValueType:
    """Return the type that a value from the file has when its templates are expanded."""
    if isinstance(value, str):
        return _type_of_template(value, names)
    if isinstance(value, dict):
        return ValueType(Kind.OBJECT, {name: _type_of(part, names) for name, part in value.items()})
    if isinstance(value, list):
        elements = [_type_of(part, names) for part in value]
        return ValueType(Kind.LIST, element=reduce(merged, elements) if elements else None)
    return ValueType(_LITERAL_KINDS.get(type(value), Kind.ANY))


def _type_of_template(template: str, names: NameTypes) -> ValueType:
    try:
        parts = parts_of(template)
        if len(parts) == 1 and isinstance(parts[0], Reference):
            return type_at(names, parts[0].path)
    except (TemplateError, UnknownPath):
        return ANY  # another rule reports it
    return TEXT


def _together(first: Mapping[str, ValueType], second: Mapping[str, ValueType]) -> dict[str, ValueType]:
    both = {name: merged(first[name], second[name]) for name in first if name in second}
    return {**first, **second, **both}
